// Retry around breaker around rate limiter around bulkhead around a Python callable; each of them may be missing.
#pragma once

#include "py.hpp"

#include <optional>

#include "headgate/resilience/breaker.hpp"
#include "headgate/resilience/limits.hpp"

namespace headgate::bindings {

// What one call of a guard holds while it runs: the breaker's permit and a place in the bulkhead. Both give themselves
// back, whatever ends the call.
class Admission {
public:
    Admission() = default;
    ~Admission() { leave(); }
    Admission(Admission&& other) noexcept
        : permit(std::move(other.permit)),
          has_token(other.has_token),
          wait_until_us(other.wait_until_us),
          bulkhead_(std::move(other.bulkhead_)) {}
    Admission& operator=(Admission&&) = delete;

    resilience::Permit permit;
    // Of a call that waits without blocking its thread: it has passed the limiter, and when its wait ends.
    bool has_token = false;
    std::int64_t wait_until_us = -1;

    void entered(std::shared_ptr<resilience::Bulkhead> bulkhead) { bulkhead_ = std::move(bulkhead); }
    void leave() {
        if (const auto bulkhead = std::exchange(bulkhead_, nullptr)) {
            bulkhead->leave();
        }
    }

private:
    std::shared_ptr<resilience::Bulkhead> bulkhead_;
};

// The policies' locks are never held while Python runs. Members are set before the first call and not changed after.
class Guard {
public:
    std::shared_ptr<resilience::CircuitBreaker> breaker;
    std::optional<resilience::RetryPolicy> retry;
    std::shared_ptr<resilience::RetryBudget> budget;
    std::shared_ptr<resilience::RateLimiter> limiter;
    std::shared_ptr<resilience::Bulkhead> bulkhead;
    std::int64_t wait_us = 0;  // at the limiter and the bulkhead, each
    py::object failures;       // exception classes that count as failures, or a predicate of an exception
    bool failures_is_predicate = false;
    py::object bad_result;  // None, or a predicate: such a result is a failure
    py::object wait;        // None, or (error or result, attempt) -> seconds or None for the back-off
    py::object on_retry;    // None, or a hook: (attempt, seconds, error or None)
    py::object run_async;   // drives what is awaitable; see _async.py
    std::shared_ptr<Clock> clock;
    std::shared_ptr<Random> random;

    py::object call(const py::args& args, const py::kwargs& kwargs);

    // --- the parts of a call, for the driver of awaitables too

    // Asks the breaker; circuit_open when it refuses. Does not wait.
    Admission ask() const;
    // Waits for the limiter and the bulkhead, at most for `wait_us` each.
    void wait_for_turn(Admission& admission) const;
    // The same without blocking: 0 when the call may go, else microseconds after which to ask again.
    std::int64_t try_turn(Admission& admission) const;
    void succeeded(Admission& admission, std::int64_t elapsed_us) const;
    // Tells the breaker, and decides: microseconds until the next attempt, or nothing when there is none. `error` is
    // the exception, or None when `result` is a bad one; `left_us` is what is left of a deadline.
    std::optional<std::int64_t> failed(Admission& admission, const py::object& error, const py::object& result,
                                       int attempt, std::int64_t elapsed_us, std::int64_t started_us,
                                       std::uint64_t sequence, std::int64_t left_us = INT64_MAX) const;
    bool is_bad(const py::object& result) const;
    std::int64_t started_us() const { return needs_clock() ? clock->mono_us() : 0; }
    static std::uint64_t next_sequence();

private:
    bool needs_clock() const {
        return (breaker && breaker->options().slow_call_us > 0) || (retry && retry->total_us > 0);
    }
    bool pause(std::int64_t delay_us) const;  // false when interrupted
    bool counts(const py::object& error) const;
    std::optional<std::int64_t> delay_of(const py::object& subject, int attempt) const;
};

// Whether retries are off (0), as they are (-1), or at most so many attempts without a wait (a test's switch).
int retry_switch() noexcept;
void set_retry_switch(int attempts) noexcept;

void register_guard(py::module_& module);

}  // namespace headgate::bindings
