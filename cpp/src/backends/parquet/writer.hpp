// Writes a Parquet file. Its first row groups may be copied from another file without decoding them.
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
    // The largest size of a row group in bytes, before compression.
    static constexpr std::int64_t kGroupBytes = 256 << 20;

    static arrow::Result<std::unique_ptr<ParquetWriter>> create(std::shared_ptr<FileSystem> files,
                                                                const std::string& path, const schema::Schema& schema,
                                                                std::int64_t group_rows);
    std::int64_t group_rows() const { return group_rows_; }

    void expect(std::int64_t rows) override { expected_rows_ = rows; }

    Status append(const schema::Columns& columns) override;
    Status append(const std::shared_ptr<arrow::RecordBatch>& batch);
    // Copies the first row groups of another file, before anything was appended. `sums` are their checksums, and
    // `metadata` describes them. Returns corrupt_data if the bytes do not have these checksums.
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
    // The content of the file, in memory, if the file system is not the machine's own.
    std::shared_ptr<arrow::io::BufferOutputStream> held_;
    std::shared_ptr<arrow::io::OutputStream> file_;
    std::shared_ptr<parquet::WriterProperties> properties_;
    std::shared_ptr<parquet::FileMetaData> adopted_;
    std::shared_ptr<TableStream> stream_;  // writes to file_, and computes the checksums
    std::vector<GroupSum> sums_;           // one for each row group that is in the file
    // Made for the first row, and begins to write after the copied row groups.
    std::unique_ptr<parquet::arrow::FileWriter> writer_;
    std::int64_t group_rows_ = 0;             // rows of a full row group
    std::size_t written_groups_ = 0;          // row groups that were written and not copied
    std::int64_t expected_rows_ = INT64_MAX;  // rows that are still to come
    // The row group that is being filled: how many rows it is to have, and what it has.
    std::int64_t wanted_rows_ = 0;
    std::int64_t filled_rows_ = 0;
    std::int64_t filled_bytes_ = 0;
};

}  // namespace headgate::backends
