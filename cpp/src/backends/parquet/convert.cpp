#include "convert.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace headgate::backends {
namespace {

using schema::Column;
using schema::Schema;
using schema::Type;

std::shared_ptr<arrow::Buffer> wrap(const void* data, std::size_t bytes) {
    return std::make_shared<arrow::Buffer>(static_cast<const std::uint8_t*>(data), static_cast<std::int64_t>(bytes));
}

template <class T>
std::shared_ptr<arrow::Buffer> wrap(const std::vector<T>& values) {
    return wrap(values.data(), values.size() * sizeof(T));
}

// Makes a bitmap with one bit for each row; null if every row has a value.
arrow::Result<std::shared_ptr<arrow::Buffer>> validity(const std::vector<std::uint8_t>& valid, std::int64_t& nulls) {
    nulls = std::count(valid.begin(), valid.end(), std::uint8_t{0});
    if (nulls == 0) {
        return std::shared_ptr<arrow::Buffer>();
    }
    ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> bits,
                          arrow::AllocateEmptyBitmap(static_cast<std::int64_t>(valid.size()), memory_pool()));
    for (std::size_t i = 0; i < valid.size(); ++i) {
        if (valid[i] != 0) {
            bits->mutable_data()[i / 8] |= static_cast<std::uint8_t>(1U << (i % 8));
        }
    }
    return bits;
}

template <class To, class From>
arrow::Result<std::shared_ptr<arrow::Buffer>> converted(const std::vector<From>& values) {
    ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> out,
                          arrow::AllocateBuffer(static_cast<std::int64_t>(values.size() * sizeof(To)), memory_pool()));
    auto* to = reinterpret_cast<To*>(out->mutable_data());
    for (std::size_t i = 0; i < values.size(); ++i) {
        to[i] = static_cast<To>(values[i]);
    }
    return out;
}

template <class ArrayType>
void append_values(const arrow::Array& array, std::vector<std::int64_t>& to) {
    const auto& values = static_cast<const ArrayType&>(array);
    if constexpr (std::is_same_v<ArrayType, arrow::BooleanArray>) {
        for (std::int64_t row = 0; row < array.length(); ++row) {
            to.push_back(!array.IsNull(row) && values.Value(row) ? 1 : 0);
        }
    } else {
        to.insert(to.end(), values.raw_values(), values.raw_values() + array.length());
        if (array.null_count() != 0) {
            const auto first = to.size() - static_cast<std::size_t>(array.length());
            for (std::int64_t row = 0; row < array.length(); ++row) {
                if (array.IsNull(row)) {
                    // The value under a null is undefined in Arrow.
                    to[first + static_cast<std::size_t>(row)] =
                        std::is_same_v<ArrayType, arrow::TimestampArray> ? schema::kNoTime : 0;
                }
            }
        }
    }
}

void append_text(const arrow::Array& array, std::string& bytes, std::vector<schema::Offset>& offsets) {
    const auto& text = static_cast<const arrow::StringArray&>(array);
    const auto first = text.value_offset(0);
    const auto shift = static_cast<std::int64_t>(bytes.size()) - first;
    const auto size = static_cast<std::size_t>(text.value_offset(text.length()) - first);
    if (size > 0) {
        bytes.append(reinterpret_cast<const char*>(text.raw_data()) + first, size);
    }
    for (std::int64_t row = 1; row <= text.length(); ++row) {
        offsets.push_back(static_cast<schema::Offset>(text.value_offset(row) + shift));
    }
}

}  // namespace

std::shared_ptr<arrow::DataType> arrow_type(Type type) {
    switch (type) {
        case Type::int32:
            return arrow::int32();
        case Type::int64:
            return arrow::int64();
        case Type::float64:
            return arrow::float64();
        case Type::boolean:
            return arrow::boolean();
        case Type::timestamp:
            return arrow::timestamp(arrow::TimeUnit::MICRO, "UTC");
        case Type::string_list:
            return arrow::list(arrow::utf8());
        default:
            return arrow::utf8();
    }
}

Status from_arrow(const arrow::Status& status, const std::string& what, ErrorCode otherwise) {
    if (status.ok()) {
        return {};
    }
    const auto text = status.ToString();
    // Arrow keeps errno in a detail of its own type. The text of the error is the same in all versions of Arrow.
    if (text.find("No space left") != std::string::npos) {
        return {ErrorCode::disk_full, what + ": no space left on device"};
    }
    if (text.find("Permission denied") != std::string::npos) {
        return {ErrorCode::permission_denied, what + ": permission denied"};
    }
    return {otherwise, what + ": " + text};
}

