// Converts columns to Arrow's arrays and back, and Arrow's errors to Status.
#pragma once

#include <arrow/api.h>

#include <memory>
#include <string>

#include "headgate/schema/schema.hpp"

namespace headgate::backends {

// Makes a Status of Arrow's error, whose message begins with `what`. The code is disk_full, permission_denied, or
// `otherwise`.
Status from_arrow(const arrow::Status& status, const std::string& what, ErrorCode otherwise);
// Uses malloc. The allocators that come with Arrow keep memory for each of its threads: tens of MiB for a file of two
// MiB.
arrow::MemoryPool* memory_pool();
std::shared_ptr<arrow::DataType> arrow_type(schema::Type type);
std::shared_ptr<arrow::Schema> arrow_schema(const schema::Schema& schema);
// Makes an Arrow array of a column. Numbers and text are not copied, so the array must not be used after `column` is
// destroyed.
arrow::Result<std::shared_ptr<arrow::Array>> to_arrow(const schema::Column& column);
void append_array(const arrow::Array& array, schema::Column& column);

}  // namespace headgate::backends
