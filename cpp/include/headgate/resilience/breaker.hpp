// Circuit breaker, failure tracker, retry policy and retry budget. All thread-safe; all time comes from a Clock.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/base/status.hpp"

namespace headgate::resilience {

enum class BreakerState : std::uint8_t { closed, open, half_open };
std::string_view breaker_state_name(BreakerState state) noexcept;

// State outlives processes and is shared between hosts. A time that is further ahead of the clock than this was written
// by a clock that was wrong: what it says is not believed.
constexpr std::int64_t kClockSkewUs = 5'000'000;

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
    int success_threshold = 1;              // probes that have to succeed, one after the other, before it closes

    Status check() const;  // invalid_input: names the first option that is out of range
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
    int probes_succeeded = 0;              // in a row, while half-open
};

// closed -> open at the threshold; open -> half_open after recovery, with exactly one probe in flight;
// half_open -> closed on success (counts cleared), -> open on failure. An opening time in the future is not believed:
// the breaker is half-open at once.
class CircuitBreaker {
public:
    CircuitBreaker(BreakerOptions options, std::shared_ptr<Clock> clock);

    // May this call go out? In half-open one may, until its outcome is told. 0: no; else its permit, with which the
    // outcome is told: a call that left before the state changed says nothing of the new one.
    std::uint64_t enter();
    bool allow() { return enter() != 0; }
    // Permit 0: the outcome is of the state as it is. Only a permit lets a late outcome be told from a probe's.
    void on_success(std::int64_t elapsed_us = 0, std::uint64_t permit = 0);
    void on_failure(std::int64_t elapsed_us = 0, std::uint64_t permit = 0);
    void on_round(bool ok);                       // the outcome of a whole collection
    void on_abandoned(std::uint64_t permit = 0);  // an allowed call that never went out: gives the probe back
    BreakerState state() const;
    const BreakerOptions& options() const { return options_; }

    BreakerSnapshot snapshot() const;
    // Takes over a state. If it is closed although its failures say otherwise (several processes counted them), it
    // opens at the time of the last failure. Calls under way keep their permits if state and opening time stay as they
    // are.
    void restore(BreakerSnapshot snapshot);

    // Called after every change of state, without a lock held, on the thread that caused it; changes that happen at the
    // same time on several threads may be told in any order. Returns the number to remove it with.
    using Listener = std::function<void(BreakerState from, BreakerState to)>;
    int add_listener(Listener listener);
    void remove_listener(int number);

private:
    class Change;
    using Listeners = std::vector<std::pair<int, Listener>>;
    bool is_unbelievable(std::int64_t at_us, std::int64_t now_us) const { return at_us > now_us + kClockSkewUs; }
    BreakerState state_at(std::int64_t now_us) const HG_REQUIRES(mutex_);
    void open(std::int64_t now_us) HG_REQUIRES(mutex_);
    void close() HG_REQUIRES(mutex_);
    void count(std::int64_t now_us, bool failed, bool slow) HG_REQUIRES(mutex_);
    void forget_oldest() HG_REQUIRES(mutex_);  // drops the oldest bucket of data_.calls
    bool rates_say_open() const HG_REQUIRES(mutex_);

    BreakerOptions options_;
    std::shared_ptr<Clock> clock_;
    bool is_late(std::uint64_t permit) const HG_REQUIRES(mutex_) { return permit != 0 && permit != period_; }

    mutable Mutex mutex_;
    BreakerSnapshot data_ HG_GUARDED_BY(mutex_);
    // The sum of data_.calls.
    CallBucket total_ HG_GUARDED_BY(mutex_);
    // Copied on every change, so that listeners are called without the lock. Null if there are none.
    std::shared_ptr<const Listeners> listeners_ HG_GUARDED_BY(mutex_) = nullptr;
    int next_listener_ HG_GUARDED_BY(mutex_) = 1;
    bool probing_ HG_GUARDED_BY(mutex_) = false;
    // Counts the changes of state and the probes. A permit is the period in which its call began.
    std::uint64_t period_ HG_GUARDED_BY(mutex_) = 1;
};

// The right to make one call, which gives itself back: a permit whose outcome is not told says that the call never went
// out. Movable, not copyable.
class Permit {
public:
    Permit() = default;
    // Asks the breaker; check `granted()`. Without a breaker every call is allowed.
    explicit Permit(std::shared_ptr<CircuitBreaker> breaker) : breaker_(std::move(breaker)) {
        number_ = breaker_ ? breaker_->enter() : 0;
        granted_ = !breaker_ || number_ != 0;
    }
    Permit(Permit&& other) noexcept
        : breaker_(std::move(other.breaker_)), number_(std::exchange(other.number_, 0)), granted_(other.granted_) {}
    Permit& operator=(Permit&& other) noexcept {
        if (this != &other) {
            give_back();
            breaker_ = std::move(other.breaker_);
            number_ = std::exchange(other.number_, 0);
            granted_ = other.granted_;
        }
        return *this;
    }
    ~Permit() { give_back(); }

    bool granted() const { return granted_; }
    bool is_settled() const { return number_ == 0; }
    void succeeded(std::int64_t elapsed_us = 0) {
        if (const auto number = std::exchange(number_, 0); number != 0) {
            breaker_->on_success(elapsed_us, number);
        }
    }
    void failed(std::int64_t elapsed_us = 0) {
        if (const auto number = std::exchange(number_, 0); number != 0) {
            breaker_->on_failure(elapsed_us, number);
        }
    }
    void give_back() {
        if (const auto number = std::exchange(number_, 0); number != 0) {
            breaker_->on_abandoned(number);
        }
    }

private:
    std::shared_ptr<CircuitBreaker> breaker_;
    std::uint64_t number_ = 0;
    bool granted_ = false;
};

struct TrackerSnapshot {
    std::deque<std::int64_t> failures_us;
    bool alerted = false;
};

// Alerts once per run of failures: `threshold` failures within the window and no success between.
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
    mutable Mutex mutex_;
    TrackerSnapshot data_ HG_GUARDED_BY(mutex_);
};

// Exponential back-off with full jitter: before attempt n + 1, uniform in [0, min(cap, base * 2^(n-1))].
struct RetryPolicy {
    int max_attempts = 3;
    std::int64_t base_us = 200'000;
    std::int64_t cap_us = 5'000'000;
    std::int64_t total_us = 0;  // no attempt begins later than this after the first began; 0: no such limit
    Status check() const;       // invalid_input: names the first value that is out of range
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
    int capacity() const { return capacity_; }
    int cost() const { return cost_; }
    int refund_size() const { return refund_; }

private:
    int capacity_;
    int cost_;
    int refund_;
    mutable Mutex mutex_;
    int tokens_ HG_GUARDED_BY(mutex_);
};

}  // namespace headgate::resilience
