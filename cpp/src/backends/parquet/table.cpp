#include <arrow/api.h>
#include <arrow/io/api.h>
#include <arrow/util/compression.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>
#include <parquet/exception.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>

#include "headgate/backends/parquet.hpp"
#include "headgate/base/file.hpp"

namespace headgate::backends {
namespace {

using schema::Column;
using schema::Columns;
using schema::Schema;
using schema::Type;

constexpr std::int64_t kBatchRows = 32 * 1024;  // what is read at a time

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

std::shared_ptr<arrow::Buffer> wrap(const void* data, std::size_t bytes) {
    return std::make_shared<arrow::Buffer>(static_cast<const std::uint8_t*>(data), static_cast<std::int64_t>(bytes));
}

// A bit per row; nothing when every row has a value.
arrow::Result<std::shared_ptr<arrow::Buffer>> validity(const std::vector<std::uint8_t>& valid, std::int64_t& nulls) {
    nulls = std::count(valid.begin(), valid.end(), std::uint8_t{0});
    if (nulls == 0) {
        return std::shared_ptr<arrow::Buffer>();
    }
    ARROW_ASSIGN_OR_RAISE(std::shared_ptr<arrow::Buffer> bits,
                          arrow::AllocateEmptyBitmap(static_cast<std::int64_t>(valid.size())));
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
                          arrow::AllocateBuffer(static_cast<std::int64_t>(values.size() * sizeof(To))));
    auto* to = reinterpret_cast<To*>(out->mutable_data());
    for (std::size_t i = 0; i < values.size(); ++i) {
        to[i] = static_cast<To>(values[i]);
    }
    return out;
}

// The column as an Arrow array. Numbers and text are not copied: the array lives no longer than `column`.
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
            return make({bits, wrap(column.numbers.data(), column.numbers.size() * sizeof(std::int64_t))});
        case Type::float64:
            return make({bits, wrap(column.reals.data(), column.reals.size() * sizeof(double))});
        case Type::boolean: {
            std::vector<std::uint8_t> set(column.numbers.begin(), column.numbers.end());
            std::int64_t unset = 0;
            ARROW_ASSIGN_OR_RAISE(auto values, validity(set, unset));
            if (!values) {
                ARROW_ASSIGN_OR_RAISE(values, arrow::AllocateEmptyBitmap(rows));
                std::memset(values->mutable_data(), 0xFF, static_cast<std::size_t>(values->size()));
            }
            return make({bits, values});
        }
        case Type::string_list: {
            ARROW_ASSIGN_OR_RAISE(auto offsets, converted<std::int32_t>(column.offsets));
            ARROW_ASSIGN_OR_RAISE(auto item_offsets, converted<std::int32_t>(column.item_offsets));
            auto items = arrow::ArrayData::Make(
                arrow::utf8(), static_cast<std::int64_t>(column.item_offsets.size()) - 1,
                {std::shared_ptr<arrow::Buffer>(), item_offsets, wrap(column.bytes.data(), column.bytes.size())}, 0);
            return arrow::MakeArray(arrow::ArrayData::Make(type, rows, {bits, offsets}, {items}, nulls));
        }
        default: {
            ARROW_ASSIGN_OR_RAISE(auto offsets, converted<std::int32_t>(column.offsets));
            return make({bits, offsets, wrap(column.bytes.data(), column.bytes.size())});
        }
    }
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
                    to[first + static_cast<std::size_t>(row)] = 0;  // Arrow leaves anything there
                }
            }
        }
    }
}

void append_text(const arrow::Array& array, std::string& bytes, std::vector<std::uint64_t>& offsets) {
    const auto& text = static_cast<const arrow::StringArray&>(array);
    const auto first = text.value_offset(0);
    const auto shift = static_cast<std::int64_t>(bytes.size()) - first;
    const auto size = static_cast<std::size_t>(text.value_offset(text.length()) - first);
    if (size > 0) {
        bytes.append(reinterpret_cast<const char*>(text.raw_data()) + first, size);
    }
    for (std::int64_t row = 1; row <= text.length(); ++row) {
        offsets.push_back(static_cast<std::uint64_t>(text.value_offset(row) + shift));
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
                column.offsets.push_back(static_cast<std::uint64_t>(list.value_offset(row) + shift));
            }
            break;
        }
        default:
            append_text(array, column.bytes, column.offsets);
    }
}

using OpenFile = std::unique_ptr<parquet::arrow::FileReader>;

