#include "headgate/resilience/breaker.hpp"

#include <algorithm>

namespace headgate::resilience {
namespace {

constexpr std::int64_t kBuckets = 16;  // of a time window: it moves on in steps of a sixteenth

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
    ++period_;
}

std::uint64_t CircuitBreaker::enter() {
    const std::lock_guard lock(mutex_);
    if (data_.state == BreakerState::closed) {
        return period_;
    }
    if (state_at(clock_->now_us()) == BreakerState::open || probing_) {
        return 0;
    }
    data_.state = BreakerState::half_open;
    probing_ = true;
    return ++period_;
}

// A late answer to a call that left before the breaker opened says nothing of the source's health now.
void CircuitBreaker::on_success(std::int64_t elapsed_us, std::uint64_t permit) {
    const std::lock_guard lock(mutex_);
    if (is_late(permit)) {
        return;
    }
    const bool slow = options_.slow_call_us > 0 && elapsed_us >= options_.slow_call_us;
    if (data_.state == BreakerState::half_open) {
        // A probe that is slow again is no recovery where slowness is a reason to open.
        if (slow && options_.slow_call_rate > 0) {
            open(clock_->now_us());
        } else {
            close();
        }
        return;
    }
    if (options_.has_rates() && data_.state == BreakerState::closed) {
        const auto now = clock_->now_us();
        count(now, false, slow);
        if (rates_say_open()) {
            open(now);
        }
    }
}

void CircuitBreaker::on_failure(std::int64_t elapsed_us, std::uint64_t permit) {
    const std::lock_guard lock(mutex_);
    if (is_late(permit)) {
        return;
    }
    const auto now = clock_->now_us();
    if (data_.state == BreakerState::half_open) {
        open(now);
        return;
    }
    drop_older(data_.failures_us, now - options_.window_us);
    data_.failures_us.push_back(now);
    if (data_.state != BreakerState::closed) {
        return;
    }
    if (options_.has_rates()) {
        count(now, true, options_.slow_call_us > 0 && elapsed_us >= options_.slow_call_us);
    }
    const bool counted = options_.failure_threshold > 0 &&
                         data_.failures_us.size() >= static_cast<std::size_t>(options_.failure_threshold);
    if (counted || rates_say_open()) {
        open(now);
    }
}

void CircuitBreaker::close() {
    data_ = BreakerSnapshot{};
    total_ = CallBucket{};
    probing_ = false;
    ++period_;
}

void CircuitBreaker::count(std::int64_t now_us, bool failed, bool slow) {
    auto& calls = data_.calls;
    const auto forget = [&] {
        total_.calls -= calls.front().calls;
        total_.failed -= calls.front().failed;
        total_.slow -= calls.front().slow;
        calls.pop_front();
    };
    if (options_.window_calls > 0) {
        calls.push_back({now_us, 0, 0, 0});
    } else {
        const auto width = std::max<std::int64_t>(1, options_.window_us / kBuckets);
        while (!calls.empty() && calls.front().at_us <= now_us - options_.window_us) {
            forget();
        }
        if (calls.empty() || now_us >= calls.back().at_us + width) {
            calls.push_back({now_us, 0, 0, 0});
        }
    }
    for (auto* bucket : {&calls.back(), &total_}) {
        ++bucket->calls;
        bucket->failed += failed ? 1 : 0;
        bucket->slow += slow ? 1 : 0;
    }
    while (options_.window_calls > 0 && calls.size() > static_cast<std::size_t>(options_.window_calls)) {
        forget();
    }
}

bool CircuitBreaker::rates_say_open() const {
    if (!options_.has_rates() || total_.calls < std::max(1, options_.minimum_calls)) {
        return false;
    }
    const auto calls = static_cast<double>(total_.calls);
    return (options_.failure_rate > 0 && static_cast<double>(total_.failed) >= options_.failure_rate * calls) ||
           (options_.slow_call_rate > 0 && static_cast<double>(total_.slow) >= options_.slow_call_rate * calls);
}

void CircuitBreaker::on_round(bool ok) {
    const std::lock_guard lock(mutex_);
    if (ok) {
        data_.failed_rounds = 0;
        return;
    }
    ++data_.failed_rounds;
    if (options_.max_failed_rounds > 0 && data_.state == BreakerState::closed &&
        data_.failed_rounds >= options_.max_failed_rounds) {
        open(clock_->now_us());
    }
}

void CircuitBreaker::on_abandoned(std::uint64_t permit) {
    const std::lock_guard lock(mutex_);
    if (!is_late(permit)) {
        probing_ = false;
    }
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
    total_ = CallBucket{};
    for (const auto& bucket : data_.calls) {
        total_.calls += bucket.calls;
        total_.failed += bucket.failed;
        total_.slow += bucket.slow;
    }
    probing_ = false;
    ++period_;
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
