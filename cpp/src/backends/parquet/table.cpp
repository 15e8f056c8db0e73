#include <arrow/api.h>
#include <arrow/io/api.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>
#include <parquet/exception.h>
#include <sys/stat.h>

#include <cerrno>

#include "headgate/backends/parquet.hpp"
#include "headgate/base/file.hpp"

namespace headgate::backends {
namespace {

using schema::Column;
using schema::Columns;
using schema::Schema;
using schema::Type;

constexpr std::int64_t kRowGroup = 128 * 1024;  // small enough that a time filter skips most of a large file

Status from_arrow(const arrow::Status& status, const std::string& what, ErrorCode otherwise) {
    if (status.ok()) {
        return {};
    }
    const auto text = status.ToString();
    // Arrow keeps errno in the detail only; its text is what all its versions have in common.
    if (text.find("No space left") != std::string::npos) {
        return {ErrorCode::disk_full, what + ": no space left on device"};
    }
    if (text.find("Permission denied") != std::string::npos) {
        return {ErrorCode::permission_denied, what + ": permission denied"};
    }
    return {otherwise, what + ": " + text};
}

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

std::shared_ptr<arrow::Schema> arrow_schema(const Schema& schema) {
    arrow::FieldVector fields;
    for (const auto& field : schema.fields) {
        fields.push_back(arrow::field(field.name, arrow_type(field.type)));
    }
    return arrow::schema(fields);
}

template <class Builder, class Append>
arrow::Result<std::shared_ptr<arrow::Array>> build(Builder& builder, const Column& column, std::size_t begin,
                                                   std::size_t end, Append append) {
    ARROW_RETURN_NOT_OK(builder.Reserve(static_cast<std::int64_t>(end - begin)));
    for (auto row = begin; row < end; ++row) {
        ARROW_RETURN_NOT_OK(column.valid[row] != 0 ? append(row) : builder.AppendNull());
    }
    return builder.Finish();
}

arrow::Result<std::shared_ptr<arrow::Array>> to_arrow(const Column& column, std::size_t begin, std::size_t end) {
    const auto& numbers = column.numbers;
    switch (column.type) {
        case Type::int32: {
            arrow::Int32Builder b;
            return build(b, column, begin, end,
                         [&](std::size_t r) { return b.Append(static_cast<std::int32_t>(numbers[r])); });
        }
        case Type::int64: {
            arrow::Int64Builder b;
            return build(b, column, begin, end, [&](std::size_t r) { return b.Append(numbers[r]); });
        }
        case Type::timestamp: {
            arrow::TimestampBuilder b(arrow_type(Type::timestamp), arrow::default_memory_pool());
            return build(b, column, begin, end, [&](std::size_t r) { return b.Append(numbers[r]); });
        }
        case Type::boolean: {
            arrow::BooleanBuilder b;
            return build(b, column, begin, end, [&](std::size_t r) { return b.Append(numbers[r] != 0); });
        }
        case Type::float64: {
            arrow::DoubleBuilder b;
            return build(b, column, begin, end, [&](std::size_t r) { return b.Append(column.reals[r]); });
        }
        case Type::string_list: {
            auto items = std::make_shared<arrow::StringBuilder>();
            arrow::ListBuilder b(arrow::default_memory_pool(), items);
            return build(b, column, begin, end, [&](std::size_t r) -> arrow::Status {
                ARROW_RETURN_NOT_OK(b.Append());
                for (auto i = column.offsets[r]; i < column.offsets[r + 1]; ++i) {
                    const auto from = column.item_offsets[i];
                    ARROW_RETURN_NOT_OK(
                        items->Append(std::string_view(column.bytes).substr(from, column.item_offsets[i + 1] - from)));
                }
                return arrow::Status::OK();
            });
        }
        default: {
            arrow::StringBuilder b;
            return build(b, column, begin, end, [&](std::size_t r) { return b.Append(column.text(r)); });
        }
    }
}

void append_array(const arrow::Array& array, Column& column) {
    for (std::int64_t row = 0; row < array.length(); ++row) {
        if (array.IsNull(row)) {
            column.append_null();
            continue;
        }
        column.valid.push_back(1);
        switch (column.type) {
            case Type::int32:
                column.numbers.push_back(static_cast<const arrow::Int32Array&>(array).Value(row));
                break;
            case Type::int64:
                column.numbers.push_back(static_cast<const arrow::Int64Array&>(array).Value(row));
                break;
            case Type::timestamp:
                column.numbers.push_back(static_cast<const arrow::TimestampArray&>(array).Value(row));
                break;
            case Type::boolean:
                column.numbers.push_back(static_cast<const arrow::BooleanArray&>(array).Value(row) ? 1 : 0);
                break;
            case Type::float64:
                column.reals.push_back(static_cast<const arrow::DoubleArray&>(array).Value(row));
                break;
            case Type::string_list: {
                const auto& list = static_cast<const arrow::ListArray&>(array);
                const auto& items = static_cast<const arrow::StringArray&>(*list.values());
                for (auto i = list.value_offset(row); i < list.value_offset(row + 1); ++i) {
                    column.bytes.append(items.GetView(i));
                    column.item_offsets.push_back(column.bytes.size());
                }
                column.offsets.push_back(column.item_offsets.size() - 1);
                break;
            }
            default:
                column.bytes.append(static_cast<const arrow::StringArray&>(array).GetView(row));
                column.offsets.push_back(column.bytes.size());
        }
    }
}

class ParquetTable final : public checkpoint::TableFile {
public:
    Result<std::map<std::string, std::string>> metadata(const std::string& path) const override {
        HG_ASSIGN(auto reader, open(path));
        std::map<std::string, std::string> out;
        if (const auto stored = reader->parquet_reader()->metadata()->key_value_metadata()) {
            for (std::int64_t i = 0; i < stored->size(); ++i) {
                out[stored->key(i)] = stored->value(i);
            }
        }
        return out;
    }

