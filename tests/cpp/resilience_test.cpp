#include <atomic>
#include <thread>

#include "headgate/resilience/guard.hpp"
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

TEST_F(Breaker, ACallThatLeftBeforeSaysNothingOfTheProbe) {
    const auto early = breaker.enter();
    fail(5);
    clock->advance_us(60 * kSecond);
    const auto probe = breaker.enter();
    ASSERT_NE(probe, 0U);
    breaker.on_failure(0, early);
    EXPECT_EQ(breaker.state(), BreakerState::half_open);
    breaker.on_success(0, early);
    EXPECT_EQ(breaker.state(), BreakerState::half_open);
    breaker.on_abandoned(early);
    EXPECT_EQ(breaker.enter(), 0U);  // the probe is still out
    breaker.on_abandoned(probe);
    const auto second = breaker.enter();
    ASSERT_NE(second, 0U);
    breaker.on_failure(0, probe);
    EXPECT_EQ(breaker.state(), BreakerState::half_open);
    breaker.on_success(0, second);
    EXPECT_EQ(breaker.state(), BreakerState::closed);
    for (int i = 0; i < 9; ++i) {
        breaker.on_failure(0, early);
    }
    EXPECT_EQ(breaker.state(), BreakerState::closed);
}

TEST_F(Breaker, APermitThatIsDroppedGivesItselfBack) {
    auto shared = std::make_shared<CircuitBreaker>(BreakerOptions{}, clock);
    for (int i = 0; i < 5; ++i) {
        Permit(shared).failed();
    }
    EXPECT_FALSE(Permit(shared).granted());
    clock->advance_us(60 * kSecond);
    {
        const Permit probe(shared);
        EXPECT_TRUE(probe.granted());
        EXPECT_FALSE(Permit(shared).granted());
    }
    Permit probe(shared);
    Permit moved(std::move(probe));
    moved.succeeded();
    EXPECT_EQ(shared->state(), BreakerState::closed);
    EXPECT_TRUE(Permit(nullptr).granted());
}

TEST_F(Breaker, ATimeInTheFutureIsNotBelieved) {
    BreakerSnapshot ahead;
    ahead.state = BreakerState::open;
    ahead.opened_at_us = clock->now_us() + 86'400 * kSecond;
    breaker.restore(ahead);
    EXPECT_EQ(breaker.state(), BreakerState::half_open);
    ahead.opened_at_us = clock->now_us() + kClockSkewUs;  // another host's clock
    breaker.restore(ahead);
    EXPECT_EQ(breaker.state(), BreakerState::open);
}

TEST_F(Breaker, TellsItsListenersOutsideTheLock) {
    std::vector<std::pair<BreakerState, BreakerState>> heard;
    const int number = breaker.add_listener([&](BreakerState from, BreakerState to) {
        EXPECT_EQ(breaker.state(), to);  // would wait for ever under the lock
        heard.emplace_back(from, to);
    });
    fail(5);
    breaker.remove_listener(number);
    breaker.restore({});
    ASSERT_EQ(heard.size(), 1U);
    EXPECT_EQ(heard[0], std::make_pair(BreakerState::closed, BreakerState::open));
}