Result<OpenFile> open_file(const std::string& path) {
    // Only a definite "no such file" may look like a first run; Arrow's open error does not tell them apart.
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) {
        return status_from_errno(errno, "cannot open " + path);
    }
    auto file = arrow::io::ReadableFile::Open(path);
    if (!file.ok()) {
        return from_arrow(file.status(), "cannot open " + path, ErrorCode::io_error);
    }
    const auto unreadable = [&](const std::string& why) {
        return Status(ErrorCode::corrupt_data, path + " is not a readable Parquet file: " + why);
    };
    try {
        parquet::arrow::FileReaderBuilder builder;
        if (const auto status = builder.Open(*file); !status.ok()) {
            return unreadable(status.message());
        }
        parquet::ArrowReaderProperties properties(true);
        properties.set_batch_size(kBatchRows);
        properties.set_pre_buffer(false);
        auto reader = builder.properties(properties)->Build();
        if (!reader.ok()) {
            return unreadable(reader.status().message());
        }
        return std::move(*reader);
    } catch (const parquet::ParquetException& error) {
        return unreadable(error.what());
    }
}

class ParquetReader final : public checkpoint::TableReader {
public:
    ParquetReader(std::string path, OpenFile file, std::unique_ptr<arrow::RecordBatchReader> batches, Columns empty)
        : path_(std::move(path)), file_(std::move(file)), batches_(std::move(batches)), empty_(std::move(empty)) {}

    Result<bool> next(Columns& out) override {
        if (out.columns.size() != empty_.columns.size()) {
            out = empty_;
        }
        out.clear();
        try {
            const auto batch = batches_->Next();
            if (!batch.ok()) {
                return from_arrow(batch.status(), "cannot read " + path_, ErrorCode::corrupt_data);
            }
            if (*batch == nullptr) {
                return false;
            }
            for (int c = 0; c < (*batch)->num_columns(); ++c) {
                append_array(*(*batch)->column(c), out.columns[static_cast<std::size_t>(c)]);
            }
            out.rows = static_cast<std::size_t>((*batch)->num_rows());
        } catch (const parquet::ParquetException& error) {
            return Status(ErrorCode::corrupt_data, "cannot read " + path_ + ": " + error.what());
        }
        return true;
    }

private:
    std::string path_;
    OpenFile file_;
    std::unique_ptr<arrow::RecordBatchReader> batches_;
    Columns empty_;
};

class ParquetWriter final : public checkpoint::TableWriter {
public:
    static arrow::Result<std::unique_ptr<ParquetWriter>> create(const std::string& path, const Schema& schema) {
        auto out = std::make_unique<ParquetWriter>();
        out->path_ = path;
        out->type_ = arrow_schema(schema);
        ARROW_ASSIGN_OR_RAISE(out->file_, arrow::io::FileOutputStream::Open(path));
        auto properties = parquet::WriterProperties::Builder();
        properties.compression(parquet::Compression::SNAPPY);
        if (const auto sort = schema.index_of(schema.sort_by); sort != SIZE_MAX) {
            properties.set_sorting_columns({{static_cast<std::int32_t>(sort), false, false}});
        }
        const auto arrow_properties =
            parquet::ArrowWriterProperties::Builder().store_schema()->set_use_threads(true)->build();
        ARROW_ASSIGN_OR_RAISE(out->writer_,
                              parquet::arrow::FileWriter::Open(*out->type_, arrow::default_memory_pool(), out->file_,
                                                               properties.build(), arrow_properties));
        return out;
    }

    Status append(const Columns& columns) override {
        return guarded([&]() -> arrow::Status {
            arrow::ArrayVector arrays;
            for (const auto& column : columns.columns) {
                ARROW_ASSIGN_OR_RAISE(auto array, to_arrow(column));
                arrays.push_back(std::move(array));
            }
            const auto rows = static_cast<std::int64_t>(columns.rows);
            ARROW_RETURN_NOT_OK(writer_->NewBufferedRowGroup());
            return writer_->WriteRecordBatch(*arrow::RecordBatch::Make(type_, rows, std::move(arrays)));
        });
    }

    Status finish(const checkpoint::Metadata& metadata) override {
        HG_RETURN_IF_ERROR(guarded([&]() -> arrow::Status {
            auto stored = std::make_shared<arrow::KeyValueMetadata>();
            for (const auto& [key, value] : metadata) {
                stored->Append(key, value);
            }
            ARROW_RETURN_NOT_OK(writer_->AddKeyValueMetadata(stored));
            ARROW_RETURN_NOT_OK(writer_->Close());
            return file_->Close();
        }));
        return sync_file(path_);
    }

private:
    template <class Call>
    Status guarded(Call call) {
        try {
            return from_arrow(call(), "cannot write " + path_, ErrorCode::io_error);
        } catch (const parquet::ParquetException& error) {
            return from_arrow(arrow::Status::IOError(error.what()), "cannot write " + path_, ErrorCode::io_error);
        }
    }

