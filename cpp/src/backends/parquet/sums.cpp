#include "sums.hpp"

#include <arrow/api.h>
#include <arrow/util/crc32.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "convert.hpp"

namespace headgate::backends {
namespace {

constexpr std::int64_t kPieceBytes = 1 << 20;

std::uint32_t crc32(std::uint32_t before, std::string_view more) {
    return arrow::internal::crc32(before, more.data(), more.size());
}

}  // namespace

std::string render_sums(const std::vector<GroupSum>& sums) {
    std::string out;
    for (const auto& sum : sums) {
        char crc[8];
        const auto end = std::to_chars(crc, crc + sizeof crc, sum.crc, 16).ptr;
        out += (out.empty() ? "" : " ") + std::to_string(sum.end) + ":";
        out.append(crc, end);
    }
    return out;
}

std::vector<GroupSum> parse_sums(std::string_view text) {
    std::vector<GroupSum> out;
    const char* at = text.data();
    const char* const end = at + text.size();
    while (at != end) {
        GroupSum sum;
        const auto position = std::from_chars(at, end, sum.end);
        if (position.ec != std::errc() || position.ptr == end || *position.ptr != ':') {
            return {};
        }
        const auto crc = std::from_chars(position.ptr + 1, end, sum.crc, 16);
        const bool grows = sum.end > (out.empty() ? 0 : out.back().end);
        if (crc.ec != std::errc() || !grows || (crc.ptr != end && *crc.ptr != ' ')) {
            return {};
        }
        out.push_back(sum);
        at = crc.ptr == end ? end : crc.ptr + 1;
    }
    return out;
}

Status read_groups(arrow::io::RandomAccessFile& file, const std::string& name, const std::vector<GroupSum>& sums,
                   const std::function<Status()>& go_on,
                   const std::function<Status(const std::shared_ptr<arrow::Buffer>&)>& each) {
    std::int64_t at = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        std::uint32_t crc = 0;
        while (at < sums[i].end) {
            HG_RETURN_IF_ERROR(go_on());
            const auto bytes = file.ReadAt(at, std::min(kPieceBytes, sums[i].end - at));
            if (!bytes.ok() || (*bytes)->size() == 0) {
                const auto why = bytes.ok() ? arrow::Status::IOError("it was cut short") : bytes.status();
                return from_arrow(why, "cannot read " + name, ErrorCode::corrupt_data);
            }
            crc = crc32(crc, std::string_view(**bytes));
            at += (*bytes)->size();
            HG_RETURN_IF_ERROR(each(*bytes));
        }
        if (crc != sums[i].crc) {
            return {ErrorCode::corrupt_data, "cannot read " + name + ": row group " + std::to_string(i) +
                                                 " does not have the checksum it was written with"};
        }
    }
    return {};
}

arrow::Result<GroupSum> TableStream::cut() {
    ARROW_ASSIGN_OR_RAISE(const auto end, file_->Tell());
    return GroupSum{end, std::exchange(crc_, 0)};
}

arrow::Status TableStream::Write(const void* data, std::int64_t size) {
    const std::string_view bytes(static_cast<const char*>(data), static_cast<std::size_t>(size));
    if (std::exchange(at_start_, false)) {
        return bytes == "PAR1" ? arrow::Status::OK() : arrow::Status::NotImplemented("a file that begins otherwise");
    }
    crc_ = crc32(crc_, bytes);
    return file_->Write(data, size);
}

}  // namespace headgate::backends
