#include <atomic>
#include <thread>

#include "headgate/resilience/breaker.hpp"
#include "support.hpp"

namespace headgate::resilience {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

class Breaker : public testing::Test {
protected:
    std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>(1'000 * kSecond);
    CircuitBreaker breaker{BreakerOptions{}, clock};
    void fail(int times) {
        for (int i = 0; i < times; ++i) {
            breaker.on_failure();
        }
    }
};

TEST_F(Breaker, OpensAtFiveFailuresWithinTheWindow) {
    fail(4);
    EXPECT_EQ(breaker.state(), BreakerState::closed);
    clock->advance_us(301 * kSecond);
    fail(4);
    EXPECT_EQ(breaker.state(), BreakerState::closed);  // the first four are out of the window
    fail(1);
    EXPECT_EQ(breaker.state(), BreakerState::open);
    EXPECT_FALSE(breaker.allow());
}

TEST_F(Breaker, LetsExactlyOneProbeThrough) {
    fail(5);
    clock->advance_us(59 * kSecond);
    EXPECT_FALSE(breaker.allow());
    clock->advance_us(1 * kSecond);
    EXPECT_EQ(breaker.state(), BreakerState::half_open);
    std::atomic<int> allowed{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] { allowed += breaker.allow() ? 1 : 0; });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(allowed, 1);
    breaker.on_success();
    EXPECT_EQ(breaker.state(), BreakerState::closed);
    fail(4);
    EXPECT_EQ(breaker.state(), BreakerState::closed);  // closing cleared the count
}

TEST_F(Breaker, AFailedProbeOpensAgainForTheWholeTime) {
    fail(5);
    clock->advance_us(60 * kSecond);
    ASSERT_TRUE(breaker.allow());
    breaker.on_failure();
    clock->advance_us(59 * kSecond);
    EXPECT_FALSE(breaker.allow());
    clock->advance_us(1 * kSecond);
    EXPECT_TRUE(breaker.allow());
    breaker.on_abandoned();
    EXPECT_TRUE(breaker.allow());
}

TEST_F(Breaker, OpensAfterThreeFailedRoundsInARow) {
    breaker.on_round(false);
    breaker.on_round(false);
    breaker.on_round(true);
    breaker.on_round(false);
    breaker.on_round(false);
    EXPECT_EQ(breaker.state(), BreakerState::closed);
    breaker.on_round(false);
    EXPECT_EQ(breaker.state(), BreakerState::open);
}

TEST_F(Breaker, ReadingNeverMovesTheOpeningTime) {
    fail(5);
    const auto opened = breaker.snapshot().opened_at_us;
    for (int i = 0; i < 30; ++i) {
        clock->advance_us(kSecond);
        EXPECT_FALSE(breaker.allow());
        EXPECT_EQ(breaker.state(), BreakerState::open);
    }
    EXPECT_EQ(breaker.snapshot().opened_at_us, opened);
}

TEST_F(Breaker, SurvivesTheProcess) {
    fail(5);
    CircuitBreaker other(BreakerOptions{}, clock);
    other.restore(breaker.snapshot());
    EXPECT_EQ(other.state(), BreakerState::open);
    clock->advance_us(60 * kSecond);
    EXPECT_TRUE(other.allow());
}

TEST(Tracker, AlertsOncePerRunOfFailures) {
    const auto clock = std::make_shared<ManualClock>(0);
    ConsecutiveFailureTracker tracker(3, 900 * kSecond, clock);
    EXPECT_FALSE(tracker.on_failure());
    clock->advance_us(300 * kSecond);
    EXPECT_FALSE(tracker.on_failure());
    clock->advance_us(300 * kSecond);
    EXPECT_TRUE(tracker.on_failure());
    EXPECT_FALSE(tracker.on_failure());
    EXPECT_TRUE(tracker.on_success());
    EXPECT_FALSE(tracker.on_success());
    tracker.on_failure();
    clock->advance_us(901 * kSecond);
    EXPECT_EQ(tracker.count(), 0);
}

TEST(Retry, DelayIsJitteredAndCapped) {
    const RetryPolicy policy;
    SeededRandom random(3);
    for (int attempt = 1; attempt < 40; ++attempt) {
        const auto delay = policy.delay_us(attempt, random);
        EXPECT_GE(delay, 0);
        EXPECT_LE(delay, policy.cap_us);
    }
}

TEST(Retry, BudgetBoundsTheRetries) {
    RetryBudget budget(10, 5, 1);
    EXPECT_TRUE(budget.take());
    EXPECT_TRUE(budget.take());
    EXPECT_FALSE(budget.take());
    for (int i = 0; i < 100; ++i) {
        budget.refund();
    }
    EXPECT_EQ(budget.tokens(), 10);
}

}  // namespace
}  // namespace headgate::resilience
