#include "writer.hpp"

#include <arrow/util/byte_size.h>
#include <parquet/exception.h>
#include <parquet/file_writer.h>

#include <algorithm>
#include <numeric>
#include <string_view>

#include "convert.hpp"
#include "headgate/base/fault.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/memory.hpp"

namespace headgate::backends {
namespace {

template <class Call>
Status guarded(const std::string& path, Call call) {
    try {
        return from_arrow(call(), "cannot write " + path, ErrorCode::io_error);
    } catch (const parquet::ParquetException& error) {
        return from_arrow(arrow::Status::IOError(error.what()), "cannot write " + path, ErrorCode::io_error);
    }
}

}  // namespace

arrow::Result<std::unique_ptr<ParquetWriter>> ParquetWriter::create(std::shared_ptr<FileSystem> files,
                                                                    const std::string& path,
                                                                    const schema::Schema& schema,
                                                                    std::int64_t group_rows) {
    auto out = std::make_unique<ParquetWriter>();
    out->group_rows_ = group_rows;
    out->path_ = path;
    out->type_ = arrow_schema(schema);
    if (files == real_files()) {
        ARROW_ASSIGN_OR_RAISE(out->file_, arrow::io::FileOutputStream::Open(path));
    } else {
        ARROW_ASSIGN_OR_RAISE(out->held_, arrow::io::BufferOutputStream::Create());
        out->file_ = out->held_;
    }
    out->files_ = std::move(files);
    out->stream_ = std::make_shared<TableStream>(out->file_);
    auto properties = parquet::WriterProperties::Builder();
    properties.memory_pool(memory_pool());
    properties.compression(parquet::Compression::SNAPPY);
    properties
        .disable_write_page_index();  // the index is stored after all row groups, so copied ones would lose theirs
    if (const auto sort = schema.sort_column(); sort != SIZE_MAX) {
        properties.set_sorting_columns({{static_cast<std::int32_t>(sort), false, true}});  // nulls first
        // Sorted timestamps are close together and seldom equal. Their differences are small numbers (Parquet's
        // encodings.md, "Delta Encoding"), while a dictionary would be larger than the values.
        properties.disable_dictionary(schema.sort_by);
        properties.encoding(schema.sort_by, parquet::Encoding::DELTA_BINARY_PACKED);
    }
    out->properties_ = properties.build();
    return out;
}

Status ParquetWriter::append(const schema::Columns& columns) {
    return guarded(path_, [&]() -> arrow::Status {
        arrow::ArrayVector arrays;
        for (const auto& column : columns.columns) {
            ARROW_ASSIGN_OR_RAISE(auto array, to_arrow(column));
            arrays.push_back(std::move(array));
        }
        return write(arrow::RecordBatch::Make(type_, static_cast<std::int64_t>(columns.rows), std::move(arrays)));
    });
}

Status ParquetWriter::append(const std::shared_ptr<arrow::RecordBatch>& batch) {
    return guarded(path_, [&] { return write(batch); });
}

Status ParquetWriter::adopt(arrow::io::RandomAccessFile& file, const std::string& name, std::vector<GroupSum> sums,
                            std::shared_ptr<parquet::FileMetaData> metadata, const std::function<Status()>& go_on) {
    const auto write = [this](const std::shared_ptr<arrow::Buffer>& bytes) -> Status {
        HG_RETURN_IF_ERROR(fault_point("checkpoint.while_keeping"));
        return guarded(path_, [&] { return file_->Write(bytes); });
    };
    HG_RETURN_IF_ERROR(read_groups(file, name, sums, go_on, write));
    sums_ = std::move(sums);
    adopted_ = std::move(metadata);
    stream_->go_on();
    return {};
}

Status ParquetWriter::finish(const checkpoint::Metadata& metadata) {
    HG_RETURN_IF_ERROR(guarded(path_, [&] { return close(metadata); }));
    if (!held_) {
        return sync_file(path_);
    }
    const auto bytes = held_->Finish();
    if (!bytes.ok()) {
        return from_arrow(bytes.status(), "cannot write " + path_, ErrorCode::io_error);
    }
    return files_->write_new(path_, std::string_view(**bytes));
}

arrow::Status ParquetWriter::open() {
    const auto properties = parquet::ArrowWriterProperties::Builder().store_schema()->set_use_threads(true)->build();
    ARROW_ASSIGN_OR_RAISE(writer_,
                          parquet::arrow::FileWriter::Open(*type_, memory_pool(), stream_, properties_, properties));
    return arrow::Status::OK();
}

// Ends the row group that is being filled, and begins the next one.
arrow::Status ParquetWriter::next_group() {
    ARROW_RETURN_NOT_OK(writer_->NewBufferedRowGroup());
    if (filled_rows_ > 0) {
        ARROW_ASSIGN_OR_RAISE(const auto sum, stream_->cut());
        sums_.push_back(sum);
        ++written_groups_;
    }
    const bool was_full = filled_rows_ == group_rows_;
    expected_rows_ -= filled_rows_;
    filled_rows_ = 0;
    filled_bytes_ = 0;
    // The newest rows are in small row groups. Late events mostly fall among the newest rows, so that an update
    // rewrites only small row groups.
    const bool last = expected_rows_ < group_rows_;
    wanted_rows_ =
        last ? std::clamp(expected_rows_ - expected_rows_ / 4, std::min(kSmallGroupRows, group_rows_), group_rows_)
             : group_rows_;
    if (was_full && wanted_rows_ < group_rows_) {
        return_freed_memory();  // Arrow's threads have freed it; the smaller row groups that follow need less
    }
    return arrow::Status::OK();
}

// Writes all rows of a batch, and begins new row groups where they are full.
arrow::Status ParquetWriter::write(const std::shared_ptr<arrow::RecordBatch>& batch) {
    if (!writer_) {
        ARROW_RETURN_NOT_OK(open());
    }
    const auto bytes = arrow::util::TotalBufferSize(*batch) / std::max<std::int64_t>(batch->num_rows(), 1);
    for (std::int64_t at = 0; at < batch->num_rows();) {
        if (filled_rows_ == wanted_rows_ || filled_bytes_ >= kGroupBytes) {
            ARROW_RETURN_NOT_OK(next_group());
        }
        const auto rows = std::min(batch->num_rows() - at, wanted_rows_ - filled_rows_);
        ARROW_RETURN_NOT_OK(writer_->WriteRecordBatch(*batch->Slice(at, rows)));
        at += rows;
        filled_rows_ += rows;
        filled_bytes_ += rows * bytes;
    }
    return arrow::Status::OK();
}

arrow::Status ParquetWriter::close(const checkpoint::Metadata& metadata) {
    if (!writer_) {
        ARROW_RETURN_NOT_OK(open());
    }
    if (filled_rows_ > 0) {
        // Ends the last row group, so that its checksum is known. The empty one that it begins is in no footer that
        // readers use.
        ARROW_RETURN_NOT_OK(next_group());
    }
    auto stored = std::make_shared<arrow::KeyValueMetadata>();
    for (const auto& [key, value] : metadata) {
        stored->Append(key, value);
    }
    stored->Append(kSumsKey, render_sums(sums_));
    ARROW_RETURN_NOT_OK(writer_->AddKeyValueMetadata(stored));
    ARROW_RETURN_NOT_OK(writer_->Close());
    if (!sums_.empty()) {
        // The footer that Close() has written contains the new row groups and the empty one, and not the copied ones. A
        // footer with all row groups that have rows is written after it; readers use the last footer. An update that
        // copies row groups of this file copies neither footer.
        const auto all = writer_->metadata()->Subset({});
        if (adopted_) {
            all->AppendRowGroups(*adopted_);
        }
        std::vector<int> groups(written_groups_);
        std::iota(groups.begin(), groups.end(), 0);
        all->AppendRowGroups(*writer_->metadata()->Subset(groups));
        parquet::WriteFileMetaData(*all, file_.get());
    }
    return file_->Close();
}

}  // namespace headgate::backends
