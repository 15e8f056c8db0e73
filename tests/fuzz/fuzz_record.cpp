// Any bytes as a record: problems, or one row whose columns fit together.
#include <cstdint>
#include <cstdlib>

#include "headgate/schema/schema.hpp"

namespace {

constexpr const char* kPlan = R"({"format": 1, "name": "t", "extra": "ignore", "fields": [
  {"name": "a", "type": "int32", "digits": true, "nullable": true, "required": false},
  {"name": "b", "type": "string", "blanks": "trim", "pattern": "^[a-z]{1,3}$", "nullable": true, "required": false},
  {"name": "c", "type": "timestamp", "nullable": true, "required": false},
  {"name": "d", "type": "string_list", "required": false, "default": []},
  {"name": "e", "type": "json", "nullable": true, "required": false}]})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const auto schema = headgate::schema::Schema::parse(kPlan).value();
    static headgate::schema::RecordReader reader(schema);
    auto columns = headgate::schema::Columns::like(*schema);
    const auto& problems = reader.read({reinterpret_cast<const char*>(data), size}, &columns);
    if (columns.rows != (problems.empty() ? 1U : 0U)) {
        std::abort();
    }
    for (const auto& column : columns.columns) {
        if (column.rows() != columns.rows) {
            std::abort();
        }
    }
    return 0;
}
