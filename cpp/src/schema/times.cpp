// Timestamps in the forms that a schema may name.
#include <algorithm>
#include <array>
#include <charconv>

#include "headgate/base/text.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::schema {
namespace {

constexpr std::array<std::string_view, 6> kForms = {"iso", "wide", "s", "ms", "us", "ns"};
constexpr std::int64_t kFirstUs = -62'135'596'800'000'000;  // 0001-01-01T00:00:00Z
constexpr std::int64_t kLastUs = 253'402'300'799'999'999;   // 9999-12-31T23:59:59.999999Z

bool are_digits(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Rewrites what pydantic takes into the form of parse_timestamp().
std::optional<std::int64_t> parse_wide(std::string_view text) {
    constexpr std::size_t kToMinutes = 16;  // YYYY-MM-DDThh:mm
    constexpr std::string_view kMinus = "\u2212";
    if (text.size() < kToMinutes || std::string_view("Tt _").find(text[10]) == std::string_view::npos) {
        return std::nullopt;
    }
    std::string out(text.substr(0, kToMinutes));
    out[10] = 'T';
    text.remove_prefix(kToMinutes);
    if (!text.starts_with(':')) {
        out += ":00";
    } else {
        out += text.substr(0, 3);
        text.remove_prefix(std::min<std::size_t>(3, text.size()));
        if (text.starts_with('.') || text.starts_with(',')) {
            const auto end = std::min(text.find_first_not_of("0123456789", 1), text.size());
            if (end == 1) {
                return std::nullopt;
            }
            out.append(".").append(text.substr(1, std::min<std::size_t>(6, end - 1)));
            text.remove_prefix(end);
        }
    }
    if (text == "z" || text == "Z") {
        out += 'Z';
    } else if (!text.empty()) {
        const bool long_minus = text.starts_with(kMinus);
        auto offset = text.substr(long_minus ? kMinus.size() : 1);
        if (!long_minus && text.front() != '+' && text.front() != '-') {
            return std::nullopt;
        }
        std::string digits(offset);
        if (digits.size() == 5 && digits[2] == ':') {
            digits.erase(2, 1);
        }
        if (digits.size() != 4 || !are_digits(digits)) {
            return std::nullopt;
        }
        out.append(long_minus ? "-" : text.substr(0, 1)).append(digits);
    }
    const auto parsed = parse_timestamp(out);
    return parsed.ok() ? std::optional(parsed.value()) : std::nullopt;
}

// A decimal number times 10^shift, cut towards minus infinity. No double is in between: 1588205098.123456 is exact.
std::optional<std::int64_t> scaled(std::string_view token, int shift, bool& exact) {
    const bool negative = token.starts_with('-');
    token.remove_prefix(negative ? 1 : 0);
    const auto e = std::min(token.find_first_of("eE"), token.size());
    const auto point = std::min(token.substr(0, e).find('.'), e);
    std::string digits(token.substr(0, point));
    if (point < e) {
        digits += token.substr(point + 1, e - point - 1);
        shift -= static_cast<int>(e - point - 1);
    }
    int exponent = 0;
    if (e < token.size()) {
        const auto* begin = token.data() + e + 1;
        const auto* const end = token.data() + token.size();
        begin += begin != end && *begin == '+' ? 1 : 0;
        const auto read = std::from_chars(begin, end, exponent);
        if (read.ec != std::errc{} || read.ptr != end || exponent > 400 || exponent < -400) {
            return std::nullopt;
        }
    }
    if (!are_digits(digits)) {
        return std::nullopt;
    }
    shift += exponent;
    digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
    bool cut = false;
    if (shift < 0) {
        const auto kept = digits.size() > static_cast<std::size_t>(-shift) ? digits.size() - (-shift) : 0;
        cut = digits.find_first_not_of('0', kept) != std::string::npos;
        digits.resize(kept);
    } else if (!digits.empty()) {
        digits.append(static_cast<std::size_t>(shift), '0');
    }
    std::int64_t value = 0;
    if (digits.size() > 18 ||
        (!digits.empty() && std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc{})) {
        return std::nullopt;
    }
    exact = exact && !cut;
    value = negative ? -value - (cut ? 1 : 0) : value;
    return value >= kFirstUs && value <= kLastUs ? std::optional(value) : std::nullopt;
}

}  // namespace

std::optional<TimeForm> time_form(std::string_view name) {
    const auto found = std::find(kForms.begin(), kForms.end(), name);
    return found == kForms.end() ? std::nullopt : std::optional(static_cast<TimeForm>(found - kForms.begin()));
}

std::optional<std::int64_t> parse_time(TimeForm form, std::string_view text, bool is_number, bool& exact) {
    if (form == TimeForm::iso) {
        const auto parsed = parse_timestamp(text);
        return !is_number && parsed.ok() ? std::optional(parsed.value()) : std::nullopt;
    }
    if (!is_number) {
        if (const auto parsed = parse_wide(text)) {
            return parsed;
        }
    }
    if (form == TimeForm::wide) {
        return std::nullopt;
    }
    const int shift = form == TimeForm::s ? 6 : form == TimeForm::ms ? 3 : form == TimeForm::us ? 0 : -3;
    return scaled(text, shift, exact);
}

}  // namespace headgate::schema
