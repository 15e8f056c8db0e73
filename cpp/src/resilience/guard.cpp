#include "headgate/resilience/guard.hpp"

#include <algorithm>
#include <atomic>

namespace headgate::resilience {
namespace {

constexpr std::int64_t kBulkheadPollUs = 10'000;  // after this time a caller that must not block asks again

std::atomic<int> retry_switch_value{-1};

}  // namespace

Status Guard::wait_for_turn(Admission& admission, const Interrupt& interrupt) const {
    if (policies_.limiter && !admission.has_token) {
        HG_RETURN_IF_ERROR(policies_.limiter->acquire(policies_.wait_us, interrupt));
        admission.has_token = true;
    }
    if (policies_.bulkhead) {
        HG_RETURN_IF_ERROR(policies_.bulkhead->enter(policies_.wait_us, interrupt));
        admission.entered(policies_.bulkhead);
    }
    return {};
}

Result<std::int64_t> Guard::try_turn(Admission& admission) const {
    const auto now = policies_.clock->mono_us();
    if (admission.wait_until_us < 0) {
        admission.wait_until_us = now + policies_.wait_us;
    }
    if (policies_.limiter && !admission.has_token) {
        const auto token_us = policies_.limiter->try_acquire();
        if (token_us > admission.wait_until_us - now) {
            return Status(ErrorCode::unavailable, "the rate limit lets no call through in time");
        }
        if (token_us != 0) {
            return token_us;
        }
        admission.has_token = true;
        admission.wait_until_us = now + policies_.wait_us;
    }
    if (policies_.bulkhead) {
        if (!policies_.bulkhead->try_enter()) {
            if (now >= admission.wait_until_us) {
                return Status(ErrorCode::busy, "the bulkhead is full");
            }
            return kBulkheadPollUs;
        }
        admission.entered(policies_.bulkhead);
    }
    return std::int64_t{0};
}

bool Guard::has_retries() const {
    return policies_.retry && retry_switch() != 0;
}

bool Guard::may_retry(int attempt) const {
    const int limit = retry_switch();
    const int most = limit > 0 ? std::min(limit, policies_.retry->max_attempts) : policies_.retry->max_attempts;
    return attempt < most && (!policies_.breaker || policies_.breaker->state() == BreakerState::closed);
}

std::optional<std::int64_t> Guard::approve_delay(std::int64_t delay_us, std::int64_t started_us,
                                                 std::int64_t left_us) const {
    if (retry_switch() > 0) {
        delay_us = 0;
    }
    const auto total_us = policies_.retry->total_us;
    if (total_us > 0 && delay_us > total_us - std::min(total_us, policies_.clock->mono_us() - started_us)) {
        return std::nullopt;
    }
    if (delay_us >= left_us || (policies_.budget && !policies_.budget->take())) {
        return std::nullopt;
    }
    return delay_us;
}

int retry_switch() noexcept {
    return retry_switch_value.load(std::memory_order_relaxed);
}

void set_retry_switch(int attempts) noexcept {
    retry_switch_value.store(attempts, std::memory_order_relaxed);
}

}  // namespace headgate::resilience
