#include <arrow/api.h>
#include <arrow/io/api.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>
#include <parquet/statistics.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "adapt.hpp"
#include "convert.hpp"
#include "headgate/backends/parquet.hpp"
#include "headgate/base/file.hpp"
#include "writer.hpp"

namespace headgate::backends {
namespace {

using schema::Columns;
using schema::Schema;

// How many rows are read at a time.
constexpr std::int64_t kBatchRows = 32 * 1024;

using Input = std::shared_ptr<arrow::io::RandomAccessFile>;

struct OpenFile {
    Input input;
    std::unique_ptr<parquet::arrow::FileReader> reader;
};

Result<Input> input(FileSystem& files, const std::string& path) {
    if (&files != real_files().get()) {
        HG_ASSIGN(auto bytes, files.read(path));
        return Input(std::make_shared<arrow::io::BufferReader>(arrow::Buffer::FromString(std::move(bytes))));
    }
    // A missing table means that this is the first run, so not_found must be certain. Arrow's error of a failed open
    // does not say whether the file is missing.
    HG_ASSIGN(const auto info, files.info(path));
    static_cast<void>(info);
    auto file = arrow::io::ReadableFile::Open(path);
    return file.ok() ? Result<Input>(*file)
                     : Result<Input>(from_arrow(file.status(), "cannot open " + path, ErrorCode::io_error));
}

Result<OpenFile> open_file(FileSystem& files, const std::string& path) {
    HG_ASSIGN(auto file, input(files, path));
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
        return OpenFile{std::move(file), std::move(*reader)};
    } catch (const parquet::ParquetException& error) {
        return unreadable(error.what());
    }
}

class ParquetReader final : public checkpoint::TableReader {
public:
    // If `adapter` is not null, the file has the columns of an earlier schema. Rows are then converted, and no row
    // group is copied without decoding.
    ParquetReader(std::string path, OpenFile file, const Schema& schema, std::optional<Adapter> adapter)
        : path_(std::move(path)),
          file_(std::move(file)),
          adapter_(std::move(adapter)),
          schema_(std::shared_ptr<void>(), &schema),
          empty_(Columns::like(schema)) {
        if (adapter_ && schema.lenient) {
            promoter_.emplace(schema_);
        }
    }

    Result<std::size_t> next() override {
        HG_RETURN_IF_ERROR(guarded([&]() -> arrow::Status {
            if (!batches_) {
                std::vector<int> groups(static_cast<std::size_t>(file_.reader->num_row_groups() - first_group_));
                std::iota(groups.begin(), groups.end(), first_group_);
                ARROW_ASSIGN_OR_RAISE(batches_, file_.reader->GetRecordBatchReader(groups));
            }
            do {
                ARROW_ASSIGN_OR_RAISE(batch_, batches_->Next());
            } while (batch_ != nullptr && batch_->num_rows() == 0);
            return arrow::Status::OK();
        }));
        if (adapter_ && batch_ != nullptr) {
            auto adapted = adapter_->adapt(*batch_);
            if (!adapted.ok()) {
                return from_arrow(adapted.status(), "cannot widen " + path_, ErrorCode::invalid_input);
            }
            batch_ = std::move(*adapted);
            if (promoter_) {
                HG_RETURN_IF_ERROR(guarded([this] { return promote(); }));
            }
        }
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

    Result<std::int64_t> pass_units(checkpoint::TableWriter& writer, std::size_t column, std::int64_t bound,
                                    std::int64_t rows, const std::function<Status()>& go_on) override {
        auto* const same = adapter_ ? nullptr : dynamic_cast<ParquetWriter*>(&writer);
        std::int64_t last = INT64_MIN;
        auto sums = same == nullptr ? std::vector<GroupSum>() : this->sums();
        std::vector<int> groups;
        std::shared_ptr<parquet::FileMetaData> kept;
        HG_RETURN_IF_ERROR(guarded([&] {
            const auto metadata = file_.reader->parquet_reader()->metadata();
            rows += metadata->num_rows();
            for (std::size_t i = 0; i < sums.size() && i < static_cast<std::size_t>(metadata->num_row_groups()); ++i) {
                const auto group = metadata->RowGroup(static_cast<int>(i));
                const auto found = last_value(*group, column);
                if (!found || *found > bound) {
                    break;
                }
                groups.push_back(static_cast<int>(i));
                rows -= group->num_rows();
            }
            // Small row groups are merged as in a binary counter. If all updates have the same size, a row is rewritten
            // each time that the table doubles, and the number of small row groups stays logarithmic.
            for (; !groups.empty(); groups.pop_back()) {
                const auto group = metadata->RowGroup(groups.back());
                if (is_full(*group, *same) || group->num_rows() > rows) {
                    last = *last_value(*group, column);
                    break;
                }
                rows += group->num_rows();
            }
            kept = metadata->Subset(groups);
            if (same != nullptr) {
                same->expect(rows);
            }
            return arrow::Status::OK();
        }));
        if (!groups.empty()) {
            sums.resize(groups.size());
            HG_RETURN_IF_ERROR(same->adopt(*file_.input, path_, std::move(sums), std::move(kept), go_on));
            first_group_ = static_cast<int>(groups.size());
        }
        return last;
    }

    Status check(const std::function<Status()>& go_on) override {
        return read_groups(*file_.input, path_, sums(), go_on, [](const auto&) { return Status(); });
    }

private:
    // The new batch lives as long as `promoted_`, that is until the next one is read.
    arrow::Status promote() {
        columns(promoted_);
        schema::promote_rest(*schema_, *promoter_, promoted_);
        arrow::ArrayVector arrays;
        for (const auto& column : promoted_.columns) {
            ARROW_ASSIGN_OR_RAISE(auto array, to_arrow(column));
            arrays.push_back(std::move(array));
        }
        batch_ = arrow::RecordBatch::Make(batch_->schema(), batch_->num_rows(), std::move(arrays));
        return arrow::Status::OK();
    }

    template <class Call>
    Status guarded(Call call) const {
        try {
            return from_arrow(call(), "cannot read " + path_, ErrorCode::corrupt_data);
        } catch (const parquet::ParquetException& error) {
            return {ErrorCode::corrupt_data, "cannot read " + path_ + ": " + error.what()};
        }
    }

    static bool is_full(const parquet::RowGroupMetaData& group, const ParquetWriter& writer) {
        return group.num_rows() == writer.group_rows() || group.total_byte_size() >= ParquetWriter::kGroupBytes / 2;
    }

    // Returns the greatest value of a sorted column, from its statistics. If there is no sort column, the order does
    // not matter.
    static std::optional<std::int64_t> last_value(const parquet::RowGroupMetaData& group, std::size_t column) {
        if (column == SIZE_MAX) {
            return INT64_MIN;
        }
        const auto chunk = group.ColumnChunk(static_cast<int>(column));
        const auto statistics = std::dynamic_pointer_cast<parquet::Int64Statistics>(chunk->statistics());
        if (!statistics || !statistics->HasNullCount()) {
            return std::nullopt;
        }
        if (statistics->null_count() == group.num_rows()) {
            return schema::kNoTime;
        }
        return statistics->HasMinMax() ? std::optional(statistics->max()) : std::nullopt;
    }

    // Returns no sums for files that the first releases or other programs have written.
    std::vector<GroupSum> sums() const {
        const auto stored = file_.reader->parquet_reader()->metadata()->key_value_metadata();
        const auto found = stored ? stored->Get(kSumsKey) : arrow::Result<std::string>("");
        return parse_sums(found.ok() ? *found : "");
    }

    std::string path_;
    OpenFile file_;
    std::optional<Adapter> adapter_;
    std::shared_ptr<const Schema> schema_;  // owned by the caller; it lives longer than this object
    std::optional<schema::RecordReader> promoter_;
    Columns promoted_;
    int first_group_ = 0;
    std::unique_ptr<arrow::RecordBatchReader> batches_;
    std::shared_ptr<arrow::RecordBatch> batch_;
    Columns empty_;
};

class ParquetTable final : public checkpoint::TableFile {
public:
    ParquetTable(std::shared_ptr<FileSystem> files, std::int64_t group_rows)
        : files_(std::move(files)), group_rows_(group_rows) {}

