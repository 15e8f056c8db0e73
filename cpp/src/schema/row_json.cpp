#include <nlohmann/json.hpp>

#include "headgate/base/text.hpp"
#include "headgate/json/canonical.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::schema {
namespace {

std::string as_json(std::string_view text) {
    return nlohmann::json(text).dump();
}

std::string list_at(const Column& column, std::size_t row) {
    std::string out = "[";
    for (auto item = column.offsets[row]; item < column.offsets[row + 1]; ++item) {
        const auto begin = column.item_offsets[item];
        out += out.size() == 1 ? "" : ",";
        out += as_json(std::string_view(column.bytes).substr(begin, column.item_offsets[item + 1] - begin));
    }
    return out + "]";
}

std::string value_at(const Column& column, std::size_t row) {
    if (column.valid[row] == 0) {
        return "null";
    }
    switch (column.type) {
        case Type::boolean:
            return column.numbers[row] != 0 ? "true" : "false";
        case Type::timestamp:
            return '"' + format_timestamp(column.numbers[row]) + '"';
        case Type::int32:
        case Type::int64:
            return std::to_string(column.numbers[row]);
        case Type::float64: {
            std::string out;
            json::append_number(out, column.reals[row]);
            return out;
        }
        case Type::string_list:
            return list_at(column, row);
        default:
            return as_json(column.text(row));
    }
}

}  // namespace

std::string row_as_json(const Schema& schema, const Columns& columns, std::size_t row) {
    std::string out = "{";
    for (std::size_t i = 0; i < schema.fields.size(); ++i) {
        out += i == 0 ? "" : ",";
        out += as_json(schema.fields[i].name) + ":" + value_at(columns.columns[i], row);
    }
    return out + "}";
}

}  // namespace headgate::schema
