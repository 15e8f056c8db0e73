// Decides whether and when a request may be sent again after a response. The failover of the core and the callers in
// Python both use it.
#pragma once

#include <cstdint>
#include <string_view>

#include "headgate/net/http.hpp"

namespace headgate::net {

// The waiting time if a Retry-After header cannot be parsed: too long for any caller, so that nobody retries.
constexpr std::int64_t kWaitUnknown = INT64_MAX;

// Parses a date of an HTTP header and returns microseconds since the epoch, or -1. It accepts the three forms of RFC
// 9110, section 5.6.7 (IMF-fixdate, RFC 850, asctime), and what servers send instead: an offset in place of GMT, no
// zone, one digit for the day, ISO 8601. `now_us` decides the century of a year of two digits.
std::int64_t parse_http_date(std::string_view text, std::int64_t now_us);

// Parses the value of a Retry-After header and returns the waiting time from `now_us`, in microseconds. The value is a
// number of seconds (with or without a fraction and the unit "s"), a date, a time since the epoch in seconds or
// milliseconds, which some servers send, or a list of these, of which the longest counts. Returns kWaitUnknown if it is
// none of these, and -1 if it is empty.
std::int64_t parse_retry_after(std::string_view value, std::int64_t now_us);

// Returns the longest waiting time of a response's Retry-After headers, or -1 if it has none. A date is compared with
// the response's own Date header, if there is one: if the server's clock is wrong, it is wrong in both.
std::int64_t retry_after_us(const HttpResponse& response, const Clock& clock);

struct RetryAdvice {
    bool may_retry = false;
    std::int64_t wait_us = 0;  // the shortest time to wait; kWaitUnknown means that nobody should wait
};

// A request may be retried after a broken connection and after the statuses 500, 502, 503 and 504, and after 429 if the
// response has a Retry-After header; never before the time that Retry-After names. It is not retried after a timeout,
// another status, or a body of the wrong shape. `verdict` is what classify() returned for the response.
RetryAdvice advise_retry(const HttpResponse& response, const Status& verdict, const Clock& clock);

}  // namespace headgate::net
