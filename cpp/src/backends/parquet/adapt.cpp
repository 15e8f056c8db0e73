#include "adapt.hpp"

#include <array>
#include <utility>

#include "convert.hpp"

namespace headgate::backends {
namespace {

constexpr std::int64_t kMostExact = 1LL << 53;  // every integer up to this one has an equal float64

// Returns the schema's type that is stored as this Arrow type, or nothing.
std::optional<schema::Type> type_of(const arrow::DataType& type) {
    using schema::Type;
    static constexpr std::array<Type, 7> kStored = {Type::string,  Type::int32,     Type::int64,      Type::float64,
                                                    Type::boolean, Type::timestamp, Type::string_list};
    for (const auto candidate : kStored) {
        if (arrow_type(candidate)->Equals(type)) {
            return candidate;
        }
    }
    return std::nullopt;
}

template <class Builder, class From>
arrow::Result<std::shared_ptr<arrow::Array>> converted(const From& values) {
    Builder out(memory_pool());
    ARROW_RETURN_NOT_OK(out.Reserve(values.length()));
    for (std::int64_t row = 0; row < values.length(); ++row) {
        if (values.IsNull(row)) {
            out.UnsafeAppendNull();
            continue;
        }
        const std::int64_t value = values.Value(row);
        if (std::is_same_v<Builder, arrow::DoubleBuilder> && (value > kMostExact || value < -kMostExact)) {
            return arrow::Status::Invalid("the value ", value, " has no equal float64");
        }
        out.UnsafeAppend(static_cast<typename Builder::value_type>(value));
    }
    return out.Finish();
}

arrow::Result<std::shared_ptr<arrow::Array>> widened(const arrow::Array& array, const arrow::DataType& to) {
    if (array.type_id() == arrow::Type::INT32 && to.id() == arrow::Type::INT64) {
        return converted<arrow::Int64Builder>(static_cast<const arrow::Int32Array&>(array));
    }
    return array.type_id() == arrow::Type::INT32
               ? converted<arrow::DoubleBuilder>(static_cast<const arrow::Int32Array&>(array))
               : converted<arrow::DoubleBuilder>(static_cast<const arrow::Int64Array&>(array));
}

bool fits(const arrow::DataType& from, const arrow::DataType& to) {
    const auto known_from = type_of(from);
    const auto known_to = type_of(to);
    return from.Equals(to) || (known_from && known_to && schema::is_wider(*known_from, *known_to));
}

}  // namespace

checkpoint::StoredTable stored_columns(const arrow::Schema& found) {
    checkpoint::StoredTable out;
    for (const auto& field : found.fields()) {
        const auto type = type_of(*field->type());
        out.columns.push_back(
            {field->name(), type, type ? std::string(schema::type_name(*type)) : field->type()->ToString()});
    }
    return out;
}

arrow::Result<Adapter> Adapter::make(const arrow::Schema& from, std::shared_ptr<arrow::Schema> to) {
    Adapter out;
    for (const auto& field : to->fields()) {
        const auto at = from.GetFieldIndex(field->name());
        if (at >= 0 && !fits(*from.field(at)->type(), *field->type())) {
            return arrow::Status::TypeError("column '", field->name(), "' is ", from.field(at)->type()->ToString());
        }
        out.sources_.push_back(at);
    }
    for (const auto& field : from.fields()) {
        if (to->GetFieldIndex(field->name()) < 0) {
            return arrow::Status::TypeError("column '", field->name(), "' is not in the schema");
        }
    }
    out.to_ = std::move(to);
    return out;
}

arrow::Result<std::shared_ptr<arrow::RecordBatch>> Adapter::adapt(const arrow::RecordBatch& batch) const {
    arrow::ArrayVector columns;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
        const auto& field = to_->field(static_cast<int>(i));
        if (sources_[i] < 0) {
            ARROW_ASSIGN_OR_RAISE(auto nulls, arrow::MakeArrayOfNull(field->type(), batch.num_rows(), memory_pool()));
            columns.push_back(std::move(nulls));
            continue;
        }
        const auto& column = batch.column(sources_[i]);
        if (column->type()->Equals(*field->type())) {
            columns.push_back(column);
            continue;
        }
        auto wide = widened(*column, *field->type());
        if (!wide.ok()) {
            return wide.status().WithMessage("column '", field->name(), "': ", wide.status().message());
        }
        columns.push_back(std::move(*wide));
    }
    return arrow::RecordBatch::Make(to_, batch.num_rows(), std::move(columns));
}

}  // namespace headgate::backends
