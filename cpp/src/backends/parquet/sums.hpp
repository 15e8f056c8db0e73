// Checksums of row groups, so that bytes which nobody decodes are not passed on damaged.
#pragma once

#include <arrow/io/api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::backends {

// Frozen: part of the persistent format (docs/formats.md).
constexpr const char* kSumsKey = "headgate.row_groups";

// Where a row group ends, and the CRC-32 of all bytes since the one before it, or since the start of the file.
struct GroupSum {
    std::int64_t end = 0;
    std::uint32_t crc = 0;
};

std::string render_sums(const std::vector<GroupSum>& sums);  // "END:CRC END:CRC", decimal and hexadecimal
std::vector<GroupSum> parse_sums(std::string_view text);     // none when it is not that
// Reads the row groups that have these sums, a piece at a time, from the start of the file on. corrupt_data, naming the
// row group, when the bytes are not those that were written; what `each` says ends it too.
Status read_groups(arrow::io::RandomAccessFile& file, const std::string& name, const std::vector<GroupSum>& sums,
                   const std::function<Status()>& go_on,
                   const std::function<Status(const std::shared_ptr<arrow::Buffer>&)>& each);

// What Parquet's writer writes to.
class TableStream final : public arrow::io::OutputStream {
public:
    explicit TableStream(std::shared_ptr<arrow::io::OutputStream> file) : file_(std::move(file)) {}

    // The file has begun already. Parquet's writer starts files only: it is told that it stands at the beginning, and
    // its magic number, which is there, is left out. From then on it hears the real positions.
    void go_on() { at_start_ = true; }
    // Of what was written since the last call.
    arrow::Result<GroupSum> cut();

    arrow::Status Close() override { return file_->Close(); }
    bool closed() const override { return file_->closed(); }
    arrow::Result<std::int64_t> Tell() const override { return at_start_ ? 0 : file_->Tell(); }
    arrow::Status Write(const void* data, std::int64_t size) override;
    using arrow::io::OutputStream::Write;
    arrow::Status Flush() override { return file_->Flush(); }

private:
    std::shared_ptr<arrow::io::OutputStream> file_;
    std::uint32_t crc_ = 0;
    bool at_start_ = false;
};

}  // namespace headgate::backends
