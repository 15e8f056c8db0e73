#include <functional>

#include "headgate/net/failover.hpp"
#include "support.hpp"

namespace headgate::net {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

HttpResponse answer(long status, std::string body) {
    HttpResponse response;
    response.status = status;
    response.body = std::move(body);
    return response;
}

// Answers by host name; the clock moves as the answer says.
class FakeTransport final : public HttpTransport {
public:
    void run(HttpFlow&, std::int64_t, std::size_t, const Interrupt&) override { FAIL() << "not used here"; }
    explicit FakeTransport(std::shared_ptr<ManualClock> clock) : clock_(std::move(clock)) {}
    std::function<HttpResponse(const std::string& url)> reply;
    std::vector<std::string> sent;

    std::vector<HttpResponse> perform(const std::vector<HttpRequest>& requests, Deadline deadline, std::size_t,
                                      const Interrupt&) override {
        std::vector<HttpResponse> out;
        for (const auto& request : requests) {
            sent.push_back(request.url);
            out.push_back(reply(request.url));
            if (out.back().error.code() == ErrorCode::timeout) {
                clock_->advance_us(std::max<std::int64_t>(0, deadline.left_us(*clock_)));
            }
        }
        return out;
    }

private:
    std::shared_ptr<ManualClock> clock_;
};

class FailoverTest : public testing::Test {
protected:
    std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>(1'000 * kSecond);
    std::shared_ptr<FakeTransport> transport = std::make_shared<FakeTransport>(clock);
    std::shared_ptr<resilience::CircuitBreaker> first = breaker();
    std::shared_ptr<resilience::CircuitBreaker> second = breaker();
    Failover failover{FailoverOptions{}, transport, clock, std::make_shared<SeededRandom>(1),
                      std::make_shared<resilience::RetryBudget>()};
    std::vector<std::string> kept;

    std::shared_ptr<resilience::CircuitBreaker> breaker() {
        return std::make_shared<resilience::CircuitBreaker>(resilience::BreakerOptions{}, clock);
    }
    std::vector<Source> sources(std::size_t requests = 1) const {
        Source a{"a", {}, 10 * kSecond, first};
        Source b{"b", {}, 10 * kSecond, second};
        for (std::size_t i = 0; i < requests; ++i) {
            a.requests.push_back({"GET", "http://a/" + std::to_string(i), {}, ""});
            b.requests.push_back({"GET", "http://b/" + std::to_string(i), {}, ""});
        }
        return {a, b};
    }
    Fetched fetch(std::size_t requests = 1) {
        return failover.fetch(
            sources(requests),
            [this](const std::string&, const HttpRequest&, const HttpResponse& response) -> Result<std::string> {
                kept.push_back(response.body);
                return std::string("raw-") + std::to_string(kept.size());
            },
            {});
    }
    void primary_says(HttpResponse response) {
        transport->reply = [response](const std::string& url) {
            return url.starts_with("http://a") ? response : answer(200, "[2]");
        };
    }
};

TEST_F(FailoverTest, HealthyPrimaryServes) {
    primary_says(answer(200, " [1] "));
    const auto out = fetch(3);
    EXPECT_EQ(out.source, "a");
    EXPECT_FALSE(out.is_failover);
    EXPECT_EQ(out.responses.size(), 3U);
    EXPECT_EQ(out.raw_keys, (std::vector<std::string>{"raw-1", "raw-2", "raw-3"}));
}

TEST_F(FailoverTest, AHangingPrimaryCostsItsBudgetOnly) {
    HttpResponse hang;
    hang.error = Status(ErrorCode::timeout, "cut");
    primary_says(hang);
    const auto started = clock->mono_us();
    const auto out = fetch();
    EXPECT_EQ(out.source, "b");
    EXPECT_TRUE(out.is_failover);
    EXPECT_EQ(clock->mono_us() - started, 10 * kSecond);
    EXPECT_EQ(out.attempts[0].outcome, ErrorCode::timeout);
    EXPECT_EQ(kept.size(), 1U);  // there was no body to keep
}

TEST_F(FailoverTest, EveryBodyIsKeptBeforeItIsJudged) {
    primary_says(answer(200, "You have run over your limit"));
    const auto out = fetch();
    EXPECT_EQ(out.source, "b");
    EXPECT_EQ(kept, (std::vector<std::string>{"You have run over your limit", "[2]"}));
    EXPECT_EQ(out.attempts[0].outcome, ErrorCode::malformed_response);
}

TEST_F(FailoverTest, StatusAndShapeAreFailuresAndAnEmptyListIsNot) {
    for (const auto& bad : {answer(403, "{}"), answer(302, "<html>"), answer(200, ""), answer(200, "{\"detail\":1}"),
                            answer(200, "[1,"), answer(200, "<html>"), answer(429, "[]")}) {
        first = breaker();
        primary_says(bad);
        failover.set_secondary_since_us(0);
        EXPECT_EQ(fetch().source, "b") << bad.status << bad.body;
    }
    first = breaker();
    failover.set_secondary_since_us(0);
    primary_says(answer(200, "[]"));
    EXPECT_EQ(fetch().source, "a");
}

TEST_F(FailoverTest, ServerErrorsAreRetriedWithinTheBudgetAndOpenTheBreaker) {
    primary_says(answer(500, "oops"));
    auto out = fetch();
    EXPECT_EQ(out.attempts.size(), 4U);  // three at a, one at b
    EXPECT_EQ(first->state(), resilience::BreakerState::closed);
    out = fetch();
    EXPECT_EQ(first->state(), resilience::BreakerState::open);  // the fifth failure
    EXPECT_EQ(out.attempts.size(), 3U);                         // no third attempt once it is open
    transport->sent.clear();
    out = fetch();
    EXPECT_EQ(out.attempts[0].outcome, ErrorCode::circuit_open);
    EXPECT_EQ(transport->sent, (std::vector<std::string>{"http://b/0"}));
}

TEST_F(FailoverTest, ReturnsToThePrimaryByOneProbeAfterTheSecondaryServedLongEnough) {
    primary_says(answer(500, "oops"));
    fetch();
    fetch();
    primary_says(answer(200, "[1]"));
    clock->advance_us(61 * kSecond);
    EXPECT_EQ(fetch().source, "b");  // half-open, but the secondary has not served for 300 s
    clock->advance_us(240 * kSecond);
    transport->sent.clear();
    const auto out = fetch(3);
    EXPECT_EQ(out.source, "a");
    EXPECT_EQ(transport->sent.size(), 3U);
    EXPECT_EQ(out.attempts[0].breaker_before, "half_open");
    EXPECT_EQ(out.attempts[0].breaker_after, "closed");
    EXPECT_EQ(failover.secondary_since_us(), 0);
}

TEST_F(FailoverTest, BothDownNamesEveryCause) {
    transport->reply = [](const std::string&) { return answer(403, "{}"); };
    const auto out = fetch();
    EXPECT_EQ(out.error.code(), ErrorCode::all_sources_failed);
    EXPECT_NE(out.error.message().find("a http_status"), std::string::npos);
    EXPECT_NE(out.error.message().find("b http_status"), std::string::npos);
    EXPECT_TRUE(out.source.empty());
}

TEST_F(FailoverTest, WhatCannotBeKeptIsNotUsed) {
    primary_says(answer(200, "[1]"));
    const auto out =
        failover.fetch(sources(),
                       [](const std::string&, const HttpRequest&, const HttpResponse&) -> Result<std::string> {
                           return Status(ErrorCode::disk_full, "no space");
                       },
                       {});
    EXPECT_EQ(out.error.code(), ErrorCode::disk_full);
    EXPECT_TRUE(out.source.empty());
}

}  // namespace
}  // namespace headgate::net
