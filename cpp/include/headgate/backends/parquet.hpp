// The Parquet table file, on Apache Arrow C++. The only place that includes an Arrow header is its source.
#pragma once

#include <cstdint>
#include <memory>

#include "headgate/checkpoint/checkpoint.hpp"
#include "headgate/checkpoint/grouping.hpp"

struct ArrowArrayStream;  // Arrow's C data interface: the rows may come from another copy of Arrow

namespace headgate::backends {

constexpr std::int64_t kRowGroupRows = 128 * 1024;

// On the machine's own files, or on those given. Row groups have that many rows, or fewer when rows are large.
std::shared_ptr<checkpoint::TableFile> make_parquet_table(std::shared_ptr<FileSystem> files = nullptr,
                                                          std::int64_t group_rows = kRowGroupRows);
checkpoint::Unpack make_unpacker();  // gzip and zstd, by Arrow's codecs

struct Counted {
    checkpoint::Grouping groups;
    std::vector<std::int64_t> counts;  // one for each group
};

// How many rows have each combination of values. Columns are utf8, dictionaries of it, or int64. The stream is taken
// over, also when this fails.
Result<Counted> count_groups(ArrowArrayStream& rows, const Interrupt& interrupt);

// The row of each combination of the columns before the last whose last column is the largest (checkpoint::Newest), in
// the order of the rows.
Result<std::vector<std::int64_t>> newest_rows(ArrowArrayStream& rows, const Interrupt& interrupt);

}  // namespace headgate::backends
