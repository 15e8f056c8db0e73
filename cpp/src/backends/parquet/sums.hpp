// Checksums of row groups. An update that copies row groups without decoding them compares the checksums, so that
// damaged bytes are not copied.
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

// Part of the format on disk (docs/formats.md); it must not change.
constexpr const char* kSumsKey = "headgate.row_groups";

// The offset at which a row group ends, and the CRC-32 of all bytes from the end of the one before it, or from the
// beginning of the file.
struct GroupSum {
    std::int64_t end = 0;
    std::uint32_t crc = 0;
};

// Formats sums as "END:CRC END:CRC", where END is decimal and CRC hexadecimal.
std::string render_sums(const std::vector<GroupSum>& sums);
// The inverse; empty if the text has another form.
std::vector<GroupSum> parse_sums(std::string_view text);
// Reads the row groups with these sums, beginning with the start of the file, and passes the bytes to `each` in pieces.
// Returns corrupt_data, with the number of the row group, if a checksum is wrong, or the error that `each` returns.
Status read_groups(arrow::io::RandomAccessFile& file, const std::string& name, const std::vector<GroupSum>& sums,
                   const std::function<Status()>& go_on,
                   const std::function<Status(const std::shared_ptr<arrow::Buffer>&)>& each);

// The stream to which Parquet's writer writes. It computes the checksums of the row groups.
class TableStream final : public arrow::io::OutputStream {
public:
    explicit TableStream(std::shared_ptr<arrow::io::OutputStream> file) : file_(std::move(file)) {}

    // To be called before a writer is opened on a file that has content already. Parquet's writer can only begin files.
    // It is told that it is at position 0, and the magic number that it writes first is dropped, because the file has
    // one. After that the real positions are reported.
    void go_on() { at_start_ = true; }
    // Returns the sum of what was written since the last call.
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
