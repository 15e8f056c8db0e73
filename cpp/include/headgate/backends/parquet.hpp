// Parquet files for checkpoints, on Apache Arrow C++. This header names no type of Arrow's C++ library; only the
// sources of this backend include its headers.
#pragma once

#include <cstdint>
#include <memory>

#include "headgate/checkpoint/checkpoint.hpp"
#include "headgate/checkpoint/grouping.hpp"

// Of Arrow's C data interface, through which rows may come from another copy of the Arrow library.
struct ArrowArrayStream;

namespace headgate::backends {

constexpr std::int64_t kRowGroupRows = 128 * 1024;

// Reads and writes the table of a checkpoint. `files` is the file system to use; null is the machine's own. A row group
// has `group_rows` rows, or fewer if the rows are large.
std::shared_ptr<checkpoint::TableFile> make_parquet_table(std::shared_ptr<FileSystem> files = nullptr,
                                                          std::int64_t group_rows = kRowGroupRows);
// Decompresses gzip and zstd with Arrow's codecs.
checkpoint::Unpack make_unpacker();

struct Counted {
    checkpoint::Grouping groups;
    std::vector<std::int64_t> counts;  // one for each group
};

// Counts the rows of each combination of values. Columns have the type utf8, a dictionary of utf8, or int64; another
// type is invalid_input. The stream is consumed and released, also if this fails.
Result<Counted> count_groups(ArrowArrayStream& rows, const Interrupt& interrupt);

// Groups the rows by all columns but the last, and returns for each group the number of the row whose last column is
// the largest. The numbers are in ascending order. The stream is consumed and released, also if this fails.
Result<std::vector<std::int64_t>> newest_rows(ArrowArrayStream& rows, const Interrupt& interrupt);

}  // namespace headgate::backends
