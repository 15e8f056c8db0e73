// Any bytes as the plan of a schema: refused, or it judges names and records.
#include <cstdint>

#include "headgate/schema/schema.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace headgate::schema;
    const auto schema = Schema::parse({reinterpret_cast<const char*>(data), size});
    if (!schema.ok()) {
        return 0;
    }
    for (const auto* name : {"a/e-20240115.json.gz", "x.jsonl", ""}) {
        static_cast<void>(schema.value()->accepts_name(name));
        static_cast<void>(schema.value()->shown_name(name));
        static_cast<void>(schema.value()->day_of_name(name));
    }
    RecordReader reader(schema.value());
    auto columns = Columns::like(*schema.value());
    for (const auto* record : {R"({"a":1,"b":"xy","c":"2024-01-15T10:00:00Z","d":["e"],"e":{"f":[1.5e3]}})", "{}"}) {
        static_cast<void>(reader.read(record, &columns));
    }
    for (std::size_t row = 0; row < columns.rows; ++row) {
        static_cast<void>(row_as_json(*schema.value(), columns, row));
    }
    return 0;
}
