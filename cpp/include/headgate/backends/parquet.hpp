// The Parquet table file, on Apache Arrow C++. The only place that includes an Arrow header is its source.
#pragma once

#include <memory>

#include "headgate/checkpoint/checkpoint.hpp"

namespace headgate::backends {

// On the machine's own files, or on those given.
std::shared_ptr<checkpoint::TableFile> make_parquet_table(std::shared_ptr<FileSystem> files = nullptr);
checkpoint::Unpack make_unpacker();  // gzip and zstd, by Arrow's codecs

}  // namespace headgate::backends
