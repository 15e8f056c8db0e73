#include "headgate/net/failover.hpp"

#include <algorithm>
#include <numeric>

#include "headgate/base/text.hpp"
#include "headgate/json/reader.hpp"
#include "headgate/net/hedge.hpp"
#include "headgate/net/retry.hpp"

namespace headgate::net {
namespace {

using resilience::breaker_state_name;
using resilience::BreakerState;

// A handler for parse_json() that accepts every document; the parser itself checks the syntax.
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

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string_view shape_name(BodyShape shape) {
    return shape == BodyShape::json_array ? "a JSON array" : shape == BodyShape::json_object ? "a JSON object" : "JSON";
}

// Records that no request was sent to a source.
void record_skip(FailoverResult& out, const FailoverSource& source, ErrorCode why, std::string message,
                 std::size_t request = 0, int attempt = 0) {
    const std::string state(breaker_state_name(source.breaker->state()));
    out.attempts.push_back({source.name, request, attempt, why, std::move(message), 0, 0, state, state});
}

}  // namespace

Status classify(const HttpResponse& response, BodyShape shape) {
    if (!response.error.ok()) {
        return response.error;
    }
    if (response.status < 200 || response.status > 299) {
        return {ErrorCode::http_status, "answered with status " + std::to_string(response.status)};
    }
    if (shape == BodyShape::anything) {
        return {};
    }
    // RFC 8259, 8.1: a parser may ignore a byte order mark. Readers of files do too.
    std::string_view given = response.body;
    if (given.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
        given.remove_prefix(kByteOrderMark.size());
    }
    const auto body = trim_blanks(given);
    const char first = shape == BodyShape::json_array ? '[' : '{';
    if (body.empty() || (shape != BodyShape::json && body.front() != first)) {
        return {ErrorCode::malformed_response,
                "answered 200 with a body that is not " + std::string(shape_name(shape))};
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

bool Failover::may_probe_primary(const FailoverSource& source) const {
    return source.breaker->state() == BreakerState::closed || secondary_since_us_ == 0 ||
           clock_->now_us() - secondary_since_us_ >= options_.return_after_us;
}

// One collection from one source: sends what is missing, round by round, until all requests are answered, the time or
// the attempts are used up, or the breaker opens. A half-open breaker lets one request through first, the probe.
class Failover::Collection {
public:
    Collection(Failover& failover, const FailoverSource& source, Deadline total, const RawSink& sink,
               const Interrupt& interrupt, FailoverResult& out)
        : failover_(failover),
          source_(source),
          deadline_{std::min(Deadline::after(*failover.clock_, source.budget_us).mono_us, total.mono_us)},
          sink_(sink),
          interrupt_(interrupt),
          out_(out),
          responses_(source.requests.size()),
          raw_keys_(source.requests.size()),
          numbers_(source.requests.size()),
          missing_(source.requests.size()) {
        std::iota(missing_.begin(), missing_.end(), std::size_t{0});
    }

    // Returns true if every request has a good response. If the whole fetch has to end, the reason is in out.error.
    bool run() {
        if (source_.requests.empty()) {
            // Without a request there is no answer, and nothing is known of the source's health.
            record_skip(out_, source_, ErrorCode::invalid_input,
                        "not called: the source has no request for this query");
            return false;
        }
        for (int attempt = 1; !missing_.empty(); ++attempt) {
            if (!send_round(attempt)) {
                return false;
            }
        }
        out_.source = source_.name;
        out_.responses = std::move(responses_);
        out_.raw_keys = std::move(raw_keys_);
        out_.numbers = std::move(numbers_);
        return true;
    }

private:
    struct Round {
        int attempt;
        std::uint64_t permit;
        std::vector<std::size_t> again;   // requests that may be sent again
        bool has_failed = false;          // a request may not be sent again
        std::int64_t retry_after_us = 0;  // the longest Retry-After
    };

    bool is_closed() const { return source_.breaker->state() == BreakerState::closed; }

    bool send_round(int attempt) {
        if (!source_.may_probe && !is_closed()) {
            record_skip(out_, source_, ErrorCode::circuit_open, "not called: another process sends the probe",
                        missing_.front(), attempt);
            return false;
        }
        Round round{attempt, source_.breaker->enter(), {}};
        if (round.permit == 0) {
            record_skip(out_, source_, ErrorCode::circuit_open, "not called: the circuit breaker is open",
                        missing_.front(), attempt);
            return false;
        }
        const bool probe = !is_closed();
        const std::size_t count = probe ? 1 : missing_.size();
        std::vector<HttpRequest> requests;
        for (std::size_t i = 0; i < count; ++i) {
            requests.push_back(source_.requests[missing_[i]]);
        }
        auto responses = failover_.send(requests, deadline_, probe, interrupt_);
        for (std::size_t i = 0; i < count; ++i) {
            if (auto status = take(missing_[i], std::move(responses[i]), round); !status.ok()) {
                source_.breaker->on_abandoned(round.permit);
                out_.error = std::move(status);
                return false;
            }
        }
        if (round.has_failed || (!round.again.empty() && !wait_to_retry(round))) {
            return false;
        }
        round.again.insert(round.again.end(), missing_.begin() + static_cast<std::ptrdiff_t>(count), missing_.end());
        missing_ = std::move(round.again);
        return true;
    }

    // Stores one response, judges it, and reports it to the breaker. An error ends the whole fetch.
    Status take(std::size_t index, HttpResponse response, Round& round) {
        const std::string before(breaker_state_name(source_.breaker->state()));
        if (response.error.code() == ErrorCode::interrupted) {
            return response.error;
        }
        if (response.error.ok() && sink_) {
            HG_ASSIGN(raw_keys_[index], sink_(source_.name, source_.requests[index], response, round.attempt));
        }
        auto verdict = classify(response, source_.expected_shape);
        if (verdict.ok() && source_.check) {
            verdict = source_.check(index, response);
        }
        if (verdict.code() == ErrorCode::interrupted) {
            return verdict;
        }
        if (verdict.ok()) {
            source_.breaker->on_success(response.elapsed_us, round.permit);
            failover_.budget_->refund();
        } else {
            source_.breaker->on_failure(response.elapsed_us, round.permit);
            const auto advice = advise_retry(response, verdict, *failover_.clock_);
            if (advice.may_retry) {
                round.again.push_back(index);
                round.retry_after_us = std::max(round.retry_after_us, advice.wait_us);
            } else {
                round.has_failed = true;
            }
        }
        out_.attempts.push_back({source_.name, index, round.attempt, verdict.code(), verdict.message(), response.status,
                                 response.elapsed_us, before, std::string(breaker_state_name(source_.breaker->state())),
                                 response.hedged});
        responses_[index] = std::move(response);
        numbers_[index] = round.attempt;
        return {};
    }

    // Waits before the next round. Returns false if there is none: the attempts, the time or the retry budget are used
    // up, the breaker has opened, or Retry-After asks for more time than is left.
    bool wait_to_retry(const Round& round) {
        const auto& retry = failover_.options_.retry;
        const auto delay = std::max(round.retry_after_us, retry.delay_us(round.attempt, *failover_.random_));
        const bool may_retry = round.attempt < retry.max_attempts && is_closed() &&
                               delay < deadline_.left_us(*failover_.clock_) && failover_.budget_->take();
        if (may_retry && !sleep_interruptibly(*failover_.clock_, delay, interrupt_)) {
            out_.error = Status(ErrorCode::interrupted, "interrupted while waiting to retry");
            return false;
        }
        return may_retry;
    }

    Failover& failover_;
    const FailoverSource& source_;
    const Deadline deadline_;
    const RawSink& sink_;
    const Interrupt& interrupt_;
    FailoverResult& out_;
    // One of each for every request; those in missing_ have no good response yet.
    std::vector<HttpResponse> responses_;
    std::vector<std::string> raw_keys_;
    std::vector<int> numbers_;
    std::vector<std::size_t> missing_;
};

std::vector<HttpResponse> Failover::send(const std::vector<HttpRequest>& requests, Deadline deadline, bool probe,
                                         const Interrupt& interrupt) {
    if (options_.hedge_us > 0 && !probe) {
        return perform_hedged(*transport_, *clock_, requests, deadline, options_.concurrency, options_.hedge_us,
                              interrupt);
    }
    return transport_->perform(requests, deadline, options_.concurrency, interrupt);
}

FailoverResult Failover::fetch(const std::vector<FailoverSource>& sources, const RawSink& sink,
                               const Interrupt& interrupt) {
    FailoverResult out;
    const auto started = clock_->mono_us();
    const auto total = options_.total_us > 0 ? Deadline::after(*clock_, options_.total_us) : Deadline{};
    for (std::size_t i = 0; i < sources.size(); ++i) {
        const auto& source = sources[i];
        if (i > 0 && total.left_us(*clock_) <= 0) {
            record_skip(out, source, ErrorCode::timeout, "not called: the time for all sources is used up");
            continue;
        }
        if (i == 0 && sources.size() > 1 && !may_probe_primary(source)) {
            record_skip(out, source, ErrorCode::circuit_open,
                        "not called: the secondary has not served long enough yet");
            continue;
        }
        const bool ok = Collection(*this, source, total, sink, interrupt, out).run();
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