arrow::MemoryPool* memory_pool() {
    return arrow::system_memory_pool();
}

std::shared_ptr<arrow::Schema> arrow_schema(const Schema& schema) {
    arrow::FieldVector fields;
    for (const auto& field : schema.fields) {
        fields.push_back(arrow::field(field.name, arrow_type(field.type)));
    }
    return arrow::schema(fields);
}

arrow::Result<std::shared_ptr<arrow::Array>> to_arrow(const Column& column) {
    const auto rows = static_cast<std::int64_t>(column.rows());
    const auto type = arrow_type(column.type);
    std::int64_t nulls = 0;
    ARROW_ASSIGN_OR_RAISE(auto bits, validity(column.valid, nulls));
    const auto make = [&](std::vector<std::shared_ptr<arrow::Buffer>> buffers) {
        return arrow::MakeArray(arrow::ArrayData::Make(type, rows, std::move(buffers), nulls));
    };
    switch (column.type) {
        case Type::int32: {
            ARROW_ASSIGN_OR_RAISE(auto values, converted<std::int32_t>(column.numbers));
            return make({bits, values});
        }
        case Type::int64:
        case Type::timestamp:
            return make({bits, wrap(column.numbers)});
        case Type::float64:
            return make({bits, wrap(column.reals)});
        case Type::boolean: {
            std::vector<std::uint8_t> set(column.numbers.begin(), column.numbers.end());
            std::int64_t unset = 0;
            ARROW_ASSIGN_OR_RAISE(auto values, validity(set, unset));
            if (!values) {
                ARROW_ASSIGN_OR_RAISE(values, arrow::AllocateEmptyBitmap(rows, memory_pool()));
                std::memset(values->mutable_data(), 0xFF, static_cast<std::size_t>(values->size()));
            }
            return make({bits, values});
        }
        case Type::string_list: {
            const auto offsets = wrap(column.offsets);
            const auto item_offsets = wrap(column.item_offsets);
            auto items = arrow::ArrayData::Make(
                arrow::utf8(), static_cast<std::int64_t>(column.item_offsets.size()) - 1,
                {std::shared_ptr<arrow::Buffer>(), item_offsets, wrap(column.bytes.data(), column.bytes.size())}, 0);
            return arrow::MakeArray(arrow::ArrayData::Make(type, rows, {bits, offsets}, {items}, nulls));
        }
        default: {
            return make({bits, wrap(column.offsets), wrap(column.bytes.data(), column.bytes.size())});
        }
    }
}

void append_array(const arrow::Array& array, Column& column) {
    if (array.length() == 0) {
        return;
    }
    if (array.null_count() == 0) {
        column.valid.insert(column.valid.end(), static_cast<std::size_t>(array.length()), 1);
    } else {
        for (std::int64_t row = 0; row < array.length(); ++row) {
            column.valid.push_back(array.IsNull(row) ? 0 : 1);
        }
    }
    switch (column.type) {
        case Type::int32:
            append_values<arrow::Int32Array>(array, column.numbers);
            break;
        case Type::int64:
            append_values<arrow::Int64Array>(array, column.numbers);
            break;
        case Type::timestamp:
            append_values<arrow::TimestampArray>(array, column.numbers);
            break;
        case Type::boolean:
            append_values<arrow::BooleanArray>(array, column.numbers);
            break;
        case Type::float64: {
            const auto& values = static_cast<const arrow::DoubleArray&>(array);
            for (std::int64_t row = 0; row < array.length(); ++row) {
                column.reals.push_back(array.IsNull(row) ? 0 : values.Value(row));
            }
            break;
        }
        case Type::string_list: {
            const auto& list = static_cast<const arrow::ListArray&>(array);
            const auto first = list.value_offset(0);
            const auto shift = static_cast<std::int64_t>(column.item_offsets.size()) - 1 - first;
            if (const auto items = list.values()->Slice(first, list.value_offset(list.length()) - first);
                items->length() > 0) {
                append_text(*items, column.bytes, column.item_offsets);
            }
            for (std::int64_t row = 1; row <= list.length(); ++row) {
                column.offsets.push_back(static_cast<schema::Offset>(list.value_offset(row) + shift));
            }
            break;
        }
        default:
            append_text(array, column.bytes, column.offsets);
    }
}

}  // namespace headgate::backends
