#include "headgate/resilience/breaker.hpp"

#include <algorithm>

namespace headgate::resilience {
namespace {

// A time window of rates consists of this many buckets; it moves forward by one bucket at a time.
constexpr std::int64_t kBuckets = 16;

// Removes times that are older than the window, and times in the future, which a wrong clock has written.
void drop_outside(std::deque<std::int64_t>& times, std::int64_t from, std::int64_t now_us) {
    while (!times.empty() && times.front() < from) {
        times.pop_front();
    }
    const auto outside = [&](std::int64_t t) { return t < from || t > now_us + kClockSkewUs; };
    if (!times.empty() && (times.back() > now_us + kClockSkewUs || times.front() > now_us + kClockSkewUs)) {
        std::erase_if(times, outside);
    }
}

Status out_of_range(const char* what) {
    return {ErrorCode::invalid_input, std::string("a circuit breaker's ") + what};
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

Status BreakerOptions::check() const {
    if (failure_threshold < 0 || max_failed_rounds < 0 || minimum_calls < 0 || window_calls < 0) {
        return out_of_range("counts: one is negative; expected 0 or more");
    }
    if (window_us <= 0 || recovery_us < 0 || slow_call_us < 0) {
        return out_of_range("times: expected a window above 0, and a recovery and a slow call of 0 or more");
    }
    if (!(failure_rate >= 0 && failure_rate <= 1) || !(slow_call_rate >= 0 && slow_call_rate <= 1)) {
        return out_of_range("rates: expected 0 to 1");
    }
    if (success_threshold < 1) {
        return out_of_range("success threshold: expected at least 1");
    }
    return {};
}

// Holds the breaker's lock during one call. If the call has changed the state, the listeners are called after the lock
// was released.
class HG_SCOPED_CAPABILITY CircuitBreaker::Change {
public:
    explicit Change(CircuitBreaker& breaker) HG_ACQUIRE(breaker.mutex_)
        : breaker_(breaker), lock_(breaker.mutex_), before_(breaker.data_.state) {}
    ~Change() HG_RELEASE() {
        const auto after = breaker_.data_.state;
        if (after == before_ || breaker_.listeners_ == nullptr) {
            return;
        }
        const auto listeners = breaker_.listeners_;
        lock_.unlock();
        for (const auto& [number, listener] : *listeners) {
            listener(before_, after);
        }
    }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

private:
    CircuitBreaker& breaker_;
    MutexLock lock_;
    BreakerState before_;
};

int CircuitBreaker::add_listener(Listener listener) {
    const MutexLock lock(mutex_);
    auto all = listeners_ == nullptr ? Listeners{} : *listeners_;
    all.emplace_back(next_listener_, std::move(listener));
    listeners_ = std::make_shared<const Listeners>(std::move(all));
    return next_listener_++;
}

void CircuitBreaker::remove_listener(int number) {
    std::shared_ptr<const Listeners>
        old;  // destroyed after the lock is released, because a listener may own objects of Python
    const MutexLock lock(mutex_);
    auto all = listeners_ == nullptr ? Listeners{} : *listeners_;
    std::erase_if(all, [number](const auto& entry) { return entry.first == number; });
    old = std::exchange(listeners_, all.empty() ? nullptr : std::make_shared<const Listeners>(std::move(all)));
}

CircuitBreaker::CircuitBreaker(BreakerOptions options, std::shared_ptr<Clock> clock)
    : options_(options), clock_(std::move(clock)) {}

BreakerState CircuitBreaker::state_at(std::int64_t now_us) const {
    if (data_.state == BreakerState::open &&
        (now_us >= data_.opened_at_us + options_.recovery_us || is_unbelievable(data_.opened_at_us, now_us))) {
        return BreakerState::half_open;
    }
    return data_.state;
}

void CircuitBreaker::open(std::int64_t now_us) {
    data_.state = BreakerState::open;
    data_.opened_at_us = now_us;
    data_.probes_succeeded = 0;
    probing_ = false;
    ++period_;
}

std::uint64_t CircuitBreaker::enter() {
    const Change change(*this);
    if (data_.state == BreakerState::closed) {
        return period_;
    }
    if (state_at(clock_->now_us()) == BreakerState::open || probing_) {
        return 0;
    }
    if (data_.state != BreakerState::half_open) {
        data_.state = BreakerState::half_open;
        data_.probes_succeeded = 0;
    }
    probing_ = true;
    return ++period_;
}

// The late response to a call that began before the breaker opened is ignored: it does not tell how the source is now.
void CircuitBreaker::on_success(std::int64_t elapsed_us, std::uint64_t permit) {
    const Change change(*this);
    if (is_late(permit)) {
        return;
    }
    const bool slow = options_.slow_call_us > 0 && elapsed_us >= options_.slow_call_us;
    if (data_.state == BreakerState::half_open) {
        // If slowness is a reason to open, a slow probe is not a recovery.
        if (slow && options_.slow_call_rate > 0) {
            open(clock_->now_us());
        } else if (++data_.probes_succeeded >= options_.success_threshold) {
            close();
        } else {
            probing_ = false;  // the next probe is allowed
            ++period_;
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
    const Change change(*this);
    if (is_late(permit)) {
        return;
    }
    const auto now = clock_->now_us();
    if (data_.state == BreakerState::half_open) {
        open(now);
        return;
    }
    drop_outside(data_.failures_us, now - options_.window_us, now);
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

void CircuitBreaker::forget_oldest() {
    const auto& oldest = data_.calls.front();
    total_.calls -= oldest.calls;
    total_.failed -= oldest.failed;
    total_.slow -= oldest.slow;
    data_.calls.pop_front();
}

void CircuitBreaker::count(std::int64_t now_us, bool failed, bool slow) {
    auto& calls = data_.calls;
    if (!calls.empty() && is_unbelievable(calls.back().at_us, now_us)) {
        calls.clear();
        total_ = CallBucket{};
    }
    if (options_.window_calls > 0) {
        calls.push_back({now_us, 0, 0, 0});
    } else {
        const auto width = std::max<std::int64_t>(1, options_.window_us / kBuckets);
        while (!calls.empty() && calls.front().at_us <= now_us - options_.window_us) {
            forget_oldest();
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
        forget_oldest();
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
    const Change change(*this);
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
    const MutexLock lock(mutex_);
    if (!is_late(permit)) {
        probing_ = false;
    }
}

BreakerState CircuitBreaker::state() const {
    const MutexLock lock(mutex_);
    return state_at(clock_->now_us());
}

BreakerSnapshot CircuitBreaker::snapshot() const {
    const MutexLock lock(mutex_);
    return data_;
}

void CircuitBreaker::restore(BreakerSnapshot snapshot) {
    const Change change(*this);
    const bool is_same = data_.state == snapshot.state && data_.opened_at_us == snapshot.opened_at_us;
    data_ = std::move(snapshot);
    total_ = CallBucket{};
    for (const auto& bucket : data_.calls) {
        total_.calls += bucket.calls;
        total_.failed += bucket.failed;
        total_.slow += bucket.slow;
    }
    if (!is_same) {  // otherwise calls that are under way keep their permits
        probing_ = false;
        ++period_;
    }
    if (data_.state != BreakerState::closed) {
        return;
    }
    const auto now = clock_->now_us();
    drop_outside(data_.failures_us, now - options_.window_us, now);
    const bool counted = options_.failure_threshold > 0 &&
                         data_.failures_us.size() >= static_cast<std::size_t>(options_.failure_threshold);
    const bool rounds = options_.max_failed_rounds > 0 && data_.failed_rounds >= options_.max_failed_rounds;
    if (counted || rounds) {
        open(data_.failures_us.empty() ? now : data_.failures_us.back());
    }
}

ConsecutiveFailureTracker::ConsecutiveFailureTracker(int threshold, std::int64_t window_us,
                                                     std::shared_ptr<Clock> clock)
    : threshold_(threshold), window_us_(window_us), clock_(std::move(clock)) {}

bool ConsecutiveFailureTracker::on_failure() {
    const MutexLock lock(mutex_);
    const auto now = clock_->now_us();
    drop_outside(data_.failures_us, now - window_us_, now);
    data_.failures_us.push_back(now);
    if (data_.alerted || data_.failures_us.size() < static_cast<std::size_t>(threshold_)) {
        return false;
    }
    data_.alerted = true;
    return true;
}

bool ConsecutiveFailureTracker::on_success() {
    const MutexLock lock(mutex_);
    const bool recovered = data_.alerted;
    data_ = TrackerSnapshot{};
    return recovered;
}

int ConsecutiveFailureTracker::count() const {
    const MutexLock lock(mutex_);
    const auto now = clock_->now_us();
    return static_cast<int>(std::count_if(data_.failures_us.begin(), data_.failures_us.end(), [&](std::int64_t t) {
        return t >= now - window_us_ && t <= now + kClockSkewUs;
    }));
}

TrackerSnapshot ConsecutiveFailureTracker::snapshot() const {
    const MutexLock lock(mutex_);
    return data_;
}

void ConsecutiveFailureTracker::restore(TrackerSnapshot snapshot) {
    const MutexLock lock(mutex_);
    data_ = std::move(snapshot);
}

Status RetryPolicy::check() const {
    if (max_attempts < 1) {
        return {ErrorCode::invalid_input, "a retry policy's attempts: expected at least 1"};
    }
    if (base_us < 0 || cap_us < 0 || total_us < 0) {
        return {ErrorCode::invalid_input, "a retry policy's times: one is negative; expected 0 or more"};
    }
    return {};
}

std::int64_t RetryPolicy::delay_us(int attempt, Random& random) const {
    auto ceiling = std::min(base_us, cap_us);
    for (int doubling = 1; doubling < attempt && ceiling < cap_us && ceiling > 0; ++doubling) {
        ceiling = ceiling > cap_us / 2 ? cap_us : ceiling * 2;
    }
    return static_cast<std::int64_t>(static_cast<double>(ceiling) * random.uniform());
}

bool RetryBudget::take() {
    const MutexLock lock(mutex_);
    if (tokens_ < cost_) {
        return false;
    }
    tokens_ -= cost_;
    return true;
}

void RetryBudget::refund() {
    const MutexLock lock(mutex_);
    tokens_ = std::min(capacity_, tokens_ + refund_);
}

int RetryBudget::tokens() const {
    const MutexLock lock(mutex_);
    return tokens_;
}

}  // namespace headgate::resilience
