// Failover between sources: the sources are asked in order until one has answered all its requests. Each has a circuit
// breaker and a time budget; requests are retried within a retry budget; raw bodies are stored before they are parsed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "headgate/net/http.hpp"
#include "headgate/resilience/breaker.hpp"

namespace headgate::net {

// What a response body has to be. `json` is any JSON value; `anything` is not looked at.
enum class BodyShape : std::uint8_t { json_array, json_object, json, anything };

// One source, and what a collection asks of it.
struct FailoverSource {
    std::string name;
    std::vector<HttpRequest> requests;    // the requests of one collection; all of them have to succeed
    std::int64_t budget_us = 10'000'000;  // time for all requests together, including retries
    std::shared_ptr<resilience::CircuitBreaker> breaker;
    BodyShape expected_shape = BodyShape::json_array;  // a body of another shape is a failure of the source
    // Optional. Called with a response of the right shape to request number `index`; an error that it returns is a
    // failure of the source, except interrupted, which ends the fetch.
    std::function<Status(std::size_t index, const HttpResponse&)> check = {};
    // If false, the source is skipped while its breaker is not closed, because another process sends the probe.
    bool may_probe = true;
};

// One request that was sent, or one source that was skipped.
struct Attempt {
    std::string source;
    std::size_t request = 0;            // position in FailoverSource::requests
    int number = 1;                     // counts the attempts of this request, from 1
    ErrorCode outcome = ErrorCode::ok;  // circuit_open: nothing was sent
    std::string message;
    long status = 0;  // HTTP status; 0 without a response
    std::int64_t elapsed_us = 0;
    std::string breaker_before;
    std::string breaker_after;
    bool hedged = false;  // the response is that of the hedge, the second copy of the request
};

struct FailoverResult {
    std::string source;                   // the source that has answered; empty if none has
    bool is_failover = false;             // true if it is not the first source
    std::vector<HttpResponse> responses;  // one for each of its requests, in their order
    std::vector<std::string> raw_keys;    // the keys under which the sink has stored them, in the same order
    std::vector<int> numbers;             // which attempt each of them answers, in the same order
    std::vector<Attempt> attempts;        // everything that was tried, in order of time
    std::int64_t elapsed_us = 0;
    Status error;  // all_sources_failed, interrupted, or the error of the sink
};

// Stores the raw body of a response, before anything parses it, and returns the key. An error ends the fetch, because a
// response that cannot be stored must not be used.
using RawSink =
    std::function<Result<std::string>(const std::string& source, const HttpRequest&, const HttpResponse&, int attempt)>;

// Returns the response's own error, http_status for a status outside 200-299, malformed_response for a body that is not
// of that shape, or ok.
Status classify(const HttpResponse& response, BodyShape shape);

struct FailoverOptions {
    resilience::RetryPolicy retry;
    // How long another source has to have served before the first one, whose breaker is not closed, is probed.
    std::int64_t return_after_us = 300'000'000;
    std::size_t concurrency = 8;  // requests in flight
    std::int64_t total_us = 0;    // time for all sources together; 0: the sum of their budgets
    std::int64_t hedge_us = 0;    // a request without a response after this time is sent a second time; 0: never
};

// fetch() runs on one thread at a time; it blocks until a source has answered or all have failed.
class Failover {
public:
    Failover(FailoverOptions options, std::shared_ptr<HttpTransport> transport, std::shared_ptr<Clock> clock,
             std::shared_ptr<Random> random, std::shared_ptr<resilience::RetryBudget> budget);

    FailoverResult fetch(const std::vector<FailoverSource>& sources, const RawSink& sink, const Interrupt& interrupt);

    const std::shared_ptr<HttpTransport>& transport() const { return transport_; }
    // Since when a source other than the first has served, as Clock::now_us(); 0 if the first one serves. Callers store
    // it between processes, together with the snapshots of the breakers.
    std::int64_t secondary_since_us() const { return secondary_since_us_; }
    void set_secondary_since_us(std::int64_t value) { secondary_since_us_ = value; }

private:
    class Collection;
    std::vector<HttpResponse> send(const std::vector<HttpRequest>& requests, Deadline deadline, bool probe,
                                   const Interrupt& interrupt);
    bool may_probe_primary(const FailoverSource& source) const;

    FailoverOptions options_;
    std::shared_ptr<HttpTransport> transport_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    std::shared_ptr<resilience::RetryBudget> budget_;
    std::int64_t secondary_since_us_ = 0;
};

}  // namespace headgate::net
