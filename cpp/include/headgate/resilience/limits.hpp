// Rate limiter (how often calls may be made) and bulkhead (how many may run at once). All methods may be called from
// any thread. All times are microseconds; the time comes from a Clock.
#pragma once

#include <cstdint>
#include <memory>

#include "headgate/base/clock.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/base/status.hpp"

namespace headgate::resilience {

// Allows `burst` calls at once, and `rate` a second, evenly spaced, after that. This is the generic cell rate algorithm
// (ITU-T I.371, annex A), whose whole state is one number.
class RateLimiter {
public:
    // `rate` is in calls a second. Returns invalid_input if it is not above 0 or if `burst` is below 1.
    static Result<std::shared_ptr<RateLimiter>> make(double rate, int burst, std::shared_ptr<Clock> clock);

    // Takes `permits` and returns 0; or takes none and returns how long to wait until they are there.
    std::int64_t try_acquire(int permits = 1);
    // Waits until `permits` are there and takes them. Returns unavailable, without waiting, if that takes longer than
    // `timeout_us`; interrupted if `interrupt` says so; invalid_input if `permits` is above the burst. Takes nothing
    // unless it returns ok.
    Status acquire(std::int64_t timeout_us, const Interrupt& interrupt, int permits = 1);

    double rate() const { return 1e6 / interval_us_; }
    int burst() const { return burst_; }

private:
    RateLimiter(double interval_us, int burst, std::shared_ptr<Clock> clock);

    double interval_us_;
    double tolerance_us_;
    int burst_;
    std::shared_ptr<Clock> clock_;
    Mutex mutex_;
    // The theoretical arrival time of the next permit.
    double free_at_us_ HG_GUARDED_BY(mutex_);
};

// Lets at most `limit` calls run at once. Others wait, in no particular order.
class Bulkhead {
public:
    // Returns invalid_input if `limit` is below 1.
    static Result<std::shared_ptr<Bulkhead>> make(int limit, std::shared_ptr<Clock> clock);

    // Begins a call, or returns false if the bulkhead is full.
    bool try_enter();
    // Waits until a call may begin. Returns busy if that was not so within `timeout_us`, or interrupted.
    Status enter(std::int64_t timeout_us, const Interrupt& interrupt);
    // Ends a call that try_enter() or enter() began.
    void leave();
    // The number of calls that are running.
    int inside() const;
    int limit() const { return limit_; }

private:
    Bulkhead(int limit, std::shared_ptr<Clock> clock) : limit_(limit), clock_(std::move(clock)) {}

    int limit_;
    std::shared_ptr<Clock> clock_;
    mutable Mutex mutex_;
    ConditionVariable left_;
    int inside_ HG_GUARDED_BY(mutex_) = 0;
};

}  // namespace headgate::resilience