    std::string path_;
    std::shared_ptr<arrow::Schema> type_;
    std::shared_ptr<arrow::io::FileOutputStream> file_;
    std::unique_ptr<parquet::arrow::FileWriter> writer_;
};

class ParquetTable final : public checkpoint::TableFile {
public:
    Result<checkpoint::Metadata> metadata(const std::string& path) const override {
        HG_ASSIGN(auto reader, open_file(path));
        checkpoint::Metadata out;
        if (const auto stored = reader->parquet_reader()->metadata()->key_value_metadata()) {
            for (std::int64_t i = 0; i < stored->size(); ++i) {
                out[stored->key(i)] = stored->value(i);
            }
        }
        return out;
    }

    Result<std::unique_ptr<checkpoint::TableReader>> open(const std::string& path,
                                                          const Schema& schema) const override {
        HG_ASSIGN(auto file, open_file(path));
        auto batches = file->GetRecordBatchReader();
        if (!batches.ok()) {
            return from_arrow(batches.status(), "cannot read " + path, ErrorCode::corrupt_data);
        }
        if (!(*batches)->schema()->Equals(*arrow_schema(schema), false)) {
            return Status(ErrorCode::corrupt_data, path + " does not have the columns of schema '" + schema.name + "'");
        }
        return std::unique_ptr<checkpoint::TableReader>(
            std::make_unique<ParquetReader>(path, std::move(file), std::move(*batches), Columns::like(schema)));
    }

    Result<std::unique_ptr<checkpoint::TableWriter>> create(const std::string& path,
                                                            const Schema& schema) const override {
        try {
            auto writer = ParquetWriter::create(path, schema);
            if (!writer.ok()) {
                return from_arrow(writer.status(), "cannot write " + path, ErrorCode::io_error);
            }
            return std::unique_ptr<checkpoint::TableWriter>(std::move(*writer));
        } catch (const parquet::ParquetException& error) {
            return Status(ErrorCode::io_error, "cannot write " + path + ": " + error.what());
        }
    }
};

}  // namespace

std::shared_ptr<checkpoint::TableFile> make_parquet_table() {
    return std::make_shared<ParquetTable>();
}

checkpoint::Unpack make_unpacker() {
    return [](std::string_view name, std::string_view packed, std::size_t limit, std::string& out) -> Status {
        const auto kind = name.ends_with(".gz") ? arrow::Compression::GZIP : arrow::Compression::ZSTD;
        const auto run = [&]() -> arrow::Result<bool> {
            ARROW_ASSIGN_OR_RAISE(const auto codec, arrow::util::Codec::Create(kind));
            ARROW_ASSIGN_OR_RAISE(auto stream, codec->MakeDecompressor());
            std::size_t size = 0;
            out.resize(std::min(limit, std::max<std::size_t>(4096, packed.size() * 4)));
            const auto* from = reinterpret_cast<const std::uint8_t*>(packed.data());
            auto left = static_cast<std::int64_t>(packed.size());
            while (left > 0) {
                if (stream->IsFinished()) {
                    ARROW_RETURN_NOT_OK(stream->Reset());  // another member of the same file
                }
                ARROW_ASSIGN_OR_RAISE(const auto step,
                                      stream->Decompress(left, from, static_cast<std::int64_t>(out.size() - size),
                                                         reinterpret_cast<std::uint8_t*>(out.data()) + size));
                from += step.bytes_read;
                left -= step.bytes_read;
                size += static_cast<std::size_t>(step.bytes_written);
                const bool full = size == out.size();
                if (full && size >= limit && (left > 0 || !stream->IsFinished())) {
                    return false;
                }
                if (full || step.need_more_output) {
                    out.resize(std::min(limit, out.size() * 2));
                } else if (step.bytes_read == 0 && step.bytes_written == 0) {
                    return arrow::Status::IOError("no progress");
                }
            }
            // The last bytes of a block may still be inside.
            while (!stream->IsFinished()) {
                if (size == out.size()) {
                    if (size >= limit) {
                        return false;
                    }
                    out.resize(std::min(limit, out.size() * 2));
                }
                ARROW_ASSIGN_OR_RAISE(const auto step,
                                      stream->Decompress(0, from, static_cast<std::int64_t>(out.size() - size),
                                                         reinterpret_cast<std::uint8_t*>(out.data()) + size));
                if (step.bytes_written == 0) {
                    return arrow::Status::IOError("truncated");
                }
                size += static_cast<std::size_t>(step.bytes_written);
            }
            out.resize(size);
            return true;
        };
        const auto done = run();
        if (!done.ok()) {
            return {ErrorCode::invalid_record, "cannot be unpacked"};
        }
        return *done ? Status() : Status(ErrorCode::message_too_large, "unpacks to more than the limit");
    };
}

}  // namespace headgate::backends
