// Whether an answer may be asked for again, and when: the one place that decides it, for the failover of the core and
// for callers in Python.
#pragma once

#include <cstdint>
#include <string_view>

#include "headgate/net/http.hpp"

namespace headgate::net {

// The wait of a Retry-After that cannot be read: longer than anybody waits.
constexpr std::int64_t kWaitUnknown = INT64_MAX;

// Microseconds since 1970 of a date in any of the three forms of RFC 9110, 5.6.7 (IMF-fixdate, RFC 850, asctime), or in
// a form that servers send instead: an offset for GMT, no zone (GMT), one digit for the day, ISO 8601. -1: none of
// them. `now_us` decides the century of a year of two digits.
std::int64_t parse_http_date(std::string_view text, std::int64_t now_us);

// What a Retry-After header's value asks for, microseconds from `now_us`: seconds (whole or not, with a unit "s"), a
// date, or, as some servers send it, a time since 1970 in seconds or milliseconds; of a list the longest. kWaitUnknown
// for what is none of these, -1 for an empty value.
std::int64_t parse_retry_after(std::string_view value, std::int64_t now_us);

// The longest of a response's Retry-After headers, as parse_retry_after() gives it; -1 without one. Dates count from
// the response's own Date where it has one: the server's clock may be wrong, but its two times belong together.
std::int64_t retry_after_us(const HttpResponse& response, const Clock& clock);

struct RetryAdvice {
    bool may_retry = false;
    std::int64_t wait_us = 0;  // at least so long; kWaitUnknown: longer than anybody waits
};

// Broken connections and the statuses 500, 502, 503 and 504 may be tried again, 429 only if it says when; never before
// the time that Retry-After names. Time-outs, other statuses and bodies of another shape are not tried again.
// `verdict` is what classify() said of the response.
RetryAdvice advise_retry(const HttpResponse& response, const Status& verdict, const Clock& clock);

}  // namespace headgate::net
