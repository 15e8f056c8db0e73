#include "headgate/resilience/breaker.hpp"

#include <algorithm>

namespace headgate::resilience {
namespace {

void drop_older(std::deque<std::int64_t>& times, std::int64_t limit) {
    while (!times.empty() && times.front() < limit) {
        times.pop_front();
    }
}

}  // namespace

std::string_view breaker_state_name(BreakerState state) noexcept {
    switch (state) {
        case BreakerState::open:
            return "open";
        case BreakerState::half_open:
            return "half_open";
        default:
            return "closed";
    }
}

CircuitBreaker::CircuitBreaker(BreakerOptions options, std::shared_ptr<Clock> clock)
    : options_(options), clock_(std::move(clock)) {}

BreakerState CircuitBreaker::state_at(std::int64_t now_us) const {
    if (data_.state == BreakerState::open && now_us >= data_.opened_at_us + options_.recovery_us) {
        return BreakerState::half_open;
    }
    return data_.state;
}

void CircuitBreaker::open(std::int64_t now_us) {
    data_.state = BreakerState::open;
    data_.opened_at_us = now_us;
    probing_ = false;
}

bool CircuitBreaker::allow() {
    const std::lock_guard lock(mutex_);
    if (data_.state == BreakerState::closed) {
        return true;
    }
    if (state_at(clock_->now_us()) == BreakerState::open || probing_) {
        return false;
    }
    data_.state = BreakerState::half_open;
    probing_ = true;
    return true;
}

void CircuitBreaker::on_success() {
    const std::lock_guard lock(mutex_);
    // A late answer to a call that left before the breaker opened says nothing of the source's health now.
    if (data_.state == BreakerState::half_open) {
        data_ = BreakerSnapshot{};
        probing_ = false;
    }
}

void CircuitBreaker::on_failure() {
    const std::lock_guard lock(mutex_);
    const auto now = clock_->now_us();
    if (data_.state == BreakerState::half_open) {
        open(now);
        return;
    }
    drop_older(data_.failures_us, now - options_.window_us);
    data_.failures_us.push_back(now);
    if (data_.state == BreakerState::closed &&
        data_.failures_us.size() >= static_cast<std::size_t>(options_.failure_threshold)) {
        open(now);
    }
}

void CircuitBreaker::on_round(bool ok) {
    const std::lock_guard lock(mutex_);
    if (ok) {
        data_.failed_rounds = 0;
        return;
    }
    ++data_.failed_rounds;
    if (data_.state == BreakerState::closed && data_.failed_rounds >= options_.max_failed_rounds) {
        open(clock_->now_us());
    }
}

void CircuitBreaker::on_abandoned() {
    const std::lock_guard lock(mutex_);
    probing_ = false;
}

BreakerState CircuitBreaker::state() const {
    const std::lock_guard lock(mutex_);
    return state_at(clock_->now_us());
}

BreakerSnapshot CircuitBreaker::snapshot() const {
    const std::lock_guard lock(mutex_);
    return data_;
}

void CircuitBreaker::restore(BreakerSnapshot snapshot) {
    const std::lock_guard lock(mutex_);
    data_ = std::move(snapshot);
    probing_ = false;
}

ConsecutiveFailureTracker::ConsecutiveFailureTracker(int threshold, std::int64_t window_us,
                                                     std::shared_ptr<Clock> clock)
    : threshold_(threshold), window_us_(window_us), clock_(std::move(clock)) {}

bool ConsecutiveFailureTracker::on_failure() {
    const std::lock_guard lock(mutex_);
    const auto now = clock_->now_us();
    drop_older(data_.failures_us, now - window_us_);
    data_.failures_us.push_back(now);
    if (data_.alerted || data_.failures_us.size() < static_cast<std::size_t>(threshold_)) {
        return false;
    }
    data_.alerted = true;
    return true;
}

bool ConsecutiveFailureTracker::on_success() {
    const std::lock_guard lock(mutex_);
    const bool recovered = data_.alerted;
    data_ = TrackerSnapshot{};
    return recovered;
}

int ConsecutiveFailureTracker::count() const {
    const std::lock_guard lock(mutex_);
    const auto limit = clock_->now_us() - window_us_;
    return static_cast<int>(std::count_if(data_.failures_us.begin(), data_.failures_us.end(),
                                          [limit](std::int64_t t) { return t >= limit; }));
}

TrackerSnapshot ConsecutiveFailureTracker::snapshot() const {
    const std::lock_guard lock(mutex_);
    return data_;
}

void ConsecutiveFailureTracker::restore(TrackerSnapshot snapshot) {
    const std::lock_guard lock(mutex_);
    data_ = std::move(snapshot);
}

std::int64_t RetryPolicy::delay_us(int attempt, Random& random) const {
    const int doublings = std::clamp(attempt - 1, 0, 30);
    const auto ceiling = std::min(cap_us, base_us << doublings);
    return static_cast<std::int64_t>(static_cast<double>(ceiling) * random.uniform());
}

bool RetryBudget::take() {
    const std::lock_guard lock(mutex_);
    if (tokens_ < cost_) {
        return false;
    }
    tokens_ -= cost_;
    return true;
}

void RetryBudget::refund() {
    const std::lock_guard lock(mutex_);
    tokens_ = std::min(capacity_, tokens_ + refund_);
}

int RetryBudget::tokens() const {
    const std::lock_guard lock(mutex_);
    return tokens_;
}

}  // namespace headgate::resilience
