// One suite for every ledger that needs no server; Redis runs the same cases from Python.
#include <atomic>
#include <map>
#include <thread>

#include "headgate/backends/sqlite.hpp"
#include "headgate/ledger/ledger.hpp"
#include "support.hpp"

namespace headgate::ledger {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

struct World {
    tests::TemporaryFolder folder;
    std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>(1'000 * kSecond);
    std::shared_ptr<Random> random = std::make_shared<SeededRandom>(5);
    std::shared_ptr<Ledger> ledger;
};

class LedgerSuite : public testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        const LedgerOptions options{100 * kSecond};
        if (std::string(GetParam()) == "memory") {
            world.ledger = make_memory_ledger(options, world.clock, world.random);
        } else {
            auto database = backends::Database::open(world.folder / "l.db", {});
            ASSERT_TRUE(database.ok()) << database.status().message();
            world.ledger = backends::make_sqlite_ledger(database.value(), options, world.clock, world.random);
        }
    }
    Claim claim(const std::string& key, const std::string& payload = "") {
        auto out = world.ledger->claim({{key, 10 * kSecond, payload}});
        EXPECT_TRUE(out.ok());
        return out.value().at(0);
    }
    World world;
};

TEST_P(LedgerSuite, ClaimCompleteDone) {
    const auto first = claim("k");
    EXPECT_EQ(first.status, ClaimStatus::acquired);
    EXPECT_EQ(first.attempts, 1);
    EXPECT_EQ(claim("k").status, ClaimStatus::in_progress);
    EXPECT_EQ(claim("k").until_us, first.until_us);
    EXPECT_TRUE(world.ledger->complete({first}, {"\"r\""}).ok());
    const auto again = claim("k");
    EXPECT_EQ(again.status, ClaimStatus::done);
    EXPECT_EQ(again.result, "\"r\"");
}

TEST_P(LedgerSuite, AnOvertakenOwnerChangesNothing) {
    const auto a = claim("k");
    world.clock->advance_us(11 * kSecond);
    const auto b = claim("k");
    ASSERT_EQ(b.status, ClaimStatus::acquired);
    EXPECT_EQ(b.attempts, 2);
    EXPECT_EQ(world.ledger->complete({a}, {"\"a\""}).code(), ErrorCode::stale_lease);
    EXPECT_EQ(world.ledger->release(a, "x", true).code(), ErrorCode::stale_lease);
    EXPECT_EQ(world.ledger->renew(a, kSecond).status().code(), ErrorCode::stale_lease);
    EXPECT_EQ(claim("k").status, ClaimStatus::in_progress);  // a third caller still waits
    EXPECT_TRUE(world.ledger->complete({b}, {"\"b\""}).ok());
    EXPECT_EQ(world.ledger->complete({a}, {"\"a\""}).code(), ErrorCode::stale_lease);
    EXPECT_EQ(claim("k").result, "\"b\"");
}

TEST_P(LedgerSuite, ReleaseKeepsAttemptsAndError) {
    EXPECT_TRUE(world.ledger->release(claim("k"), "boom", true).ok());
    const auto again = claim("k");
    EXPECT_EQ(again.status, ClaimStatus::acquired);
    EXPECT_EQ(again.attempts, 2);
    EXPECT_EQ(again.last_error, "boom");
}

TEST_P(LedgerSuite, AnAttemptThatWasNoneIsGivenBackOnce) {
    EXPECT_TRUE(world.ledger->release(claim("k"), "boom", true).ok());
    const auto second = claim("k");
    EXPECT_EQ(second.attempts, 2);
    EXPECT_TRUE(world.ledger->release(second, "", false).ok());
    EXPECT_TRUE(world.ledger->release(second, "", false).ok());
    const auto third = claim("k");
    EXPECT_EQ(third.attempts, 2);
    EXPECT_EQ(third.last_error, "boom");
}

TEST_P(LedgerSuite, APairIsAcquiredTogetherOrNotAtAll) {
    const ClaimRequest request{"new", 10 * kSecond, ""};
    const auto both = world.ledger->claim_pair(request, "old").value();
    EXPECT_EQ(both.status, ClaimStatus::acquired);
    EXPECT_FALSE(both.legacy_token.empty());
    EXPECT_EQ(claim("old").status, ClaimStatus::in_progress);
    EXPECT_TRUE(world.ledger->complete({claim("before")}, {"\"b\""}).ok());
    const ClaimRequest other{"after", 10 * kSecond, ""};
    const auto done = world.ledger->claim_pair(other, "before").value();
    EXPECT_EQ(done.status, ClaimStatus::done);
    EXPECT_EQ(done.result, "\"b\"");
    EXPECT_EQ(claim("after").attempts, 1);
    const ClaimRequest held{"after", 10 * kSecond, ""};
    EXPECT_EQ(world.ledger->claim_pair(held, "free").value().status, ClaimStatus::in_progress);
    EXPECT_EQ(claim("free").attempts, 1);
}

TEST_P(LedgerSuite, RenewExtends) {
    const auto a = claim("k");
    world.clock->advance_us(9 * kSecond);
    EXPECT_EQ(world.ledger->renew(a, 10 * kSecond).value(), world.clock->now_us() + 10 * kSecond);
    world.clock->advance_us(9 * kSecond);
    EXPECT_EQ(claim("k").status, ClaimStatus::in_progress);
}

TEST_P(LedgerSuite, PayloadsAreCompared) {
    const auto a = claim("k", "p1");
    EXPECT_EQ(claim("k", "p2").error.code(), ErrorCode::payload_mismatch);
    EXPECT_TRUE(claim("k", "p1").error.ok());
    EXPECT_TRUE(world.ledger->complete({a}, {"1"}).ok());
    EXPECT_EQ(claim("k", "p2").error.code(), ErrorCode::payload_mismatch);
}

