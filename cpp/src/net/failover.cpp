#include "headgate/net/failover.hpp"

#include <algorithm>

#include "headgate/base/text.hpp"
#include "headgate/json/reader.hpp"
#include "headgate/net/hedge.hpp"

namespace headgate::net {
namespace {

using resilience::breaker_state_name;
using resilience::BreakerState;

// Accepts any document; parse_json does the checking.
struct Ignore {
    static bool start_object() { return true; }
    static bool end_object() { return true; }
    static bool start_array() { return true; }
    static bool end_array() { return true; }
    static bool key(std::string_view) { return true; }
    static bool string(std::string_view) { return true; }
    static bool number(std::string_view, bool) { return true; }
    static bool boolean(bool) { return true; }
    static bool null() { return true; }
    static Status status() { return {}; }
};

bool is_retriable(const HttpResponse& response, const Status& verdict) {
    if (verdict.code() == ErrorCode::connection_failed) {
        return true;
    }
    if (verdict.code() != ErrorCode::http_status) {
        return false;
    }
    const auto status = response.status;
    // Too many requests: again only when the server says when.
    return status == 500 || status == 502 || status == 503 || status == 504 ||
           (status == 429 && !response.header("retry-after").empty());
}

// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7); the two obsolete forms are not sent by servers of today.
std::int64_t parse_http_date(std::string_view text) {
    constexpr std::string_view months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    if (text.size() != 29 || text.substr(25) != " GMT") {
        return -1;
    }
    const auto month = months.find(text.substr(8, 3));
    if (month == std::string_view::npos || month % 3 != 0) {
        return -1;
    }
    const auto number = std::to_string(month / 3 + 1);
    const auto iso = std::string(text.substr(12, 4)) + '-' + (number.size() == 1 ? "0" : "") + number + '-' +
                     std::string(text.substr(5, 2)) + 'T' + std::string(text.substr(17, 8)) + 'Z';
    const auto parsed = parse_timestamp(iso);
    return parsed.ok() ? parsed.value() : -1;
}

std::string_view shape_name(Expect expect) {
    return expect == Expect::json_array ? "a JSON array" : expect == Expect::json_object ? "a JSON object" : "JSON";
}

}  // namespace

Status classify(const HttpResponse& response, Expect expect) {
    if (!response.error.ok()) {
        return response.error;
    }
    if (response.status < 200 || response.status > 299) {
        return {ErrorCode::http_status, "answered with status " + std::to_string(response.status)};
    }
    if (expect == Expect::anything) {
        return {};
    }
    const auto body = trim_blanks(response.body);
    const char first = expect == Expect::json_array ? '[' : '{';
    if (body.empty() || (expect != Expect::json && body.front() != first)) {
        return {ErrorCode::malformed_response,
                "answered 200 with a body that is not " + std::string(shape_name(expect))};
    }
    Ignore ignore;
    if (const auto status = json::parse_json(body, ignore); !status.ok()) {
        return {ErrorCode::malformed_response, "answered 200 with broken JSON: " + status.message()};
    }
    return {};
}

std::int64_t retry_after_us(const HttpResponse& response, const Clock& clock) {
    const auto text = trim_blanks(response.header("retry-after"));
    if (text.empty()) {
        return -1;
    }
    if (text.size() <= 9 && text.find_first_not_of("0123456789") == std::string_view::npos) {
        return std::stoll(std::string(text)) * 1'000'000;
    }
    const auto at = parse_http_date(text);
    // The server's own clock counts where it says its time.
    const auto date = parse_http_date(trim_blanks(response.header("date")));
    return at < 0 ? -1 : std::max<std::int64_t>(0, at - (date < 0 ? clock.now_us() : date));
}

Failover::Failover(FailoverOptions options, std::shared_ptr<HttpTransport> transport, std::shared_ptr<Clock> clock,
                   std::shared_ptr<Random> random, std::shared_ptr<resilience::RetryBudget> budget)
    : options_(options),
      transport_(std::move(transport)),
      clock_(std::move(clock)),
      random_(std::move(random)),
      budget_(std::move(budget)) {}

bool Failover::may_probe_primary(const Source& source) const {
    return source.breaker->state() == BreakerState::closed || secondary_since_us_ == 0 ||
           clock_->now_us() - secondary_since_us_ >= options_.return_after_us;
}

// Sends what is still missing, round by round, until all requests are answered, the budget or the attempts are used
// up, or the breaker opens. A half-open breaker lets one request through first: the probe.
bool Failover::try_source(const Source& source, Deadline total, const RawSink& sink, const Interrupt& interrupt,
                          Fetched& out) {
    const Deadline deadline{std::min(Deadline::after(*clock_, source.budget_us).mono_us, total.mono_us)};
    std::vector<HttpResponse> responses(source.requests.size());
    std::vector<std::string> raw_keys(source.requests.size());
    std::vector<int> numbers(source.requests.size());
    std::vector<std::size_t> missing(source.requests.size());
    for (std::size_t i = 0; i < missing.size(); ++i) {
        missing[i] = i;
    }
    for (int attempt = 1; !missing.empty(); ++attempt) {
        const auto permit = source.breaker->enter();
        if (permit == 0) {
            const std::string state(breaker_state_name(source.breaker->state()));
            out.attempts.push_back({source.name, missing.front(), attempt, ErrorCode::circuit_open,
                                    "not called: the circuit breaker is open", 0, 0, state, state});
            return false;
        }
        const bool probe = source.breaker->state() != BreakerState::closed;
        const std::size_t batch = probe ? 1 : missing.size();
        std::vector<HttpRequest> requests;
        for (std::size_t i = 0; i < batch; ++i) {
            requests.push_back(source.requests[missing[i]]);
        }
        auto answers = send(requests, deadline, probe, interrupt);
        std::vector<std::size_t> again;
        bool failed = false;
        std::int64_t asked_us = 0;  // the longest Retry-After
        for (std::size_t i = 0; i < batch; ++i) {
            const auto index = missing[i];
            auto& answer = answers[i];
            const std::string before(breaker_state_name(source.breaker->state()));
            if (answer.error.code() == ErrorCode::interrupted) {
                source.breaker->on_abandoned(permit);
                out.error = answer.error;
                return false;
            }
            if (answer.error.ok() && sink) {
                auto key = sink(source.name, source.requests[index], answer, attempt);
                if (!key.ok()) {
                    source.breaker->on_abandoned(permit);
                    out.error = key.status();
                    return false;
                }
                raw_keys[index] = std::move(key.value());
            }
            const auto verdict = classify(answer, source.expect);
            if (verdict.ok()) {
                source.breaker->on_success(answer.elapsed_us, permit);
                budget_->refund();
            } else {
                source.breaker->on_failure(answer.elapsed_us, permit);
                if (is_retriable(answer, verdict)) {
                    again.push_back(index);
                    asked_us = std::max(asked_us, retry_after_us(answer, *clock_));
                } else {
                    failed = true;
                }
            }
            out.attempts.push_back({source.name, index, attempt, verdict.code(), verdict.message(), answer.status,
                                    answer.elapsed_us, before, std::string(breaker_state_name(source.breaker->state())),
                                    answer.hedged});
            responses[index] = std::move(answer);
            numbers[index] = attempt;
        }
        if (failed) {
            return false;
        }
        if (!again.empty()) {
            // A Retry-After beyond what is left of the budget means: fail over.
            const auto delay = std::max(asked_us, options_.retry.delay_us(attempt, *random_));
            const bool may_retry = attempt < options_.retry.max_attempts &&
                                   source.breaker->state() == BreakerState::closed &&
                                   delay < deadline.left_us(*clock_) && budget_->take();
            if (!may_retry) {
                return false;
            }
            if (!sleep_interruptibly(*clock_, delay, interrupt)) {
                out.error = Status(ErrorCode::interrupted, "interrupted while waiting to retry");
                return false;
            }
        }
        again.insert(again.end(), missing.begin() + static_cast<std::ptrdiff_t>(batch), missing.end());
        missing = std::move(again);
    }
    out.source = source.name;
    out.responses = std::move(responses);
    out.raw_keys = std::move(raw_keys);
    out.numbers = std::move(numbers);
    return true;
}

std::vector<HttpResponse> Failover::send(const std::vector<HttpRequest>& requests, Deadline deadline, bool probe,
                                         const Interrupt& interrupt) {
    if (options_.hedge_us > 0 && !probe) {
        return perform_hedged(*transport_, *clock_, requests, deadline, options_.concurrency, options_.hedge_us,
                              interrupt);
    }
    return transport_->perform(requests, deadline, options_.concurrency, interrupt);
}

Fetched Failover::fetch(const std::vector<Source>& sources, const RawSink& sink, const Interrupt& interrupt) {
    Fetched out;
    const auto started = clock_->mono_us();
    const auto total = options_.total_us > 0 ? Deadline::after(*clock_, options_.total_us) : Deadline{};
    for (std::size_t i = 0; i < sources.size(); ++i) {
        const auto& source = sources[i];
        if (i > 0 && total.left_us(*clock_) <= 0) {
            const std::string state(breaker_state_name(source.breaker->state()));
            out.attempts.push_back({source.name, 0, 0, ErrorCode::timeout,
                                    "not called: the time for all sources is used up", 0, 0, state, state});
            continue;
        }
        if (i == 0 && sources.size() > 1 && !may_probe_primary(source)) {
            const std::string state(breaker_state_name(source.breaker->state()));
            out.attempts.push_back({source.name, 0, 0, ErrorCode::circuit_open,
                                    "not called: the secondary has not served long enough yet", 0, 0, state, state});
            continue;
        }
        const bool ok = try_source(source, total, sink, interrupt, out);
        if (!out.error.ok()) {
            break;
        }
        const bool skipped = !out.attempts.empty() && out.attempts.back().source == source.name &&
                             out.attempts.back().outcome == ErrorCode::circuit_open;
        if (ok || !skipped) {
            source.breaker->on_round(ok);
        }
        if (ok) {
            out.is_failover = i > 0;
            if (i == 0) {
                secondary_since_us_ = 0;
            } else if (secondary_since_us_ == 0) {
                secondary_since_us_ = clock_->now_us();
            }
            break;
        }
    }
    if (out.source.empty() && out.error.ok()) {
        std::string message = "every source failed:";
        for (const auto& attempt : out.attempts) {
            message +=
                " " + attempt.source + " " + std::string(error_kind(attempt.outcome)) + " (" + attempt.message + ");";
        }
        message.pop_back();
        out.error = Status(ErrorCode::all_sources_failed, std::move(message));
    }
    out.elapsed_us = clock_->mono_us() - started;
    return out;
}

}  // namespace headgate::net