TEST_F(Breaker, ARestoredStateKeepsThePermitsOfCallsUnderWay) {
    fail(5);
    clock->advance_us(60 * kSecond);
    const auto probe = breaker.enter();
    breaker.restore(breaker.snapshot());
    breaker.on_success(0, probe);
    EXPECT_EQ(breaker.state(), BreakerState::closed);
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

BreakerOptions rates_only() {
    BreakerOptions options;
    options.failure_threshold = 0;
    options.max_failed_rounds = 0;
    return options;
}

TEST_F(Breaker, OpensAtAFailureRateOfTheLastCalls) {
    auto options = rates_only();
    options.failure_rate = 0.5;
    options.window_calls = 10;
    options.minimum_calls = 10;
    CircuitBreaker counted(options, clock);
    for (int i = 0; i < 9; ++i) {
        counted.on_failure();
    }
    EXPECT_EQ(counted.state(), BreakerState::closed);  // nine calls are too few to judge
    counted.on_success();
    EXPECT_EQ(counted.state(), BreakerState::open);
    CircuitBreaker mixed(options, clock);
    for (int i = 0; i < 100; ++i) {
        i % 5 < 2 ? mixed.on_failure() : mixed.on_success();
    }
    EXPECT_EQ(mixed.state(), BreakerState::closed);  // 40 % of any ten in a row
    EXPECT_EQ(mixed.snapshot().calls.size(), 10U);
}

TEST_F(Breaker, OpensAtAFailureRateOfATime) {
    auto options = rates_only();
    options.failure_rate = 0.5;
    options.window_us = 16 * kSecond;
    options.minimum_calls = 4;
    CircuitBreaker timed(options, clock);
    for (int i = 0; i < 3; ++i) {
        timed.on_failure();
    }
    clock->advance_us(17 * kSecond);
    for (int i = 0; i < 3; ++i) {
        timed.on_success();
    }
    timed.on_failure();
    EXPECT_EQ(timed.state(), BreakerState::closed);  // the first three are forgotten
    CircuitBreaker other(options, clock);
    other.restore(timed.snapshot());
    timed.on_failure();
    timed.on_failure();
    other.on_failure();
    other.on_failure();
    EXPECT_EQ(timed.state(), BreakerState::open);  // three of six
    EXPECT_EQ(other.state(), BreakerState::open);  // rates survive the process, too
}

TEST_F(Breaker, OpensWhenCallsAreSlowAndASlowProbeIsNoRecovery) {
    auto options = rates_only();
    options.slow_call_us = kSecond;
    options.slow_call_rate = 0.5;
    options.minimum_calls = 4;
    CircuitBreaker slow(options, clock);
    slow.on_success(10);
    slow.on_success(10);
    slow.on_success(kSecond);
    slow.on_success(kSecond);
    EXPECT_EQ(slow.state(), BreakerState::open);
    clock->advance_us(60 * kSecond);
    ASSERT_TRUE(slow.allow());
    slow.on_success(2 * kSecond);
    EXPECT_EQ(slow.state(), BreakerState::open);
    clock->advance_us(60 * kSecond);
    ASSERT_TRUE(slow.allow());
    slow.on_success(10);
    EXPECT_EQ(slow.state(), BreakerState::closed);
}

TEST(Limiter, GivesABurstThenARate) {
    const auto clock = std::make_shared<ManualClock>(0);
    const auto limiter = RateLimiter::make(10, 3, clock).value();
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(limiter->try_acquire(), 0);
    }
    EXPECT_EQ(limiter->try_acquire(), 100'000);
    clock->advance_us(99'999);
    EXPECT_EQ(limiter->try_acquire(), 1);
    clock->advance_us(1);
    EXPECT_EQ(limiter->try_acquire(), 0);
    EXPECT_EQ(limiter->acquire(99'999, {}).code(), ErrorCode::unavailable);
    EXPECT_TRUE(limiter->acquire(100'000, {}).ok());  // the clock moved as it slept
    EXPECT_EQ(limiter->acquire(10 * kSecond, {}, 4).code(), ErrorCode::invalid_input);
    EXPECT_EQ(limiter->acquire(10 * kSecond, [] { return true; }).code(), ErrorCode::interrupted);
    clock->advance_us(3600 * kSecond);
    EXPECT_EQ(limiter->try_acquire(3), 0);  // idle time is worth one burst, no more
    EXPECT_GT(limiter->try_acquire(), 0);
    EXPECT_EQ(RateLimiter::make(0, 1, clock).status().code(), ErrorCode::invalid_input);
    EXPECT_EQ(RateLimiter::make(1, 0, clock).status().code(), ErrorCode::invalid_input);
}

TEST(Limiter, NeverGivesMoreThanItsRateToManyThreads) {
    const auto clock = std::make_shared<ManualClock>(0);
    const auto limiter = RateLimiter::make(1, 100, clock).value();
    std::atomic<int> given{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] {
            for (int n = 0; n < 50; ++n) {
                given += limiter->try_acquire() == 0 ? 1 : 0;
            }
        });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(given, 100);
}

TEST(Bulkheads, HoldTheLimit) {
    const auto clock = std::make_shared<SystemClock>();
    const auto bulkhead = Bulkhead::make(2, clock).value();
    std::atomic<int> inside{0};
    std::atomic<int> most{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] {
            for (int n = 0; n < 20; ++n) {
                ASSERT_TRUE(bulkhead->enter(30 * kSecond, {}).ok());
                const int now = ++inside;
                int seen = most.load();
                while (now > seen && !most.compare_exchange_weak(seen, now)) {
                }
                --inside;
                bulkhead->leave();
            }
        });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    EXPECT_LE(most, 2);
    EXPECT_EQ(bulkhead->inside(), 0);
    EXPECT_TRUE(bulkhead->enter(0, {}).ok());
    EXPECT_TRUE(bulkhead->enter(0, {}).ok());
    EXPECT_EQ(bulkhead->enter(1'000, {}).code(), ErrorCode::busy);
    EXPECT_EQ(bulkhead->enter(10 * kSecond, [] { return true; }).code(), ErrorCode::interrupted);
    EXPECT_EQ(Bulkhead::make(0, clock).status().code(), ErrorCode::invalid_input);
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

class Guards : public testing::Test {
protected:
    std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>(1'000 * kSecond);
    std::shared_ptr<CircuitBreaker> breaker = std::make_shared<CircuitBreaker>(BreakerOptions{}, clock);
    std::shared_ptr<RetryBudget> budget = std::make_shared<RetryBudget>(10, 5, 1);

    Guard guard(std::int64_t total_us = 0) const {
        GuardPolicies policies;
        policies.breaker = breaker;
        policies.retry = RetryPolicy{3, kSecond, kSecond, total_us};
        policies.budget = budget;
        policies.clock = clock;
        policies.random = std::make_shared<SeededRandom>(1);
        return Guard(policies);
    }
    // Makes the breaker half-open.
    void half_open() {
        for (int i = 0; i < 5; ++i) {
            breaker->on_failure();
        }
        clock->advance_us(60 * kSecond);
    }
};

TEST_F(Guards, ACallThatWasIgnoredGivesTheProbeBack) {
    half_open();
    const auto guard = this->guard();
    Admission probe;
    ASSERT_TRUE(guard.admit(probe).ok());
    Admission second;
    EXPECT_EQ(guard.admit(second).code(), ErrorCode::circuit_open);
    Guard::ignored(probe);
    EXPECT_TRUE(guard.admit(second).ok());
    guard.succeeded(second, 0);
    EXPECT_EQ(breaker->state(), BreakerState::closed);
}

TEST_F(Guards, AnAdmissionLeavesTheBulkheadHoweverTheCallEnds) {
    GuardPolicies policies;
    policies.bulkhead = Bulkhead::make(1, clock).value();
    policies.wait_us = kSecond;
    policies.clock = clock;
    const Guard guard(policies);
    {
        Admission inside;
        ASSERT_EQ(guard.try_turn(inside).value(), 0);
        Admission waiting;
        EXPECT_GT(guard.try_turn(waiting).value(), 0);
        clock->advance_us(kSecond);
        EXPECT_EQ(guard.try_turn(waiting).status().code(), ErrorCode::busy);
        EXPECT_EQ(policies.bulkhead->inside(), 1);
    }
    EXPECT_EQ(policies.bulkhead->inside(), 0);
}

TEST_F(Guards, ATurnAtTheLimiterIsTakenOnce) {
    GuardPolicies policies;
    policies.limiter = RateLimiter::make(1, 1, clock).value();
    policies.bulkhead = Bulkhead::make(1, clock).value();
    policies.wait_us = 10 * kSecond;
    policies.clock = clock;
    const Guard guard(policies);
    ASSERT_TRUE(policies.bulkhead->try_enter());
    Admission admission;
    EXPECT_GT(guard.try_turn(admission).value(), 0);  // past the limiter, and the bulkhead is full
    EXPECT_TRUE(admission.has_token);
    policies.bulkhead->leave();
    EXPECT_EQ(guard.try_turn(admission).value(), 0);
    Admission next;
    EXPECT_EQ(guard.try_turn(next).value(), kSecond);
}

TEST_F(Guards, RetriesEndWithTheAttemptsTheBreakerTheTimeAndTheBudget) {
    const auto guard = this->guard(10 * kSecond);
    const auto started = clock->mono_us();
    EXPECT_TRUE(guard.has_retries());
    EXPECT_TRUE(guard.may_retry(2));
    EXPECT_FALSE(guard.may_retry(3));
    EXPECT_EQ(guard.approve_delay(11 * kSecond, started), std::nullopt);              // beyond the total time
    EXPECT_EQ(guard.approve_delay(5 * kSecond, started, 5 * kSecond), std::nullopt);  // beyond the deadline
    EXPECT_EQ(budget->tokens(), 10);
    EXPECT_EQ(guard.approve_delay(5 * kSecond, started), 5 * kSecond);
    EXPECT_EQ(guard.approve_delay(5 * kSecond, started), 5 * kSecond);
    EXPECT_EQ(guard.approve_delay(5 * kSecond, started), std::nullopt);  // the budget is used up
    half_open();
    EXPECT_FALSE(guard.may_retry(1));
}

TEST_F(Guards, TheSwitchOfTestsBoundsTheAttemptsAndTheWait) {
    const auto guard = this->guard();
    set_retry_switch(0);
    EXPECT_FALSE(guard.has_retries());
    set_retry_switch(2);
    EXPECT_TRUE(guard.may_retry(1));
    EXPECT_FALSE(guard.may_retry(2));
    EXPECT_EQ(guard.approve_delay(5 * kSecond, 0), 0);
    set_retry_switch(-1);
    EXPECT_TRUE(guard.may_retry(2));
}

}  // namespace
}  // namespace headgate::resilience
