#include <string>
#include <string_view>

#include "headgate/base/text.hpp"
#include "headgate/checkpoint/records.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {
namespace {

// By the first bytes, which no JSON has: RFC 1952, RFC 8878.
bool is_packed(std::string_view bytes) {
    return bytes.starts_with("\x1F\x8B") || bytes.starts_with("\x28\xB5\x2F\xFD");
}

}  // namespace

Status unpacked(std::string_view key, std::string_view bytes, std::size_t limit, const Unpack& unpack,
                std::string& buffer, std::string_view& out) {
    constexpr int kMostLayers = 3;
    const bool named_packed = schema::without_packing(key).size() != key.size();
    out = bytes;
    std::string inner;
    for (int layer = 0;; ++layer) {
        if (out.size() > limit) {
            return {ErrorCode::message_too_large, "larger than the limit"};
        }
        if (!is_packed(out)) {
            break;
        }
        if (!unpack || layer == kMostLayers) {
            return {ErrorCode::invalid_record, unpack ? "packed too often" : "packed files are not supported here"};
        }
        if (layer == 0) {
            HG_RETURN_IF_ERROR(unpack(key, out, limit, buffer));
        } else {
            HG_RETURN_IF_ERROR(unpack(key, out, limit, inner));
            buffer.swap(inner);
        }
        out = buffer;
    }
    // A server or a tool may have unpacked a file and left its name.
    const auto text = trim_blanks(bytes);
    const bool is_json = text.starts_with('{') || text.starts_with('[') || text.starts_with("\xEF\xBB\xBF");
    return named_packed && out.data() == bytes.data() && !is_json ? Status(ErrorCode::invalid_record, "not packed")
                                                                  : Status();
}

}  // namespace headgate::checkpoint
