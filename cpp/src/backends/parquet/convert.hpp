// Columns as Arrow has them, and back.
#pragma once

#include <arrow/api.h>

#include <memory>
#include <string>

#include "headgate/schema/schema.hpp"

namespace headgate::backends {

// What Arrow says, with `what` before it; `otherwise` when it is neither a full disk nor a refusal.
Status from_arrow(const arrow::Status& status, const std::string& what, ErrorCode otherwise);
// malloc: what Arrow brings keeps pages for each of its threads, tens of MiB where a file of two needs them.
arrow::MemoryPool* memory_pool();
std::shared_ptr<arrow::DataType> arrow_type(schema::Type type);
std::shared_ptr<arrow::Schema> arrow_schema(const schema::Schema& schema);
// The column as an Arrow array. Numbers and text are not copied: the array lives no longer than `column`.
arrow::Result<std::shared_ptr<arrow::Array>> to_arrow(const schema::Column& column);
void append_array(const arrow::Array& array, schema::Column& column);

}  // namespace headgate::backends
