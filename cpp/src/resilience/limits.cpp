#include "headgate/resilience/limits.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace headgate::resilience {
namespace {

constexpr std::int64_t kLongestUs = 1'000'000'000'000'000;  // thirty years, which fit into nanoseconds
// How long it takes to notice an interrupt or a clock that was moved.
constexpr auto kSlice = std::chrono::milliseconds(20);

}  // namespace

Result<std::shared_ptr<RateLimiter>> RateLimiter::make(double rate, int burst, std::shared_ptr<Clock> clock) {
    if (!(rate > 0) || !std::isfinite(rate) || burst < 1) {
        return Status(ErrorCode::invalid_input, "a rate limiter needs a rate above 0 and a burst of at least 1");
    }
    return std::shared_ptr<RateLimiter>(new RateLimiter(1e6 / rate, burst, std::move(clock)));
}

RateLimiter::RateLimiter(double interval_us, int burst, std::shared_ptr<Clock> clock)
    : interval_us_(interval_us),
      tolerance_us_(interval_us * (burst - 1)),
      burst_(burst),
      clock_(std::move(clock)),
      free_at_us_(static_cast<double>(clock_->mono_us())) {}

std::int64_t RateLimiter::try_acquire(int permits) {
    const MutexLock lock(mutex_);
    const auto now = static_cast<double>(clock_->mono_us());
    const auto from = std::max(free_at_us_, now);
    const auto wait = from + interval_us_ * (permits - 1) - tolerance_us_ - now;
    // A thousandth of a microsecond is tolerated, because sums of the interval are rounded.
    if (wait > 1e-3) {
        return std::max<std::int64_t>(1, std::llround(std::ceil(wait)));
    }
    free_at_us_ = from + interval_us_ * permits;
    return 0;
}

Status RateLimiter::acquire(std::int64_t timeout_us, const Interrupt& interrupt, int permits) {
    if (permits > burst_) {
        return {ErrorCode::invalid_input, "more permits than the burst can never be had at once"};
    }
    const auto deadline = Deadline::after(*clock_, timeout_us);
    while (true) {
        const auto wait = try_acquire(permits);
        if (wait == 0) {
            return {};
        }
        if (wait > deadline.left_us(*clock_)) {
            return {ErrorCode::unavailable, "the rate limit lets no call through in time"};
        }
        if (!sleep_interruptibly(*clock_, wait, interrupt)) {
            return {ErrorCode::interrupted, "interrupted while waiting for the rate limit"};
        }
    }
}

Result<std::shared_ptr<Bulkhead>> Bulkhead::make(int limit, std::shared_ptr<Clock> clock) {
    if (limit < 1) {
        return Status(ErrorCode::invalid_input, "a bulkhead needs a limit of at least 1");
    }
    return std::shared_ptr<Bulkhead>(new Bulkhead(limit, std::move(clock)));
}

bool Bulkhead::try_enter() {
    const MutexLock lock(mutex_);
    if (inside_ >= limit_) {
        return false;
    }
    ++inside_;
    return true;
}

Status Bulkhead::enter(std::int64_t timeout_us, const Interrupt& interrupt) {
    const auto deadline = Deadline::after(*clock_, timeout_us);
    // The calls inside take real time. An injected clock may stand still meanwhile, so both clocks end the wait.
    const auto real_deadline =
        std::chrono::steady_clock::now() + std::chrono::microseconds(std::min(timeout_us, kLongestUs));
    MutexLock lock(mutex_);
    while (inside_ >= limit_) {
        if (deadline.left_us(*clock_) <= 0 || std::chrono::steady_clock::now() >= real_deadline) {
            return {ErrorCode::busy, "the bulkhead is full"};
        }
        left_.wait_for(mutex_, kSlice);
        if (interrupt) {
            lock.unlock();  // the interrupt may take Python's GIL
            const bool stop = interrupt();
            lock.lock();
            if (stop) {
                return {ErrorCode::interrupted, "interrupted while waiting for the bulkhead"};
            }
        }
    }
    ++inside_;
    return {};
}

void Bulkhead::leave() {
    {
        const MutexLock lock(mutex_);
        inside_ = std::max(0, inside_ - 1);
    }
    left_.notify_one();
}

int Bulkhead::inside() const {
    const MutexLock lock(mutex_);
    return inside_;
}

}  // namespace headgate::resilience
