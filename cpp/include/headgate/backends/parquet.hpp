// The Parquet table file, on Apache Arrow C++. The only place that includes an Arrow header is its source.
#pragma once

#include <memory>

#include "headgate/checkpoint/checkpoint.hpp"

namespace headgate::backends {

std::shared_ptr<checkpoint::TableFile> make_parquet_table();
checkpoint::Unpack make_unpacker();  // gzip and zstd, by Arrow's codecs

}  // namespace headgate::backends
