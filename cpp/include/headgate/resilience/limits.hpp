// Rate limiter and bulkhead: how often, and how many at once. Both are thread-safe value types on an injected clock.
#pragma once

#include <cstdint>
#include <memory>

#include "headgate/base/clock.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/base/status.hpp"

namespace headgate::resilience {

// The generic cell rate algorithm (ITU-T I.371, annex A): `burst` permits at once, then `rate` a second, evenly. One
// number is its whole state.
class RateLimiter {
public:
    // invalid_input: rate <= 0 or burst < 1.
    static Result<std::shared_ptr<RateLimiter>> make(double rate, int burst, std::shared_ptr<Clock> clock);

    // Takes `permits` and returns 0, or takes none and returns how long to wait until they are there, microseconds.
    std::int64_t try_acquire(int permits = 1);
    // Waits for its turn. unavailable: not within `timeout_us` (told at once, nothing taken); interrupted.
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

// At most `limit` calls inside; others wait in no order, each for at most its time-out.
class Bulkhead {
public:
    // invalid_input: limit < 1.
    static Result<std::shared_ptr<Bulkhead>> make(int limit, std::shared_ptr<Clock> clock);

    bool try_enter();                                                   // false: full
    Status enter(std::int64_t timeout_us, const Interrupt& interrupt);  // busy: full for that long; interrupted
    void leave();
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