    Result<checkpoint::Metadata> metadata(const std::string& path) const override {
        HG_ASSIGN(auto reader, open_file(*files_, path));
        checkpoint::Metadata out;
        if (const auto stored = reader.reader->parquet_reader()->metadata()->key_value_metadata()) {
            for (std::int64_t i = 0; i < stored->size(); ++i) {
                out[stored->key(i)] = stored->value(i);
            }
        }
        return out;
    }

    Result<std::optional<checkpoint::StoredTable>> stored(const std::string& path) const override {
        HG_ASSIGN(const auto file, open_file(*files_, path));
        std::shared_ptr<arrow::Schema> found;
        if (const auto status = file.reader->GetSchema(&found); !status.ok()) {
            return from_arrow(status, "cannot read " + path, ErrorCode::corrupt_data);
        }
        auto out = stored_columns(*found);
        const auto metadata = file.reader->parquet_reader()->metadata();
        if (metadata->num_row_groups() > 0) {
            if (const auto sorting = metadata->RowGroup(0)->sorting_columns(); !sorting.empty()) {
                out.sorted_by = metadata->schema()->GetColumnRoot(sorting.front().column_idx)->name();
            }
        }
        return std::optional(std::move(out));
    }

    Result<std::unique_ptr<checkpoint::TableReader>> open(const std::string& path,
                                                          const Schema& schema) const override {
        HG_ASSIGN(auto file, open_file(*files_, path));
        std::shared_ptr<arrow::Schema> found;
        if (const auto status = file.reader->GetSchema(&found); !status.ok()) {
            return from_arrow(status, "cannot read " + path, ErrorCode::corrupt_data);
        }
        auto wanted = arrow_schema(schema);
        std::optional<Adapter> adapter;
        if (!found->Equals(*wanted, false)) {
            auto made = Adapter::make(*found, std::move(wanted));
            if (!made.ok()) {
                return Status(ErrorCode::corrupt_data, path + " does not have the columns of schema '" + schema.name +
                                                           "': " + made.status().message());
            }
            adapter = std::move(*made);
        }
        return std::unique_ptr<checkpoint::TableReader>(
            std::make_unique<ParquetReader>(path, std::move(file), schema, std::move(adapter)));
    }

    Result<std::unique_ptr<checkpoint::TableWriter>> create(const std::string& path,
                                                            const Schema& schema) const override {
        try {
            auto writer = ParquetWriter::create(files_, path, schema, group_rows_);
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
    std::int64_t group_rows_;
};

}  // namespace

std::shared_ptr<checkpoint::TableFile> make_parquet_table(std::shared_ptr<FileSystem> files, std::int64_t group_rows) {
    return std::make_shared<ParquetTable>(files ? std::move(files) : real_files(), group_rows);
}

}  // namespace headgate::backends
