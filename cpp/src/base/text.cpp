#include "headgate/base/text.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

namespace headgate {
namespace {

constexpr std::int64_t kUsPerSecond = 1'000'000;
constexpr std::int64_t kSecondsPerDay = 86'400;

bool digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

// Reads exactly `count` digits from the front of `text` into `out`, and removes them from `text`.
bool take_digits(std::string_view& text, std::size_t count, int& out) noexcept {
    if (text.size() < count) {
        return false;
    }
    int value = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (!digit(text[i])) {
            return false;
        }
        value = value * 10 + (text[i] - '0');
    }
    text.remove_prefix(count);
    out = value;
    return true;
}

bool take(std::string_view& text, char c) noexcept {
    if (text.empty() || text.front() != c) {
        return false;
    }
    text.remove_prefix(1);
    return true;
}

bool take_date(std::string_view& text, int& y, int& m, int& d) noexcept {
    return take_digits(text, 4, y) && take(text, '-') && take_digits(text, 2, m) && take(text, '-') &&
           take_digits(text, 2, d) && valid_date(y, m, d);
}

bool take_fraction(std::string_view& text, std::int64_t& us, bool& more) noexcept {
    us = 0;
    more = false;
    std::int64_t scale = kUsPerSecond / 10;
    std::size_t count = 0;
    while (count < text.size() && digit(text[count])) {
        us += (text[count] - '0') * scale;
        more = more || (scale == 0 && text[count] != '0');
        scale /= 10;
        ++count;
    }
    text.remove_prefix(count);
    return count >= 1 && count <= 9;
}

// Parses a zone: the offset from UTC in seconds, positive to the east. An empty text is UTC.
bool take_zone(std::string_view& text, std::int64_t& offset) noexcept {
    offset = 0;
    if (text.empty() || take(text, 'Z')) {
        return true;
    }
    const bool west = text.front() == '-';
    if (!west && text.front() != '+') {
        return false;
    }
    text.remove_prefix(1);
    int hours = 0;
    int minutes = 0;
    if (!take_digits(text, 2, hours)) {
        return false;
    }
    if (!text.empty()) {
        take(text, ':');
        if (!take_digits(text, 2, minutes)) {
            return false;
        }
    }
    offset = (hours * 3600LL + minutes * 60LL) * (west ? -1 : 1);
    return hours < 24 && minutes < 60;
}

// Of one well-formed UTF-8 sequence of two to four bytes.
unsigned code_point(std::string_view sequence) noexcept {
    unsigned out = static_cast<unsigned char>(sequence.front()) & (0xFFU >> (sequence.size() + 1));
    for (const char c : sequence.substr(1)) {
        out = out << 6U | (static_cast<unsigned char>(c) & 0x3FU);
    }
    return out;
}

// C1 controls, line and paragraph separators, and the marks of bidirectional text (Unicode 15, 23.2).
bool is_control(unsigned point) noexcept {
    const auto within = [point](unsigned first, unsigned last) { return point >= first && point <= last; };
    return within(0x80, 0x9F) || point == 0x61C || within(0x200E, 0x200F) || within(0x2028, 0x202E) ||
           within(0x2066, 0x2069);
}

}  // namespace

