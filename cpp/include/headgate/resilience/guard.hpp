// The protections around one call, together: retries around a circuit breaker around a rate limiter around a bulkhead.
// Each of them may be missing. The guard decides; whoever makes the call does the calling and the waiting between
// attempts, on a thread or on an event loop.
//
//     Admission admission;
//     HG_RETURN_IF_ERROR(guard.admit(admission));
//     HG_RETURN_IF_ERROR(guard.wait_for_turn(admission, interrupt));
//     ... the call ...
//     guard.succeeded(admission, elapsed_us);   // or guard.failed(), then may_retry() and approve_delay()
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "headgate/resilience/breaker.hpp"
#include "headgate/resilience/limits.hpp"

namespace headgate::resilience {

// What one call holds while it runs: the breaker's permit and a place in the bulkhead. Both are given back when it is
// destroyed, however the call ends. For one thread at a time.
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

    Permit permit;
    bool has_token = false;           // the rate limiter has let the call through
    std::int64_t wait_until_us = -1;  // for try_turn(): when the wait that it has begun ends; -1 before the first one

    // Remembers the place in `bulkhead` that the call has taken, to leave it later.
    void entered(std::shared_ptr<Bulkhead> bulkhead) { bulkhead_ = std::move(bulkhead); }
    void leave() {
        if (const auto bulkhead = std::exchange(bulkhead_, nullptr)) {
            bulkhead->leave();
        }
    }

private:
    std::shared_ptr<Bulkhead> bulkhead_;
};

// The parts of a guard. Null or empty means that this protection is missing; clock and random are always set.
struct GuardPolicies {
    std::shared_ptr<CircuitBreaker> breaker;
    std::optional<RetryPolicy> retry;
    std::shared_ptr<RetryBudget> budget;
    std::shared_ptr<RateLimiter> limiter;
    std::shared_ptr<Bulkhead> bulkhead;
    std::int64_t wait_us = 0;  // the longest wait at the limiter, and the longest at the bulkhead
    std::shared_ptr<Clock> clock;
    std::shared_ptr<Random> random;
};

// May be used by any number of threads at once. All times are microseconds.
class Guard {
public:
    explicit Guard(GuardPolicies policies) : policies_(std::move(policies)) {}
    const GuardPolicies& policies() const { return policies_; }

    // Asks the breaker, without waiting. Returns circuit_open if it does not allow the call.
    Status admit(Admission& out) const {
        out.permit = Permit(policies_.breaker);
        return out.permit.granted() ? Status()
                                    : Status(ErrorCode::circuit_open, "not called: the circuit breaker is open");
    }

    // Waits for the limiter and then for the bulkhead, for at most `wait_us` each. Returns unavailable or busy if the
    // turn did not come in time, or interrupted.
    Status wait_for_turn(Admission& admission, const Interrupt& interrupt) const;
    // The same for callers that must not block. Returns 0 if the call may be made now, or the time after which to ask
    // again.
    Result<std::int64_t> try_turn(Admission& admission) const;

    // Reports how the call ended. Each gives back what the admission holds.
    void succeeded(Admission& admission, std::int64_t elapsed_us) const {
        admission.leave();
        admission.permit.succeeded(elapsed_us);
        if (policies_.budget) {
            policies_.budget->refund();
        }
    }
    void failed(Admission& admission, std::int64_t elapsed_us) const {
        admission.leave();
        admission.permit.failed(elapsed_us);
    }
    // For a call that was not made, or whose error says nothing of the callee's health, as that of a wrong argument.
    static void ignored(Admission& admission) {
        admission.leave();
        admission.permit.give_back();
    }

    // Whether failed calls are retried at all.
    bool has_retries() const;
    // Whether there may be another attempt after number `attempt`, counted from 1: attempts are left, and the breaker
    // is closed.
    bool may_retry(int attempt) const;
    // The policy's own delay after attempt number `attempt`.
    std::int64_t back_off_us(int attempt) const { return policies_.retry->delay_us(attempt, *policies_.random); }
    // Decides about a delay before the next attempt. Returns the delay, and takes the retry from the budget; or nothing
    // if the next attempt would begin later than the policy's total time after `started_us`, the monotonic time of the
    // first attempt, or not within `left_us`, or if the budget is used up.
    std::optional<std::int64_t> approve_delay(std::int64_t delay_us, std::int64_t started_us,
                                              std::int64_t left_us = INT64_MAX) const;

    // Whether a policy needs to know how long calls take. If not, callers need not ask the clock.
    bool needs_clock() const {
        return (policies_.breaker && policies_.breaker->options().slow_call_us > 0) ||
               (policies_.retry && policies_.retry->total_us > 0);
    }

private:
    GuardPolicies policies_;
};

// A switch of the whole process, for tests: -1 leaves retries as they are; 0 turns them off; a larger number is the
// largest number of attempts, without a wait between them.
int retry_switch() noexcept;
void set_retry_switch(int attempts) noexcept;

}  // namespace headgate::resilience
