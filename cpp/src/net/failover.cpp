#include "headgate/net/failover.hpp"

#include <algorithm>

#include "headgate/base/text.hpp"
#include "headgate/json/reader.hpp"
#include "headgate/net/hedge.hpp"
#include "headgate/net/retry.hpp"

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
    if (source.requests.empty()) {
        // Nothing was asked: that is no answer, and says nothing of the source.
        const std::string state(breaker_state_name(source.breaker->state()));
        out.attempts.push_back({source.name, 0, 0, ErrorCode::invalid_input,
                                "not called: the source has no request for this query", 0, 0, state, state});
        return false;
    }
    const Deadline deadline{std::min(Deadline::after(*clock_, source.budget_us).mono_us, total.mono_us)};
    std::vector<HttpResponse> responses(source.requests.size());
    std::vector<std::string> raw_keys(source.requests.size());
    std::vector<int> numbers(source.requests.size());
    std::vector<std::size_t> missing(source.requests.size());
    for (std::size_t i = 0; i < missing.size(); ++i) {
        missing[i] = i;
    }
    for (int attempt = 1; !missing.empty(); ++attempt) {
        if (!source.may_probe && source.breaker->state() != BreakerState::closed) {
            const std::string state(breaker_state_name(source.breaker->state()));
            out.attempts.push_back({source.name, missing.front(), attempt, ErrorCode::circuit_open,
                                    "not called: another process sends the probe", 0, 0, state, state});
            return false;
        }
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
            auto verdict = classify(answer, source.expect);
            if (verdict.ok() && source.check) {
                verdict = source.check(index, answer);
            }
            if (verdict.code() == ErrorCode::interrupted) {
                source.breaker->on_abandoned(permit);
                out.error = verdict;
                return false;
            }
            if (verdict.ok()) {
                source.breaker->on_success(answer.elapsed_us, permit);
                budget_->refund();
            } else {
                source.breaker->on_failure(answer.elapsed_us, permit);
                if (const auto advice = advise_retry(answer, verdict, *clock_); advice.may_retry) {
                    again.push_back(index);
                    asked_us = std::max(asked_us, advice.wait_us);
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
                             (out.attempts.back().outcome == ErrorCode::circuit_open || source.requests.empty());
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
