// A guard (headgate/resilience/guard.hpp) around calls of a Python function. The decisions are the core's; here are the
// calls of Python: the function itself, predicates of failures, the caller's own back-off, and the hook of retries.
#pragma once

#include "py.hpp"

#include <optional>

#include "headgate/resilience/guard.hpp"

namespace headgate::bindings {

// What the caller of a guard has set in Python.
struct GuardHooks {
    py::object failures;  // a tuple of exception classes that count as failures, or a predicate of an exception
    bool failures_is_predicate = false;
    py::object bad_result;  // None, or a predicate: such a result counts as a failure
    py::object wait;        // None, or (error or result, attempt) -> seconds, or None for the policy's own delay
    py::object on_retry;    // None, or a function that is called before a wait: (attempt, seconds, error or None)
    py::object run_async;   // drives the call of an awaitable function; see resilience/_async.py
};

// How far a call has come when one of its attempts fails. All times are microseconds.
struct AttemptState {
    int attempt = 1;                   // counted from 1
    std::int64_t elapsed_us = 0;       // how long this attempt took
    std::int64_t started_us = 0;       // monotonic time of the first attempt
    std::uint64_t sequence = 0;        // the number that next_sequence() gave when the call began
    std::int64_t left_us = INT64_MAX;  // what is left of a deadline
};

// All methods are called with the GIL held; they release it while they wait. The core's locks are never held while
// Python code runs.
class PythonGuard {
public:
    PythonGuard(resilience::GuardPolicies policies, GuardHooks hooks)
        : guard_(std::move(policies)), hooks_(std::move(hooks)) {}

    // Calls args[0] with the other arguments, as often as the policies say. Returns its result or raises its exception;
    // an awaitable is handed to `run_async`.
    py::object call(const py::args& args, const py::kwargs& kwargs);

    // The parts of a call, for the driver of awaitables.
    resilience::Admission admit() const;
    void wait_for_turn(resilience::Admission& admission) const;
    std::int64_t try_turn(resilience::Admission& admission) const { return take(guard_.try_turn(admission)); }
    void succeeded(resilience::Admission& admission, std::int64_t elapsed_us) const {
        guard_.succeeded(admission, elapsed_us);
    }
    // Reports a failure and returns the time to wait before the next attempt, or nothing if there is none. `error` is
    // the exception, or None if `result` is a bad result.
    std::optional<std::int64_t> failed(resilience::Admission& admission, const py::object& error,
                                       const py::object& result, const AttemptState& state) const;
    bool is_bad(const py::object& result) const;
    // A number that grows with every call. It tells whether an exception was retried within this call.
    static std::uint64_t next_sequence();
    const resilience::GuardPolicies& policies() const { return guard_.policies(); }

private:
    bool pause(std::int64_t delay_us) const;  // returns false if it was interrupted
    bool counts(const py::object& error) const;
    bool was_retried_inside(const py::object& error, std::uint64_t sequence) const;
    void mark_as_retried(const py::object& error) const;
    std::optional<std::int64_t> delay_of(const py::object& subject, int attempt) const;

    resilience::Guard guard_;
    GuardHooks hooks_;
};

void register_guard(py::module_& module);

}  // namespace headgate::bindings