std::string_view base_name(std::string_view path) noexcept {
    const auto slash = path.rfind('/');
    return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

bool ends_with_ignoring_case(std::string_view text, std::string_view lower) noexcept {
    const auto same = [](char a, char b) { return a == b || (a >= 'A' && a <= 'Z' && a + ('a' - 'A') == b); };
    return text.size() >= lower.size() &&
           std::equal(lower.rbegin(), lower.rend(), text.rbegin(), [&](char l, char t) { return same(t, l); });
}

std::string to_hex(const std::uint8_t* bytes, std::size_t size) {
    static constexpr std::string_view digits = "0123456789abcdef";
    std::string out(size * 2, '0');
    for (std::size_t i = 0; i < size; ++i) {
        out[2 * i] = digits[bytes[i] >> 4U];
        out[2 * i + 1] = digits[bytes[i] & 15U];
    }
    return out;
}

std::size_t utf8_sequence(std::string_view text, std::size_t at) noexcept {
    const auto byte = [&](std::size_t i) {
        return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
    };
    const auto tail = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
    const unsigned lead = byte(0);
    const unsigned next = byte(1);
    if (lead >= 0xC2 && lead <= 0xDF) {
        return tail(1) ? 2 : 0;
    }
    if (lead >= 0xE0 && lead <= 0xEF) {
        const bool ok = tail(1) && tail(2) && !(lead == 0xE0 && next < 0xA0) && !(lead == 0xED && next > 0x9F);
        return ok ? 3 : 0;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        const bool ok =
            tail(1) && tail(2) && tail(3) && !(lead == 0xF0 && next < 0x90) && !(lead == 0xF4 && next > 0x8F);
        return ok ? 4 : 0;
    }
    return 0;
}

bool is_utf8(std::string_view text) noexcept {
    for (std::size_t i = 0; i < text.size();) {
        if (static_cast<unsigned char>(text[i]) < 0x80) {
            ++i;
            continue;
        }
        const auto length = utf8_sequence(text, i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

std::size_t utf8_length(std::string_view text) noexcept {
    std::size_t count = 0;
    for (const char c : text) {
        count += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
    }
    return count;
}

std::string_view trim_blanks(std::string_view text) noexcept {
    static constexpr std::string_view blanks = " \t\n\v\f\r";
    const auto first = text.find_first_not_of(blanks);
    if (first == std::string_view::npos) {
        return {};
    }
    return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::string printable(std::string_view text) {
    std::string out;
    const auto escape = [&out](const char* format, unsigned value) {
        std::array<char, 16> buffer{};
        std::snprintf(buffer.data(), buffer.size(), format, value);
        out += buffer.data();
    };
    for (std::size_t at = 0; at < text.size();) {
        const auto c = static_cast<unsigned char>(text[at]);
        const auto length = c < 0x80 ? std::size_t{1} : utf8_sequence(text, at);
        if (c == '\n' || c == '\r' || c == '\t') {
            out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
        } else if (length == 0 || c < 0x20 || c == 0x7F) {
            escape("\\x%02x", c);
        } else if (const auto point = length > 1 ? code_point(text.substr(at, length)) : c; is_control(point)) {
            escape(point < 0x100 ? "\\x%02x" : "\\u%04x", point);
        } else {
            out.append(text, at, length);
        }
        at += std::max<std::size_t>(length, 1);
    }
    return out;
}

bool valid_date(int year, int month, int day) noexcept {
    static constexpr std::array<int, 12> days = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (year < 1 || month < 1 || month > 12 || day < 1) {
        return false;
    }
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    const int last = month == 2 && leap ? 29 : days[static_cast<std::size_t>(month - 1)];
    return day <= last;
}

// The calculation counts years from March 1, so that the leap day is the last day of a year.
std::int64_t days_from_civil(int year, int month, int day) noexcept {
    const std::int64_t y = month <= 2 ? year - 1 : year;
    const std::int64_t era = (y >= 0 ? y : y - 399) / 400;
    const std::int64_t year_of_era = y - era * 400;
    const std::int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    const std::int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146'097 + day_of_era - 719'468;
}

bool parse_date(std::string_view text) noexcept {
    int y = 0;
    int m = 0;
    int d = 0;
    return take_date(text, y, m, d) && text.empty();
}

Result<std::int64_t> parse_timestamp(std::string_view text) {
    HG_ASSIGN(const auto parsed, parse_timestamp_text(text));
    return parsed.us;
}

Result<Timestamp> parse_timestamp_text(std::string_view text) {
    int y = 0;
    int mo = 0;
    int d = 0;
    int h = 0;
    int mi = 0;
    int s = 0;
    std::int64_t us = 0;
    std::int64_t offset = 0;
    Timestamp out;
    auto rest = text;
    bool ok = take_date(rest, y, mo, d) && take(rest, 'T') && take_digits(rest, 2, h) && take(rest, ':') &&
              take_digits(rest, 2, mi) && take(rest, ':') && take_digits(rest, 2, s);
    if (ok && take(rest, '.')) {
        ok = take_fraction(rest, us, out.has_nanoseconds);
    }
    out.has_zone = !rest.empty();
    ok = ok && take_zone(rest, offset) && rest.empty() && h < 24 && mi < 60 && s < 60;
    if (!ok) {
        return Status(ErrorCode::invalid_record, "not an ISO 8601 date-time with T and seconds");
    }
    const auto seconds = days_from_civil(y, mo, d) * kSecondsPerDay + h * 3600LL + mi * 60LL + s - offset;
    // With its offset the time may fall in year 0 or 10000 in UTC, which neither ISO 8601 nor Python's datetime has.
    if (seconds < days_from_civil(1, 1, 1) * kSecondsPerDay ||
        seconds >= days_from_civil(10'000, 1, 1) * kSecondsPerDay) {
        return Status(ErrorCode::number_out_of_range, "a time outside the years 1 to 9999 in UTC");
    }
    out.us = seconds * kUsPerSecond + us;
    out.has_offset = offset != 0;
    return out;
}

std::string format_timestamp(std::int64_t us) {
    const auto floor_div = [](std::int64_t a, std::int64_t b) { return a / b - (a % b < 0 ? 1 : 0); };
    const std::int64_t seconds = floor_div(us, kUsPerSecond);
    const auto fraction = static_cast<int>(us - seconds * kUsPerSecond);
    const std::int64_t days = floor_div(seconds, kSecondsPerDay);
    const auto second_of_day = static_cast<int>(seconds - days * kSecondsPerDay);
    // The inverse of days_from_civil.
    const std::int64_t z = days + 719'468;
    const std::int64_t era = (z >= 0 ? z : z - 146'096) / 146'097;
    const std::int64_t day_of_era = z - era * 146'097;
    const std::int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36'524 - day_of_era / 146'096) / 365;
    const std::int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    const std::int64_t shifted_month = (5 * day_of_year + 2) / 153;
    const auto day = static_cast<int>(day_of_year - (153 * shifted_month + 2) / 5 + 1);
    const auto month = static_cast<int>(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
    const auto year = static_cast<int>(year_of_era + era * 400 + (month <= 2 ? 1 : 0));
    std::array<char, 64> buffer{};
    const int h = second_of_day / 3600;
    const int m = second_of_day / 60 % 60;
    const int s = second_of_day % 60;
    if (fraction != 0) {
        std::snprintf(buffer.data(), buffer.size(), "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", year, month, day, h, m, s,
                      fraction);
    } else {
        std::snprintf(buffer.data(), buffer.size(), "%04d-%02d-%02dT%02d:%02d:%02dZ", year, month, day, h, m, s);
    }
    return buffer.data();
}

}  // namespace headgate