    Result<Columns> read(const std::string& path, const Schema& schema) const override {
        HG_ASSIGN(auto reader, open(path));
        const auto fail = [&](const arrow::Status& status) {
            return from_arrow(status, "cannot read " + path, ErrorCode::corrupt_data);
        };
        auto out = Columns::like(schema);
        auto batches = reader->GetRecordBatchReader();
        if (!batches.ok()) {
            return fail(batches.status());
        }
        if (!(*batches)->schema()->Equals(*arrow_schema(schema), false)) {
            return Status(ErrorCode::corrupt_data, path + " does not have the columns of schema '" + schema.name + "'");
        }
        while (true) {
            auto batch = (*batches)->Next();
            if (!batch.ok()) {
                return fail(batch.status());
            }
            if (*batch == nullptr) {
                return out;
            }
            for (int c = 0; c < (*batch)->num_columns(); ++c) {
                append_array(*(*batch)->column(c), out.columns[static_cast<std::size_t>(c)]);
            }
            out.rows += static_cast<std::size_t>((*batch)->num_rows());
        }
    }

    Status write(const std::string& path, const Schema& schema, const Columns& columns,
                 const std::map<std::string, std::string>& metadata) const override {
        const auto status = write_arrow(path, schema, columns, metadata);
        HG_RETURN_IF_ERROR(from_arrow(status, "cannot write " + path, ErrorCode::io_error));
        return sync_file(path);
    }

private:
    static Result<std::unique_ptr<parquet::arrow::FileReader>> open(const std::string& path) {
        // Only a definite "no such file" may look like a first run; Arrow's open error does not tell them apart.
        struct stat info {};
        if (::stat(path.c_str(), &info) != 0) {
            return status_from_errno(errno, "cannot open " + path);
        }
        auto file = arrow::io::ReadableFile::Open(path);
        if (!file.ok()) {
            return from_arrow(file.status(), "cannot open " + path, ErrorCode::io_error);
        }
        try {
            auto reader = parquet::arrow::OpenFile(*file, arrow::default_memory_pool());
            if (!reader.ok()) {
                return Status(ErrorCode::corrupt_data,
                              path + " is not a readable Parquet file: " + reader.status().message());
            }
            return std::move(*reader);
        } catch (const parquet::ParquetException& error) {
            return Status(ErrorCode::corrupt_data, path + " is not a readable Parquet file: " + error.what());
        }
    }

    static arrow::Status write_arrow(const std::string& path, const Schema& schema, const Columns& columns,
                                     const std::map<std::string, std::string>& metadata) {
        ARROW_ASSIGN_OR_RAISE(auto file, arrow::io::FileOutputStream::Open(path));
        const auto properties = parquet::WriterProperties::Builder().compression(parquet::Compression::SNAPPY)->build();
        const auto arrow_properties = parquet::ArrowWriterProperties::Builder().store_schema()->build();
        const auto type = arrow_schema(schema);
        try {
            ARROW_ASSIGN_OR_RAISE(auto writer, parquet::arrow::FileWriter::Open(*type, arrow::default_memory_pool(),
                                                                                file, properties, arrow_properties));
            for (std::size_t begin = 0; begin < columns.rows; begin += kRowGroup) {
                const auto end = std::min(columns.rows, begin + static_cast<std::size_t>(kRowGroup));
                arrow::ArrayVector arrays;
                for (const auto& column : columns.columns) {
                    ARROW_ASSIGN_OR_RAISE(auto array, to_arrow(column, begin, end));
                    arrays.push_back(std::move(array));
                }
                const auto rows = static_cast<std::int64_t>(end - begin);
                ARROW_RETURN_NOT_OK(writer->WriteTable(*arrow::Table::Make(type, arrays, rows), rows));
            }
            auto stored = std::make_shared<arrow::KeyValueMetadata>();
            for (const auto& [key, value] : metadata) {
                stored->Append(key, value);
            }
            ARROW_RETURN_NOT_OK(writer->AddKeyValueMetadata(stored));
            ARROW_RETURN_NOT_OK(writer->Close());
        } catch (const parquet::ParquetException& error) {
            return arrow::Status::IOError(error.what());
        }
        return file->Close();
    }
};

}  // namespace

std::shared_ptr<checkpoint::TableFile> make_parquet_table() {
    return std::make_shared<ParquetTable>();
}

}  // namespace headgate::backends
