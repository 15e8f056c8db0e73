#include "growth.hpp"

#include <algorithm>
#include <cstring>

#include "headgate/hash/identity.hpp"

namespace headgate::checkpoint {
namespace {

std::uint64_t head_of(const hash::Digest& digest) {
    std::uint64_t out = 0;
    std::memcpy(&out, digest.data(), sizeof out);
    return out;
}

}  // namespace

LeadingPart find_taken_part(std::string_view text, const std::function<bool(std::uint64_t, std::size_t)>& is_taken) {
    LeadingPart out;
    hash::Sha256 digest;
    const auto look = [&](std::size_t end) {
        if (const auto content = head_of(digest.value()); end > 0 && is_taken(content, end)) {
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

bool goes_on_after(const Entry& known) {
    return (known.flags & (Entry::kRejected | Entry::kLines)) != Entry::kRejected;
}

LeadingPart whole_lines(std::string_view text) {
    const auto last = text.rfind('\n');
    const auto end = last == std::string_view::npos ? 0 : last + 1;
    return {end, content_of(text.substr(0, end))};
}

std::uint64_t content_of(std::string_view text) {
    return head_of(hash::sha256(text));
}

}  // namespace headgate::checkpoint
