#include <arrow/api.h>
#include <arrow/io/api.h>
#include <arrow/util/byte_size.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/writer.h>
#include <parquet/exception.h>

#include "convert.hpp"
#include "headgate/backends/parquet.hpp"
#include "headgate/base/file.hpp"

namespace headgate::backends {
namespace {

using schema::Columns;
using schema::Schema;

constexpr std::int64_t kBatchRows = 32 * 1024;   // what is read at a time
constexpr std::int64_t kGroupRows = 128 * 1024;  // of a row group, or less when rows are large:
constexpr std::int64_t kGroupBytes = 256 << 20;

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

using OpenFile = std::unique_ptr<parquet::arrow::FileReader>;
using Input = std::shared_ptr<arrow::io::RandomAccessFile>;

Result<Input> input(FileSystem& files, const std::string& path) {
    if (&files != real_files().get()) {
        HG_ASSIGN(auto bytes, files.read(path));
        return Input(std::make_shared<arrow::io::BufferReader>(arrow::Buffer::FromString(std::move(bytes))));
    }
    // Only a definite "no such file" may look like a first run; Arrow's open error does not tell them apart.
    HG_ASSIGN(const auto info, files.info(path));
    static_cast<void>(info);
    auto file = arrow::io::ReadableFile::Open(path);
    return file.ok() ? Result<Input>(*file)
                     : Result<Input>(from_arrow(file.status(), "cannot open " + path, ErrorCode::io_error));
}

Result<OpenFile> open_file(FileSystem& files, const std::string& path) {
    HG_ASSIGN(const auto file, input(files, path));
    const auto unreadable = [&](const std::string& why) {
        return Status(ErrorCode::corrupt_data, path + " is not a readable Parquet file: " + why);
    };
    try {
        parquet::arrow::FileReaderBuilder builder;
        builder.memory_pool(memory_pool());
        if (const auto status = builder.Open(file, parquet::ReaderProperties(memory_pool())); !status.ok()) {
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

class ParquetWriter final : public checkpoint::TableWriter {
public:
    static arrow::Result<std::unique_ptr<ParquetWriter>> create(std::shared_ptr<FileSystem> files,
                                                                const std::string& path, const Schema& schema) {
        auto out = std::make_unique<ParquetWriter>();
        out->path_ = path;
        out->type_ = arrow_schema(schema);
        if (files == real_files()) {
            ARROW_ASSIGN_OR_RAISE(out->file_, arrow::io::FileOutputStream::Open(path));
        } else {
            ARROW_ASSIGN_OR_RAISE(out->held_, arrow::io::BufferOutputStream::Create());
            out->file_ = out->held_;
        }
        out->files_ = std::move(files);
        auto properties = parquet::WriterProperties::Builder();
        properties.memory_pool(memory_pool());
        properties.compression(parquet::Compression::SNAPPY);
        if (const auto sort = schema.index_of(schema.sort_by); sort != SIZE_MAX) {
            properties.set_sorting_columns({{static_cast<std::int32_t>(sort), false, false}});
            // Sorted timestamps are near each other and seldom equal: their differences are small, and a dictionary of
            // them is larger than they are (Parquet's encodings.md, "Delta Encoding").
            properties.disable_dictionary(schema.sort_by);
            properties.encoding(schema.sort_by, parquet::Encoding::DELTA_BINARY_PACKED);
        }
        const auto arrow_properties =
            parquet::ArrowWriterProperties::Builder().store_schema()->set_use_threads(true)->build();
        ARROW_ASSIGN_OR_RAISE(out->writer_, parquet::arrow::FileWriter::Open(*out->type_, memory_pool(), out->file_,
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
            return write(arrow::RecordBatch::Make(type_, rows, std::move(arrays)));
        });
    }

    Status append(const std::shared_ptr<arrow::RecordBatch>& batch) {
        return guarded([&] { return write(batch); });
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
        if (!held_) {
            return sync_file(path_);
        }
        const auto bytes = held_->Finish();
        if (!bytes.ok()) {
            return from_arrow(bytes.status(), "cannot write " + path_, ErrorCode::io_error);
        }
        return files_->write_new(path_, std::string_view(**bytes));
    }

private:
    // Fills row groups to the last row.
    arrow::Status write(const std::shared_ptr<arrow::RecordBatch>& batch) {
        const auto bytes = arrow::util::TotalBufferSize(*batch) / std::max<std::int64_t>(batch->num_rows(), 1);
        for (std::int64_t at = 0; at < batch->num_rows();) {
            if (group_rows_ == 0 || group_rows_ == kGroupRows || group_bytes_ >= kGroupBytes) {
                ARROW_RETURN_NOT_OK(writer_->NewBufferedRowGroup());
                group_rows_ = 0;
                group_bytes_ = 0;
            }
            const auto rows = std::min(batch->num_rows() - at, kGroupRows - group_rows_);
            ARROW_RETURN_NOT_OK(writer_->WriteRecordBatch(*batch->Slice(at, rows)));
            at += rows;
            group_rows_ += rows;
            group_bytes_ += rows * bytes;
        }
        return arrow::Status::OK();
    }

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
    std::shared_ptr<FileSystem> files_;
    std::shared_ptr<arrow::io::BufferOutputStream> held_;  // where the files are not the machine's own
    std::shared_ptr<arrow::io::OutputStream> file_;
    std::unique_ptr<parquet::arrow::FileWriter> writer_;
    std::int64_t group_rows_ = 0;  // of the row group that is being filled
    std::int64_t group_bytes_ = 0;
};

class ParquetReader final : public checkpoint::TableReader {
public:
    ParquetReader(std::string path, OpenFile file, std::unique_ptr<arrow::RecordBatchReader> batches, Columns empty)
        : path_(std::move(path)), file_(std::move(file)), batches_(std::move(batches)), empty_(std::move(empty)) {}

    Result<std::size_t> next() override {
        do {
            try {
                auto batch = batches_->Next();
                if (!batch.ok()) {
                    return from_arrow(batch.status(), "cannot read " + path_, ErrorCode::corrupt_data);
                }
                batch_ = std::move(*batch);
            } catch (const parquet::ParquetException& error) {
                return Status(ErrorCode::corrupt_data, "cannot read " + path_ + ": " + error.what());
            }
        } while (batch_ != nullptr && batch_->num_rows() == 0);
        return batch_ == nullptr ? 0 : static_cast<std::size_t>(batch_->num_rows());
    }

    void numbers(std::size_t column, std::vector<std::int64_t>& out) const override {
        auto values = empty_.columns[column];
        append_array(*batch_->column(static_cast<int>(column)), values);
        out = std::move(values.numbers);
    }

    void columns(Columns& out) const override {
        if (out.columns.size() != empty_.columns.size()) {
            out = empty_;
        }
        out.clear();
        for (int c = 0; c < batch_->num_columns(); ++c) {
            append_array(*batch_->column(c), out.columns[static_cast<std::size_t>(c)]);
        }
        out.rows = static_cast<std::size_t>(batch_->num_rows());
    }

    Status pass_on(checkpoint::TableWriter& writer) const override {
        if (auto* const same = dynamic_cast<ParquetWriter*>(&writer)) {
            return same->append(batch_);
        }
        Columns out;
        columns(out);
        return writer.append(out);
    }

private:
    std::string path_;
    OpenFile file_;
    std::unique_ptr<arrow::RecordBatchReader> batches_;
    std::shared_ptr<arrow::RecordBatch> batch_;
    Columns empty_;
};

class ParquetTable final : public checkpoint::TableFile {
public:
    explicit ParquetTable(std::shared_ptr<FileSystem> files) : files_(std::move(files)) {}

    Result<checkpoint::Metadata> metadata(const std::string& path) const override {
        HG_ASSIGN(auto reader, open_file(*files_, path));
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
        HG_ASSIGN(auto file, open_file(*files_, path));
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
            auto writer = ParquetWriter::create(files_, path, schema);
            if (!writer.ok()) {
                return from_arrow(writer.status(), "cannot write " + path, ErrorCode::io_error);
            }
            return std::unique_ptr<checkpoint::TableWriter>(std::move(*writer));
        } catch (const parquet::ParquetException& error) {
            return Status(ErrorCode::io_error, "cannot write " + path + ": " + error.what());
        }
    }

private:
    std::shared_ptr<FileSystem> files_;
};

}  // namespace

std::shared_ptr<checkpoint::TableFile> make_parquet_table(std::shared_ptr<FileSystem> files) {
    return std::make_shared<ParquetTable>(files ? std::move(files) : real_files());
}

}  // namespace headgate::backends
