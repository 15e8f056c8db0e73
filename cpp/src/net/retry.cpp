#include "headgate/net/retry.hpp"

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "headgate/base/text.hpp"

namespace headgate::net {
namespace {

constexpr std::int64_t kSecond = 1'000'000;
constexpr std::int64_t kDay = 86'400;
constexpr std::int64_t kLongest = 100LL * 366 * kDay;  // in seconds; longer delays are cut to it
// A number of seconds from here on is a time since 1970; as a delay it would be 31 years.
constexpr std::int64_t kEpochSeconds = 1'000'000'000;
constexpr std::int64_t kEpochMilliseconds = kEpochSeconds * 1000;

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool all_digits(std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
}

// Returns the value of a text of one to nine digits, or -1.
std::int64_t small_number(std::string_view text) {
    if (!all_digits(text) || text.size() > 9) {
        return -1;
    }
    std::int64_t value = 0;
    for (const char c : text) {
        value = value * 10 + (c - '0');
    }
    return value;
}

// Returns 1 to 12 for a word that begins with the name of a month, as "Jan" or "november", or 0.
int month_of(std::string_view text) {
    static constexpr std::string_view names = "janfebmaraprmayjunjulaugsepoctnovdec";
    if (text.size() < 3) {
        return 0;
    }
    std::string front(text.substr(0, 3));
    std::transform(front.begin(), front.end(), front.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const auto at = names.find(front);
    return at == std::string_view::npos || at % 3 != 0 ? 0 : static_cast<int>(at / 3) + 1;
}

// Returns the seconds since midnight of a text such as "08:49:37", or -1.
std::int64_t time_of_day(std::string_view text) {
    if (text.size() != 8 || text[2] != ':' || text[5] != ':') {
        return -1;
    }
    const auto h = small_number(text.substr(0, 2));
    const auto m = small_number(text.substr(3, 2));
    const auto s = small_number(text.substr(6, 2));
    // Second 60 is a leap second (RFC 9110, 5.6.7).
    return h < 0 || m < 0 || s < 0 || h > 23 || m > 59 || s > 60 ? -1 : h * 3600 + m * 60 + s;
}

// Returns whether a word is a time zone, and sets its offset in seconds.
bool zone_of(std::string_view text, std::int64_t& offset) {
    offset = 0;
    if (text == "GMT" || text == "UTC" || text == "UT" || text == "Z") {
        return true;
    }
    std::string digits(text.substr(text.empty() ? 0 : 1));
    digits.erase(std::remove(digits.begin(), digits.end(), ':'), digits.end());
    if (text.empty() || (text[0] != '+' && text[0] != '-') || digits.size() != 4 || !all_digits(digits)) {
        return false;
    }
    const auto minutes = small_number(digits.substr(0, 2)) * 60 + small_number(digits.substr(2, 2));
    offset = (text[0] == '-' ? -60 : 60) * minutes;
    return true;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separators) {
    std::vector<std::string_view> out;
    while (!text.empty()) {
        const auto end = std::min(text.find_first_of(separators), text.size());
        if (end > 0) {
            out.push_back(text.substr(0, end));
        }
        text.remove_prefix(std::min(text.size(), end + 1));
    }
    return out;
}

// Completes a year of two digits. By RFC 9110, section 5.6.7, one that would be more than 50 years in the future
// belongs to the century before.
std::int64_t whole_year(std::int64_t year, std::int64_t now_us) {
    const auto now = std::stoll(format_timestamp(now_us).substr(0, 4));
    year += now - now % 100;
    return year > now + 50 ? year - 100 : year;
}

// Returns the waiting time of a number with an optional fraction and an optional unit "s", rounded up to the
// microsecond. A time since 1970 is converted to the time from now. Returns kWaitUnknown for anything else.
std::int64_t number_wait(std::string_view text, std::int64_t now_us) {
    if (!text.empty() && (text.back() == 's' || text.back() == 'S')) {
        text.remove_suffix(1);
    }
    const auto point = std::min(text.find('.'), text.size());
    const auto whole = text.substr(0, point);
    const auto fraction = point < text.size() ? text.substr(point + 1) : std::string_view("0");
    if (!all_digits(whole) || !all_digits(fraction)) {
        return kWaitUnknown;
    }
    if (whole.size() > 15) {
        return kLongest * kSecond;
    }
    const auto value = std::stoll(std::string(whole));
    if (value >= kEpochSeconds) {
        const auto at = value >= kEpochMilliseconds ? value * 1000 : value * kSecond;
        return std::clamp<std::int64_t>(at - now_us, 0, kLongest * kSecond);
    }
    std::int64_t us = 0;
    for (std::size_t i = 0; i < 6; ++i) {
        us = us * 10 + (i < fraction.size() ? fraction[i] - '0' : 0);
    }
    return value * kSecond + us + (fraction.size() > 6 ? 1 : 0);
}

}  // namespace

std::int64_t parse_http_date(std::string_view text, std::int64_t now_us) {
    text = trim_blanks(text);
    if (const auto iso = parse_timestamp(text); iso.ok()) {
        return std::max<std::int64_t>(0, iso.value());
    }
    std::int64_t year = -1;
    std::int64_t day = -1;
    std::int64_t seconds = -1;
    std::int64_t offset = 0;
    int month = 0;
    for (auto word : split(text, " ,\t")) {
        std::int64_t zone = 0;
        if (seconds >= 0 && zone_of(word, zone)) {
            offset = zone;
        } else if (word.find(':') != std::string_view::npos) {
            seconds = time_of_day(word);
            if (seconds < 0) {
                return -1;
            }
        } else {
            // A word, or a date with hyphens such as "06-Nov-94".
            for (const auto part : split(word, "-")) {
                const auto number = small_number(part);
                if (number >= 0 && day < 0 && part.size() <= 2) {
                    day = number;
                } else if (number >= 0 && year < 0 && (part.size() == 4 || part.size() == 2)) {
                    year = part.size() == 2 ? whole_year(number, now_us) : number;
                } else if (number < 0 && month == 0 && day < 0 && year < 0 && month_of(part) == 0) {
                    continue;  // the day of the week
                } else if (number < 0 && month == 0 && month_of(part) != 0) {
                    month = month_of(part);
                } else {
                    return -1;
                }
            }
        }
    }
    if (seconds < 0 || month == 0 || !valid_date(static_cast<int>(year), month, static_cast<int>(day))) {
        return -1;
    }
    const auto days = days_from_civil(static_cast<int>(year), month, static_cast<int>(day));
    return std::max<std::int64_t>(0, (days * kDay + seconds - offset) * kSecond);
}

std::int64_t parse_retry_after(std::string_view value, std::int64_t now_us) {
    value = trim_blanks(value);
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
        value = trim_blanks(value.substr(1, value.size() - 2));
    }
    if (value.empty()) {
        return -1;
    }
    if (const auto at = parse_http_date(value, now_us); at >= 0) {
        return std::max<std::int64_t>(0, at - now_us);
    }
    std::int64_t longest = -1;
    for (const auto part : split(value, ",")) {
        longest = std::max(longest, number_wait(trim_blanks(part), now_us));
    }
    return longest < 0 ? kWaitUnknown : longest;
}

std::int64_t retry_after_us(const HttpResponse& response, const Clock& clock) {
    const auto now = clock.now_us();
    const auto date = parse_http_date(response.header("date"), now);
    std::int64_t longest = -1;
    for (const auto& [name, value] : response.headers) {
        if (name == "retry-after") {
            longest = std::max(longest, parse_retry_after(value, date < 0 ? now : date));
        }
    }
    return longest;
}

RetryAdvice advise_retry(const HttpResponse& response, const Status& verdict, const Clock& clock) {
    if (verdict.code() == ErrorCode::connection_failed) {
        return {true, 0};
    }
    if (verdict.code() != ErrorCode::http_status) {
        return {};
    }
    const auto status = response.status;
    const auto wait = retry_after_us(response, clock);
    const bool says_when = wait >= 0;
    if (status == 500 || status == 502 || status == 503 || status == 504 || (status == 429 && says_when)) {
        return {true, std::max<std::int64_t>(0, wait)};
    }
    return {};
}

}  // namespace headgate::net
