// Helpers for text: paths, hexadecimal digits, UTF-8, dates and times in ISO 8601. All are pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "headgate/base/status.hpp"

namespace headgate {

// The part of a path after its last slash, or all of it.
std::string_view base_name(std::string_view path) noexcept;
// Whether `text` ends with `lower`, which is in lower case; ASCII letters of `text` may be in upper case.
bool ends_with_ignoring_case(std::string_view text, std::string_view lower) noexcept;
// Two lower-case digits for each byte.
std::string to_hex(const std::uint8_t* bytes, std::size_t size);

// Length in bytes of the well-formed UTF-8 sequence at `at` (Unicode 15, table 3-7), or 0. `text[at]` must be >= 0x80.
std::size_t utf8_sequence(std::string_view text, std::size_t at) noexcept;
bool is_utf8(std::string_view text) noexcept;
// The number of code points; `text` is well-formed UTF-8.
std::size_t utf8_length(std::string_view text) noexcept;
// The text without leading and trailing ASCII white space (space, \t, \n, \v, \f, \r).
std::string_view trim_blanks(std::string_view text) noexcept;

// Returns a text that may be shown in a log or on a terminal (CWE-117). Control characters, line separators, marks that
// reorder text, and bytes that are not UTF-8 are escaped as in Python (\n, \x1b, \u202e); the rest is unchanged.
std::string printable(std::string_view text);

// Whether the Gregorian calendar has that day.
bool valid_date(int year, int month, int day) noexcept;
// Days since 1970-01-01 in the Gregorian calendar; negative before it.
std::int64_t days_from_civil(int year, int month, int day) noexcept;

// Whether `text` is "YYYY-MM-DD" and names a day that exists, in the years 0001 to 9999.
bool parse_date(std::string_view text) noexcept;

// Parses an ISO 8601 date and time and returns microseconds since the epoch, UTC. The text has a 'T', seconds, up to
// nine digits of a fraction, of which those after the sixth are cut off, and Z, an offset (+hh:mm or +hhmm), or
// neither, which means UTC. Everything else is invalid_input, also the second 60.
Result<std::int64_t> parse_timestamp(std::string_view text);

// A parsed time, with what its text says beyond the microseconds in UTC.
struct Timestamp {
    std::int64_t us = 0;
    bool has_zone = false;         // the text has Z or an offset
    bool has_offset = false;       // the text has an offset other than zero
    bool has_nanoseconds = false;  // a digit after the sixth of the fraction is not zero
};

// As parse_timestamp(), with these details.
Result<Timestamp> parse_timestamp_text(std::string_view text);

// Formats microseconds since the epoch as "2026-05-23T16:45:18Z", with six digits of a fraction unless it is zero.
std::string format_timestamp(std::int64_t us);

}  // namespace headgate