TEST_P(LedgerSuite, DoneKeysExpireAndArePruned) {
    EXPECT_TRUE(world.ledger->complete({claim("k")}, {"1"}).ok());
    world.clock->advance_us(99 * kSecond);
    EXPECT_EQ(claim("k").status, ClaimStatus::done);
    EXPECT_EQ(world.ledger->prune().value(), 0);
    world.clock->advance_us(1 * kSecond);
    EXPECT_EQ(world.ledger->prune().value(), 1);
    const auto fresh = claim("k");
    EXPECT_EQ(fresh.status, ClaimStatus::acquired);
    EXPECT_EQ(fresh.attempts, 1);
}

TEST_P(LedgerSuite, BatchesAnswerPerKey) {
    claim("busy");
    EXPECT_TRUE(world.ledger->complete({claim("done")}, {"1"}).ok());
    const auto out = world.ledger->claim({{"new", kSecond, ""}, {"busy", kSecond, ""}, {"done", kSecond, ""}});
    ASSERT_TRUE(out.ok());
    EXPECT_EQ(out.value()[0].status, ClaimStatus::acquired);
    EXPECT_EQ(out.value()[1].status, ClaimStatus::in_progress);
    EXPECT_EQ(out.value()[2].status, ClaimStatus::done);
}

TEST_P(LedgerSuite, ABatchWithAStaleClaimCompletesNothing) {
    const auto stale = claim("a");
    world.clock->advance_us(11 * kSecond);
    claim("a");
    const auto good = claim("b");
    EXPECT_EQ(world.ledger->complete({good, stale}, {"1", "2"}).code(), ErrorCode::stale_lease);
    EXPECT_EQ(claim("b").status, ClaimStatus::in_progress);
}

// A model against random schedules: at most one live owner, the first committed result stands for ever.
TEST_P(LedgerSuite, RandomSchedulesMatchTheModel) {
    SeededRandom random(11);
    struct Model {
        bool done = false;
        bool released = false;
        std::string result;
        std::string token;
        std::int64_t until = 0;
        std::int64_t expires = 0;
    };
    std::map<std::string, Model> model;
    std::vector<Claim> held;
    for (int step = 0; step < 3'000; ++step) {
        const std::string key = "k" + std::to_string(random.next() % 4);
        const auto action = random.next() % 5;
        if (action == 0) {
            world.clock->advance_us(static_cast<std::int64_t>(random.next() % (6 * kSecond)));
        } else if (action <= 2 || held.empty()) {
            auto& m = model[key];
            if (m.done && m.expires <= world.clock->now_us()) {
                m = Model{};
            }
            const auto got = claim(key);
            if (m.done) {
                ASSERT_EQ(got.status, ClaimStatus::done);
                ASSERT_EQ(got.result, m.result);
            } else if (m.until > world.clock->now_us()) {
                ASSERT_EQ(got.status, ClaimStatus::in_progress);
            } else {
                ASSERT_EQ(got.status, ClaimStatus::acquired);
                m.token = got.token;
                m.until = got.until_us;
                m.released = false;
                held.push_back(got);
            }
        } else {
            const auto index = random.next() % held.size();
            const auto owner = held[index];
            auto& m = model[owner.key];
            const bool mine = m.token == owner.token;
            const bool live = mine && !m.done && !m.released;
            if (action == 3) {
                const auto result = std::to_string(step);
                if (m.done && m.expires <= world.clock->now_us()) {
                    continue;  // forgotten or about to be: either answer is right
                }
                ASSERT_EQ(world.ledger->complete({owner}, {result}).ok(), live || (mine && m.done));
                if (live) {
                    m.done = true;
                    m.result = result;
                    m.expires = world.clock->now_us() + 100 * kSecond;
                }
            } else {
                ASSERT_EQ(world.ledger->release(owner, "e", true).ok(), mine && !m.done);
                if (live) {
                    m.until = 0;
                    m.released = true;
                }
            }
        }
        if (step % 500 == 499) {
            world.clock->advance_us(200 * kSecond);  // everything expires
            ASSERT_TRUE(world.ledger->prune().ok());
            for (auto& [name, m] : model) {
                m = m.done ? Model{} : m;  // an owner nobody overtook may still complete
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Backends, LedgerSuite, testing::Values("memory", "sqlite"),
                         [](const auto& parameter) { return std::string(parameter.param); });

TEST(SqliteLedger, ThreadsWithTheirOwnConnectionsAcquireOnce) {
    tests::TemporaryFolder folder;
    const auto clock = std::make_shared<SystemClock>();
    std::atomic<int> acquired{0};
    ASSERT_TRUE(backends::Database::open(folder / "l.db", {}).ok());
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
            auto database = backends::Database::open(folder / "l.db", {backends::Durability::normal, 20'000'000});
            ASSERT_TRUE(database.ok()) << database.status().message();
            const auto ledger =
                backends::make_sqlite_ledger(database.value(), {}, clock, std::make_shared<SystemRandom>());
            for (int i = 0; i < 50; ++i) {
                const auto out = ledger->claim({{"k" + std::to_string(i), 60 * kSecond, ""}});
                ASSERT_TRUE(out.ok()) << out.status().message();
                acquired += out.value()[0].status == ClaimStatus::acquired ? 1 : 0;
            }
        });
    }
    for (auto& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(acquired, 50);
}

}  // namespace
}  // namespace headgate::ledger
