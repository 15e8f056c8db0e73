// A Parquet file that is being written, its first row groups perhaps those of another file.
#pragma once

#include <arrow/api.h>
#include <arrow/io/api.h>
#include <parquet/arrow/writer.h>
#include <parquet/metadata.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "headgate/checkpoint/ports.hpp"
#include "sums.hpp"

namespace headgate::backends {

class ParquetWriter final : public checkpoint::TableWriter {
public:
    static constexpr std::int64_t kSmallGroupRows = 1024;
    static constexpr std::int64_t kGroupBytes = 256 << 20;  // of a row group, before it is packed

    static arrow::Result<std::unique_ptr<ParquetWriter>> create(std::shared_ptr<FileSystem> files,
                                                                const std::string& path, const schema::Schema& schema,
                                                                std::int64_t group_rows);
    std::int64_t group_rows() const { return group_rows_; }

    void expect(std::int64_t rows) override { expected_rows_ = rows; }

    Status append(const schema::Columns& columns) override;
    Status append(const std::shared_ptr<arrow::RecordBatch>& batch);
    // Before anything was appended: the first row groups of another file, which have these sums and which `metadata`
    // describes. corrupt_data when the bytes are not those that were written.
    Status adopt(arrow::io::RandomAccessFile& file, const std::string& name, std::vector<GroupSum> sums,
                 std::shared_ptr<parquet::FileMetaData> metadata, const std::function<Status()>& go_on);
    Status finish(const checkpoint::Metadata& metadata) override;

private:
    arrow::Status open();
    arrow::Status next_group();
    arrow::Status write(const std::shared_ptr<arrow::RecordBatch>& batch);
    arrow::Status close(const checkpoint::Metadata& metadata);

    std::string path_;
    std::shared_ptr<arrow::Schema> type_;
    std::shared_ptr<FileSystem> files_;
    std::shared_ptr<arrow::io::BufferOutputStream> held_;  // where the files are not the machine's own
    std::shared_ptr<arrow::io::OutputStream> file_;
    std::shared_ptr<parquet::WriterProperties> properties_;
    std::shared_ptr<parquet::FileMetaData> adopted_;
    std::shared_ptr<TableStream> stream_;                 // to file_
    std::vector<GroupSum> sums_;                          // of the row groups that are in the file
    std::unique_ptr<parquet::arrow::FileWriter> writer_;  // from the first row on: it starts where the file has got to
    std::int64_t group_rows_ = 0;
    std::size_t written_groups_ = 0;          // by us, not adopted
    std::int64_t expected_rows_ = INT64_MAX;  // that are not in the file yet
    std::int64_t wanted_rows_ = 0;            // of the row group that is being filled
    std::int64_t filled_rows_ = 0;            // of the row group that is being filled
    std::int64_t filled_bytes_ = 0;
};

}  // namespace headgate::backends
