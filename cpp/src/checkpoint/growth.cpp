#include "growth.hpp"

#include <cstring>

#include "headgate/base/text.hpp"
#include "headgate/hash/identity.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {
namespace {

std::uint64_t head_of(const hash::Digest& digest) {
    std::uint64_t out = 0;
    std::memcpy(&out, digest.data(), sizeof out);
    return out;
}

}  // namespace

LeadingPart find_taken_part(std::string_view text, const std::function<bool(std::uint64_t)>& is_taken) {
    LeadingPart out;
    hash::Sha256 digest;
    const auto look = [&](std::size_t end) {
        if (const auto content = head_of(digest.value()); end > 0 && is_taken(content)) {
            out = {end, content};
        }
    };
    for (std::size_t begin = 0; begin < text.size();) {
        const auto end = std::min(text.find('\n', begin), text.size());
        digest.add(text.substr(begin, end - begin));
        look(end);
        if (end == text.size()) {
            break;
        }
        digest.add("\n");
        look(end + 1);
        begin = end + 1;
    }
    return out;
}

LeadingPart whole_lines(std::string_view text) {
    const auto last = text.rfind('\n');
    const auto end = last == std::string_view::npos ? 0 : last + 1;
    return {end, content_of(text.substr(0, end))};
}

bool names_lines(std::string_view key) {
    const auto name = schema::without_packing(base_name(key));
    return name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".log");
}

bool holds_lines(std::string_view key, std::string_view content) {
    if (names_lines(key)) {
        return true;
    }
    const auto end = content.find('\n');
    if (end == std::string_view::npos) {
        return false;
    }
    const auto first = trim_blanks(content.substr(0, end));
    return first.starts_with('{') && first.ends_with('}') && !trim_blanks(content.substr(end)).empty();
}

std::uint64_t content_of(std::string_view text) {
    return head_of(hash::sha256(text));
}

}  // namespace headgate::checkpoint
