// Circuit breaker, failure tracker, retry policy and retry budget. All thread-safe; all time comes from a Clock.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "headgate/base/clock.hpp"

namespace headgate::resilience {

enum class BreakerState : std::uint8_t { closed, open, half_open };
std::string_view breaker_state_name(BreakerState state) noexcept;

// Three reasons to open, each with its own switch: a count of failures, a rate of failures, a rate of slow calls. The
// rates look at the calls of `window_us`, or at the last `window_calls` when that is set.
struct BreakerOptions {
    int failure_threshold = 5;              // failed attempts within window_us; 0: no such rule
    std::int64_t window_us = 300'000'000;   // 300 s
    std::int64_t recovery_us = 60'000'000;  // open -> half-open after 60 s
    int max_failed_rounds = 3;              // failed collections in a row; 0: no such rule
    double failure_rate = 0;                // of the calls, in (0, 1]; 0: no such rule
    std::int64_t slow_call_us = 0;          // a call that took at least so long is slow; 0: none is
    double slow_call_rate = 0;              // of the calls, in (0, 1]; 0: no such rule
    int minimum_calls = 10;                 // before that many calls no rate is judged
    int window_calls = 0;                   // 0: the rates' window is window_us

    bool has_rates() const { return failure_rate > 0 || (slow_call_rate > 0 && slow_call_us > 0); }
};

// Calls that ended about the same time, or one call when the window counts calls.
struct CallBucket {
    std::int64_t at_us = 0;
    std::int64_t calls = 0;
    std::int64_t failed = 0;
    std::int64_t slow = 0;
};

// What lasts between processes. `opened_at_us` is set on opening and never rewritten by a reader.
struct BreakerSnapshot {
    BreakerState state = BreakerState::closed;
    std::int64_t opened_at_us = 0;
    int failed_rounds = 0;
    std::deque<std::int64_t> failures_us;  // attempts that failed, oldest first
    std::deque<CallBucket> calls;          // for the rates only, oldest first
};

// closed -> open at the threshold; open -> half_open after recovery, with exactly one probe in flight;
// half_open -> closed on success (counts cleared), -> open on failure.
class CircuitBreaker {
public:
    CircuitBreaker(BreakerOptions options, std::shared_ptr<Clock> clock);

    // May this call go out? In half-open one may, until its outcome is told. 0: no; else its permit, with which the
    // outcome is told: a call that left before the state changed says nothing of the new one.
    std::uint64_t enter();
    bool allow() { return enter() != 0; }
    void on_success(std::int64_t elapsed_us = 0, std::uint64_t permit = 0);  // permit 0: of the state as it is
    void on_failure(std::int64_t elapsed_us = 0, std::uint64_t permit = 0);
    void on_round(bool ok);                       // the outcome of a whole collection
    void on_abandoned(std::uint64_t permit = 0);  // an allowed call that never went out: gives the probe back
    BreakerState state() const;
    const BreakerOptions& options() const { return options_; }

    BreakerSnapshot snapshot() const;
    void restore(BreakerSnapshot snapshot);

private:
    BreakerState state_at(std::int64_t now_us) const;
    void open(std::int64_t now_us);
    void close();
    void count(std::int64_t now_us, bool failed, bool slow);
    bool rates_say_open() const;

    BreakerOptions options_;
    std::shared_ptr<Clock> clock_;
    mutable std::mutex mutex_;
    BreakerSnapshot data_;
    CallBucket total_;  // the sum of data_.calls
    bool probing_ = false;
    std::uint64_t period_ = 1;  // counts the changes of state, and the probes
    bool is_late(std::uint64_t permit) const { return permit != 0 && permit != period_; }
};

struct TrackerSnapshot {
    std::deque<std::int64_t> failures_us;
    bool alerted = false;
};

// Alerts once per run of failures: `threshold` failures within the window and no success between (FR-008).
class ConsecutiveFailureTracker {
public:
    ConsecutiveFailureTracker(int threshold, std::int64_t window_us, std::shared_ptr<Clock> clock);

    bool on_failure();  // true when this failure raises the alert
    bool on_success();  // true when it ends a run that had been alerted (a recovery)
    int count() const;
    TrackerSnapshot snapshot() const;
    void restore(TrackerSnapshot snapshot);

private:
    int threshold_;
    std::int64_t window_us_;
    std::shared_ptr<Clock> clock_;
    mutable std::mutex mutex_;
    TrackerSnapshot data_;
};

// Exponential back-off with full jitter: before attempt n + 1, uniform in [0, min(cap, base * 2^(n-1))].
struct RetryPolicy {
    int max_attempts = 3;
    std::int64_t base_us = 200'000;
    std::int64_t cap_us = 5'000'000;
    std::int64_t delay_us(int attempt, Random& random) const;
};

// A token bucket shared by all retries of a process, so that nested retry loops cannot multiply the load. A retry costs
// `cost`, a success gives `refund` back (the figures botocore's standard mode uses: 500, 5, 1).
class RetryBudget {
public:
    explicit RetryBudget(int capacity = 500, int cost = 5, int refund = 1)
        : capacity_(capacity), cost_(cost), refund_(refund), tokens_(capacity) {}
    bool take();
    void refund();
    int tokens() const;

private:
    int capacity_;
    int cost_;
    int refund_;
    mutable std::mutex mutex_;
    int tokens_;
};

}  // namespace headgate::resilience
