#include <functional>

#include "headgate/net/failover.hpp"
#include "headgate/net/hedge.hpp"
#include "headgate/net/retry.hpp"
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
    std::vector<FailoverSource> sources(std::size_t requests = 1) const {
        FailoverSource a{"a", {}, 10 * kSecond, first};
        FailoverSource b{"b", {}, 10 * kSecond, second};
        for (std::size_t i = 0; i < requests; ++i) {
            a.requests.push_back({"GET", "http://a/" + std::to_string(i), {}, ""});
            b.requests.push_back({"GET", "http://b/" + std::to_string(i), {}, ""});
        }
        return {a, b};
    }
    FailoverResult fetch(std::size_t requests = 1) {
        return failover.fetch(
            sources(requests),
            [this](const std::string&, const HttpRequest&, const HttpResponse& response, int) -> Result<std::string> {
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

HttpResponse busy_until(const std::string& retry_after, long status = 429) {
    auto out = answer(status, "slow down");
    out.headers = {{"retry-after", retry_after}, {"date", "Thu, 01 Jan 1970 00:16:40 GMT"}};
    return out;
}

TEST_F(FailoverTest, ARetryAfterIsWaitedForWithinTheBudget) {
    for (const auto* text : {"4", "Thu, 01 Jan 1970 00:16:44 GMT"}) {
        int calls = 0;
        transport->reply = [&](const std::string& url) {
            return url.starts_with("http://a") && ++calls == 1 ? busy_until(text) : answer(200, "[1]");
        };
        first = breaker();
        failover.set_secondary_since_us(0);
        const auto started = clock->mono_us();
        const auto out = fetch();
        EXPECT_EQ(out.source, "a") << text;
        EXPECT_EQ(clock->mono_us() - started, 4 * kSecond) << text;
        EXPECT_EQ(out.numbers, std::vector<int>{2});
    }
}

TEST_F(FailoverTest, ARetryAfterBeyondTheBudgetMeansFailover) {
    for (const auto& bad : {busy_until("60"), busy_until("10", 503), busy_until("soon"), answer(429, "slow down")}) {
        primary_says(bad);
        first = breaker();
        failover.set_secondary_since_us(0);
        const auto started = clock->mono_us();
        EXPECT_EQ(fetch().source, "b");
        EXPECT_LE(clock->mono_us() - started, 2 * kSecond);  // jittered back-off at the most
    }
}

TEST_F(FailoverTest, ASourcesOwnLookAtABodyMayMakeItAFailure) {
    primary_says(answer(200, "[\"an error text\"]"));
    auto all = sources();
    all[0].check = [](std::size_t index, const HttpResponse& response) {
        EXPECT_EQ(index, 0U);
        return Status(ErrorCode::malformed_response, "cannot read " + response.body);
    };
    const auto out = failover.fetch(all, {}, {});
    EXPECT_EQ(out.source, "b");
    EXPECT_EQ(out.attempts[0].outcome, ErrorCode::malformed_response);
    all[0].check = [](std::size_t, const HttpResponse&) { return Status(ErrorCode::interrupted, "stop"); };
    EXPECT_EQ(failover.fetch(all, {}, {}).error.code(), ErrorCode::interrupted);
}

TEST_F(FailoverTest, AProbeThatAnotherProcessSendsIsNotSentHere) {
    for (int i = 0; i < 5; ++i) {
        first->on_failure();
    }
    clock->advance_us(60 * kSecond);
    primary_says(answer(200, "[1]"));
    auto all = sources();
    all[0].may_probe = false;
    EXPECT_EQ(failover.fetch(all, {}, {}).source, "b");
    failover.set_secondary_since_us(0);
    all[0].may_probe = true;
    EXPECT_EQ(failover.fetch(all, {}, {}).source, "a");
}

TEST_F(FailoverTest, ASourceWithoutARequestIsNoSuccess) {
    primary_says(answer(200, "[1]"));
    auto all = sources();
    all[0].requests.clear();
    EXPECT_EQ(failover.fetch(all, {}, {}).source, "b");
    EXPECT_EQ(first->snapshot().failed_rounds, 0);  // it says nothing of the source
}

TEST(RetryAfter, IsReadInAllForms) {
    constexpr std::int64_t now = 784'111'777 * kSecond;  // Sun, 06 Nov 1994 08:49:37 GMT
    for (const auto* text : {"60", "60.0", "60s", "Sun, 06 Nov 1994 08:50:37 GMT", "Sunday, 06-Nov-94 08:50:37 GMT",
                             "Sun Nov  6 08:50:37 1994", "Sun, 06 Nov 1994 08:50:37 +0000", "1994-11-06T08:50:37Z"}) {
        EXPECT_EQ(parse_retry_after(text, now), 60 * kSecond) << text;
    }
    for (const auto* text : {"soon", "-1", "1e9", "Sun, 99 Nov 1994 08:50:37 GMT", ","}) {
        EXPECT_EQ(parse_retry_after(text, now), kWaitUnknown) << text;
    }
    EXPECT_EQ(parse_retry_after(" ", now), -1);
}

TEST(Requests, WhatWouldBreakThemApartIsRefused) {
    EXPECT_TRUE(check_request({"GET", "http://a/", {{"X-A", "b"}}, ""}).ok());
    for (const auto& bad : {HttpRequest{"GET x", "", {}, ""}, HttpRequest{"GET", "", {{"X A", "b"}}, ""},
                            HttpRequest{"GET", "", {{"X-A", "b\r\nX-B: c"}}, ""},
                            HttpRequest{"GET", "", {{"X-A", std::string("b\0c", 3)}}, ""}}) {
        EXPECT_EQ(check_request(bad).code(), ErrorCode::invalid_input);
    }
}

TEST_F(FailoverTest, TheTotalDeadlineHoldsForAllSourcesTogether) {
    HttpResponse hang;
    hang.error = Status(ErrorCode::timeout, "cut");
    transport->reply = [&](const std::string&) { return hang; };
    FailoverOptions options;
    options.total_us = 15 * kSecond;
    Failover bounded(options, transport, clock, std::make_shared<SeededRandom>(1),
                     std::make_shared<resilience::RetryBudget>());
    auto three = sources();
    three.push_back({"c", {{"GET", "http://c/", {}, ""}}, 10 * kSecond, breaker()});
    const auto started = clock->mono_us();
    const auto out = bounded.fetch(three, {}, {});
    EXPECT_EQ(clock->mono_us() - started, 15 * kSecond);
    ASSERT_EQ(out.attempts.size(), 3U);
    EXPECT_EQ(out.attempts[2].message, "not called: the time for all sources is used up");
    EXPECT_EQ(out.error.code(), ErrorCode::all_sources_failed);
}

TEST_F(FailoverTest, ASourceSaysWhatItsBodiesLookLike) {
    const auto with = [&](BodyShape shape, const std::string& body) { return classify(answer(200, body), shape).ok(); };
    EXPECT_TRUE(with(BodyShape::json_object, " {\"feed\": []}"));
    EXPECT_FALSE(with(BodyShape::json_object, "[]"));
    EXPECT_TRUE(with(BodyShape::json, "3"));
    EXPECT_FALSE(with(BodyShape::json, ""));
    EXPECT_FALSE(with(BodyShape::json, "[\"\xe9\"]"));  // Latin-1
    EXPECT_TRUE(with(BodyShape::anything, "<html>"));
}

// Answers as scripted: the copy number decides; what is "slow" never comes.
class ScriptedFlow final : public HttpTransport {
public:
    explicit ScriptedFlow(std::shared_ptr<ManualClock> clock) : clock_(std::move(clock)) {}
    std::function<HttpResponse(const std::string& url, int copy)> reply;  // error timeout: no answer
    int sent = 0;

    std::vector<HttpResponse> perform(const std::vector<HttpRequest>&, Deadline, std::size_t,
                                      const Interrupt&) override {
        ADD_FAILURE() << "not used here";
        return {};
    }
    void run(HttpFlow& flow, std::int64_t, std::size_t, const Interrupt& interrupt) override {
        std::vector<std::pair<std::uint64_t, HttpResponse>> open;
        while (true) {
            HttpRequest request;
            std::uint64_t number = 0;
            const auto step = flow.next(request, number);
            if (step == HttpFlow::Step::request) {
                ++sent;
                auto out = reply(request.url, static_cast<int>(number % 2));
                if (out.error.ok()) {
                    flow.answered(number, std::move(out));
                } else {
                    open.emplace_back(number, std::move(out));
                }
            } else {
                clock_->advance_us(10'000);
            }
            if (interrupt() || (step == HttpFlow::Step::none && open.empty())) {
                for (auto& [n, response] : open) {
                    response.error = Status(ErrorCode::interrupted, "interrupted");
                    flow.answered(n, std::move(response));
                }
                return;
            }
        }
    }

private:
    std::shared_ptr<ManualClock> clock_;
};

TEST(Hedge, TheTwinOfASlowRequestAnswers) {
    const auto clock = std::make_shared<ManualClock>(0);
    ScriptedFlow transport(clock);
    HttpResponse never;
    never.error = Status(ErrorCode::timeout, "");
    transport.reply = [&](const std::string& url, int copy) {
        return url == "slow" && copy == 0 ? never : answer(200, url);
    };
    const std::vector<HttpRequest> requests{{"GET", "fast", {}, ""}, {"GET", "slow", {}, ""}};
    auto out = perform_hedged(transport, *clock, requests, Deadline::after(*clock, 10 * kSecond), 4, 50'000, {});
    EXPECT_EQ(transport.sent, 3);
    EXPECT_EQ(out[0].body, "fast");
    EXPECT_FALSE(out[0].hedged);
    EXPECT_EQ(out[1].body, "slow");
    EXPECT_TRUE(out[1].hedged);
    EXPECT_LT(clock->mono_us(), kSecond);
    transport.reply = [&](const std::string&, int) { return never; };
    out = perform_hedged(transport, *clock, requests, Deadline::after(*clock, kSecond), 4, 50'000, {});
    EXPECT_EQ(out[0].error.code(), ErrorCode::timeout);
    transport.reply = [&](const std::string&, int copy) { return copy == 0 ? never : answer(500, "no"); };
    out = perform_hedged(transport, *clock, requests, Deadline::after(*clock, kSecond), 4, 50'000, {});
    EXPECT_EQ(out[1].status, 500);  // better than nothing
    out = perform_hedged(transport, *clock, requests, Deadline::after(*clock, kSecond), 4, 50'000, [] { return true; });
    EXPECT_EQ(out[0].error.code(), ErrorCode::interrupted);
}

TEST_F(FailoverTest, WhatCannotBeKeptIsNotUsed) {
    primary_says(answer(200, "[1]"));
    const auto out = failover.fetch(sources(),
                                    [](const std::string&, const HttpRequest&, const HttpResponse&,
                                       int) -> Result<std::string> { return Status(ErrorCode::disk_full, "no space"); },
                                    {});
    EXPECT_EQ(out.error.code(), ErrorCode::disk_full);
    EXPECT_TRUE(out.source.empty());
}

}  // namespace
}  // namespace headgate::net
