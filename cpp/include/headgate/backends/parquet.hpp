// The Parquet table file, on Apache Arrow C++. The only place that includes an Arrow header is its source.
#pragma once

#include <cstdint>
#include <memory>

#include "headgate/checkpoint/checkpoint.hpp"

namespace headgate::backends {

constexpr std::int64_t kRowGroupRows = 128 * 1024;

// On the machine's own files, or on those given. Row groups have that many rows, or fewer when rows are large.
std::shared_ptr<checkpoint::TableFile> make_parquet_table(std::shared_ptr<FileSystem> files = nullptr,
                                                          std::int64_t group_rows = kRowGroupRows);
checkpoint::Unpack make_unpacker();  // gzip and zstd, by Arrow's codecs

}  // namespace headgate::backends
