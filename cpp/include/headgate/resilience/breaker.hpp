// Circuit breaker, failure tracker, retry policy and retry budget. All methods may be called from any thread, and none
// blocks but for a short lock. All times are microseconds, and the time comes from a Clock.
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

// The state of breakers and trackers is stored, and may come from another host. A stored time that is further ahead of
// our clock than this was written by a wrong clock, and is ignored.
constexpr std::int64_t kClockSkewUs = 5'000'000;

// When a breaker opens and closes. It can open for four reasons, each of which can be switched off: a number of
// failures, a number of failed rounds, a rate of failures, and a rate of slow calls. The rates are those of the calls
// within `window_us`, or of the last `window_calls` calls if that is set.
struct BreakerOptions {
    int failure_threshold = 5;              // failed calls within window_us that open it; 0: this rule is off
    std::int64_t window_us = 300'000'000;   // the window of failures and rates
    std::int64_t recovery_us = 60'000'000;  // how long it stays open before it is half-open
    int max_failed_rounds = 3;              // failed rounds in a row that open it; 0: this rule is off
    double failure_rate = 0;                // share of failed calls that opens it, in (0, 1]; 0: this rule is off
    std::int64_t slow_call_us = 0;          // a call is slow if it took at least this long; 0: no call is slow
    double slow_call_rate = 0;              // share of slow calls that opens it, in (0, 1]; 0: this rule is off
    int minimum_calls = 10;                 // the rates are not computed before this many calls
    int window_calls = 0;                   // the rates are those of the last N calls; 0: of window_us
    int success_threshold = 1;              // consecutive successful probes that close it

    // Returns invalid_input if an option is out of range, with a message that names it.
    Status check() const;
    bool has_rates() const { return failure_rate > 0 || (slow_call_rate > 0 && slow_call_us > 0); }
};

// How many calls ended in one part of the time window, or one single call if the window counts calls.
struct CallBucket {
    std::int64_t at_us = 0;
    std::int64_t calls = 0;
    std::int64_t failed = 0;
    std::int64_t slow = 0;
};

// The state of a breaker, as it is stored between processes. Times are those of Clock::now_us(). `opened_at_us` is set
// when the breaker opens, and by nothing else.
struct BreakerSnapshot {
    BreakerState state = BreakerState::closed;
    std::int64_t opened_at_us = 0;
    int failed_rounds = 0;
    std::deque<std::int64_t> failures_us;  // when calls failed, oldest first
    std::deque<CallBucket> calls;          // kept for the rates only, oldest first
    int probes_succeeded = 0;              // consecutive ones, while half-open
};

// Stops calls to a source that keeps failing.
//
//     closed     Calls are allowed and counted. A rule of BreakerOptions opens it.
//     open       No call is allowed. After `recovery_us` it is half-open.
//     half_open  One call at a time is allowed, the probe. If `success_threshold` probes succeed in a row, it closes
//     and
//                forgets its counts; if one fails, it opens again.
//
// An opening time in the future, written by a wrong clock, is ignored: the breaker is half-open at once.
class CircuitBreaker {
public:
    CircuitBreaker(BreakerOptions options, std::shared_ptr<Clock> clock);

    // Asks whether a call may be made. Returns 0 if not, otherwise a permit, which the caller passes to exactly one of
    // on_success(), on_failure() and on_abandoned(). The permit identifies the period in which the call began, so that
    // the late outcome of an earlier call is not taken for the outcome of a probe.
    std::uint64_t enter();
    bool allow() { return enter() != 0; }

    // Reports the outcome of a call that took `elapsed_us`. An outcome with the permit of an earlier period is ignored.
    // Permit 0 means that the caller has none; the outcome then counts for the current period.
    void on_success(std::int64_t elapsed_us = 0, std::uint64_t permit = 0);
    void on_failure(std::int64_t elapsed_us = 0, std::uint64_t permit = 0);
    // Reports that an allowed call was not made. If it was the probe, another one is allowed.
    void on_abandoned(std::uint64_t permit = 0);
    // Reports the outcome of a round: a whole collection with all its calls and retries.
    void on_round(bool ok);
    // The state at this moment; half_open if it is open and `recovery_us` have passed.
    BreakerState state() const;
    const BreakerOptions& options() const { return options_; }

    BreakerSnapshot snapshot() const;
    // Replaces the state by a stored one. If that is closed although it has enough failures to open (several processes
    // may have counted them), the breaker opens as of the last failure. Permits of calls that are under way stay valid
    // if state and opening time do not change.
    void restore(BreakerSnapshot snapshot);

    // Adds a function that is called after every change of state, on the thread that caused it and without a lock held.
    // Changes made by several threads at the same time may be reported in any order. Returns a number for
    // remove_listener().
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

// Permission to make one call, which reports to its breaker by itself: if neither succeeded() nor failed() was called
// before it is destroyed, it reports that the call was not made. For one thread at a time.
class Permit {
public:
    Permit() = default;
    // Asks the breaker; the answer is granted(). If `breaker` is null, every call is allowed.
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
    // True once the outcome was reported, or if there is none to report.
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

// Raises one alert for each series of failures: when there were `threshold` failures within `window_us` without a
// success between them.
class ConsecutiveFailureTracker {
public:
    ConsecutiveFailureTracker(int threshold, std::int64_t window_us, std::shared_ptr<Clock> clock);

    bool on_failure();  // returns true if this failure raises the alert
    bool on_success();  // returns true if it ends a series for which an alert was raised
    int count() const;  // the failures in the window
    TrackerSnapshot snapshot() const;
    void restore(TrackerSnapshot snapshot);

private:
    int threshold_;
    std::int64_t window_us_;
    std::shared_ptr<Clock> clock_;
    mutable Mutex mutex_;
    TrackerSnapshot data_ HG_GUARDED_BY(mutex_);
};

// Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the
// delay after attempt n is uniformly distributed in [0, min(cap, base * 2^(n-1))].
struct RetryPolicy {
    int max_attempts = 3;
    std::int64_t base_us = 200'000;
    std::int64_t cap_us = 5'000'000;
    std::int64_t total_us = 0;  // no attempt begins later than this after the first one began; 0: no limit
    // Returns invalid_input if a value is out of range, with a message that says what was expected.
    Status check() const;
    // The delay after attempt number `attempt`, counted from 1.
    std::int64_t delay_us(int attempt, Random& random) const;
};

// A token bucket that all retries of a process share, so that nested retry loops cannot multiply the load. A retry
// takes `cost` tokens, a success gives `refund` of them back. The defaults are those of botocore's standard retry mode.
class RetryBudget {
public:
    explicit RetryBudget(int capacity = 500, int cost = 5, int refund = 1)
        : capacity_(capacity), cost_(cost), refund_(refund), tokens_(capacity) {}
    bool take();    // takes the tokens for one retry; false if there are too few
    void refund();  // called after a success
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
