#include "column_names.hpp"

#include <clocale>
#include <cwctype>

#include <algorithm>
#include <array>

#include "headgate/base/text.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::array<std::string_view, 8> kReserved = {
    "_rest",      "__fragment_index", "__batch_index",   "__last_in_fragment",
    "__filename", "_change_type",     "_commit_version", "_commit_timestamp",
};

// A locale for folding letters, independent of the program's own. If it is null, only ASCII is folded.
locale_t unicode_locale() {
    static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    return locale;
}

char32_t decode(std::string_view sequence) {
    static constexpr std::array<unsigned, 5> lead_bits = {0, 0x7F, 0x1F, 0x0F, 0x07};
    char32_t out = static_cast<unsigned char>(sequence.front()) & lead_bits[sequence.size()];
    for (const char c : sequence.substr(1)) {
        out = (out << 6U) | (static_cast<unsigned char>(c) & 0x3FU);
    }
    return out;
}

void encode(char32_t c, std::string& out) {
    const auto tail = [&out](char32_t bits) { out += static_cast<char>(0x80U | (bits & 0x3FU)); };
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += static_cast<char>(0xC0U | (c >> 6U));
        tail(c);
    } else if (c < 0x10000) {
        out += static_cast<char>(0xE0U | (c >> 12U));
        tail(c >> 6U);
        tail(c);
    } else {
        out += static_cast<char>(0xF0U | (c >> 18U));
        tail(c >> 12U);
        tail(c >> 6U);
        tail(c);
    }
}

}  // namespace

std::string folded_name(std::string_view name) {
    std::string out;
    for (std::size_t at = 0; at < name.size();) {
        const auto c = static_cast<unsigned char>(name[at]);
        if (c < 0x80) {
            out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
            ++at;
            continue;
        }
        const auto size = std::max<std::size_t>(utf8_sequence(name, at), 1);
        if (size == 1 || unicode_locale() == nullptr) {
            out.append(name, at, size);
        } else {
            encode(
                static_cast<char32_t>(towlower_l(static_cast<wint_t>(decode(name.substr(at, size))), unicode_locale())),
                out);
        }
        at += size;
    }
    return out;
}

bool is_readable_name(std::string_view folded) {
    const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
    return !folded.empty() && std::none_of(folded.begin(), folded.end(), is_control) &&
           std::find(kReserved.begin(), kReserved.end(), folded) == kReserved.end();
}

}  // namespace headgate::checkpoint
