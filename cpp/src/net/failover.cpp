#include "headgate/net/failover.hpp"

#include <algorithm>

#include "headgate/base/text.hpp"
#include "headgate/json/reader.hpp"

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
    return verdict.code() == ErrorCode::http_status &&
           (response.status == 500 || response.status == 502 || response.status == 503 || response.status == 504);
}

}  // namespace

Status classify_json_array(const HttpResponse& response) {
    if (!response.error.ok()) {
        return response.error;
    }
    if (response.status < 200 || response.status > 299) {
        return {ErrorCode::http_status, "answered with status " + std::to_string(response.status)};
    }
    const auto body = trim_blanks(response.body);
    if (body.empty() || body.front() != '[') {
        return {ErrorCode::malformed_response, "answered 200 with a body that is not a JSON array"};
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
bool Failover::try_source(const Source& source, const RawSink& sink, const Interrupt& interrupt, Fetched& out) {
    const auto deadline = Deadline::after(*clock_, source.budget_us);
    std::vector<HttpResponse> responses(source.requests.size());
    std::vector<std::string> raw_keys(source.requests.size());
    std::vector<std::size_t> missing(source.requests.size());
    for (std::size_t i = 0; i < missing.size(); ++i) {
        missing[i] = i;
    }
    for (int attempt = 1; !missing.empty(); ++attempt) {
        if (!source.breaker->allow()) {
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
        auto answers = transport_->perform(requests, deadline, options_.concurrency, interrupt);
        std::vector<std::size_t> again;
        bool failed = false;
        for (std::size_t i = 0; i < batch; ++i) {
            const auto index = missing[i];
            auto& answer = answers[i];
            const std::string before(breaker_state_name(source.breaker->state()));
            if (answer.error.code() == ErrorCode::interrupted) {
                source.breaker->on_abandoned();
                out.error = answer.error;
                return false;
            }
            if (answer.error.ok() && sink) {
                auto key = sink(source.name, source.requests[index], answer);
                if (!key.ok()) {
                    source.breaker->on_abandoned();
                    out.error = key.status();
                    return false;
                }
                raw_keys[index] = std::move(key.value());
            }
            const auto verdict = classify_json_array(answer);
            if (verdict.ok()) {
                source.breaker->on_success();
                budget_->refund();
            } else {
                source.breaker->on_failure();
                if (is_retriable(answer, verdict)) {
                    again.push_back(index);
                } else {
                    failed = true;
                }
            }
            out.attempts.push_back({source.name, index, attempt, verdict.code(), verdict.message(), answer.status,
                                    answer.elapsed_us, before,
                                    std::string(breaker_state_name(source.breaker->state()))});
            responses[index] = std::move(answer);
        }
        if (failed) {
            return false;
        }
        if (!again.empty()) {
            const auto delay = options_.retry.delay_us(attempt, *random_);
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
    return true;
}

Fetched Failover::fetch(const std::vector<Source>& sources, const RawSink& sink, const Interrupt& interrupt) {
    Fetched out;
    const auto started = clock_->mono_us();
    for (std::size_t i = 0; i < sources.size(); ++i) {
        const auto& source = sources[i];
        if (i == 0 && sources.size() > 1 && !may_probe_primary(source)) {
            const std::string state(breaker_state_name(source.breaker->state()));
            out.attempts.push_back({source.name, 0, 0, ErrorCode::circuit_open,
                                    "not called: the secondary has not served long enough yet", 0, 0, state, state});
            continue;
        }
        const bool ok = try_source(source, sink, interrupt, out);
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
