// Small text helpers: hex, UTF-8, ISO 8601.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "headgate/base/status.hpp"

namespace headgate {

std::string_view base_name(std::string_view path) noexcept;  // what comes after the last slash
bool ends_with_ignoring_case(std::string_view text, std::string_view lower) noexcept;  // ASCII letters
std::string to_hex(const std::uint8_t* bytes, std::size_t size);

// Length in bytes of the well-formed UTF-8 sequence at `at` (Unicode 15, table 3-7), or 0. `text[at]` must be >= 0x80.
std::size_t utf8_sequence(std::string_view text, std::size_t at) noexcept;
bool is_utf8(std::string_view text) noexcept;
std::size_t utf8_length(std::string_view text) noexcept;       // code points of well-formed UTF-8
std::string_view trim_blanks(std::string_view text) noexcept;  // space, \t, \n, \v, \f, \r

// The text as a log line or a terminal may show it (CWE-117): control characters, line separators, marks that reorder
// text, and bytes that are no UTF-8 are escaped as in Python (\n, \x1b, \u202e). Other text is left as it is.
std::string printable(std::string_view text);

bool valid_date(int year, int month, int day) noexcept;
std::int64_t days_from_civil(int year, int month, int day) noexcept;

// "YYYY-MM-DD", a real date of years 0001-9999.
bool parse_date(std::string_view text) noexcept;

// ISO 8601 date-time with 'T', seconds, up to nine fraction digits (beyond six truncated), Z or +hh:mm or +hhmm or
// nothing (naive = UTC). The result is microseconds since the epoch, UTC. Second 60 is refused.
Result<std::int64_t> parse_timestamp(std::string_view text);

// The same with what microseconds in UTC do not say of the text.
struct Timestamp {
    std::int64_t us = 0;
    bool has_zone = false;         // the text names one: Z or an offset
    bool has_offset = false;       // which is another than UTC
    bool has_nanoseconds = false;  // digits beyond the microseconds that are not zero
};
Result<Timestamp> parse_timestamp_text(std::string_view text);

// "2026-05-23T16:45:18Z", or with six fraction digits when there are any.
std::string format_timestamp(std::int64_t us);

}  // namespace headgate
