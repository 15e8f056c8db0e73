// Ordered failover between sources: breaker, deadline, retries within the budget, raw bodies kept before they are read.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "headgate/net/http.hpp"
#include "headgate/resilience/breaker.hpp"

namespace headgate::net {

enum class Expect : std::uint8_t { json_array, json_object, json, anything };

struct Source {
    std::string name;
    std::vector<HttpRequest> requests;    // one collection; all of them have to succeed
    std::int64_t budget_us = 10'000'000;  // for the whole collection from this source
    std::shared_ptr<resilience::CircuitBreaker> breaker;
    Expect expect = Expect::json_array;  // a body of another shape is a failure
    // Optional: what is wrong with a good response to request `index` although its shape is right. Its error is a
    // failure of the source, except interrupted, which ends the fetch.
    std::function<Status(std::size_t index, const HttpResponse&)> check = {};
    bool may_probe = true;  // false: while the breaker is not closed, another process sends the probe
};

struct Attempt {
    std::string source;
    std::size_t request = 0;
    int number = 1;                     // 1-based within the request
    ErrorCode outcome = ErrorCode::ok;  // circuit_open: skipped
    std::string message;
    long status = 0;
    std::int64_t elapsed_us = 0;
    std::string breaker_before;
    std::string breaker_after;
    bool hedged = false;  // the second copy of the request gave this outcome
};

struct Fetched {
    std::string source;                   // who answered
    bool is_failover = false;             // not the first in the list
    std::vector<HttpResponse> responses;  // in the order of that source's requests
    std::vector<std::string> raw_keys;    // what the sink said, same order
    std::vector<int> numbers;             // the attempt that each response is of, same order
    std::vector<Attempt> attempts;
    std::int64_t elapsed_us = 0;
    Status error;  // all_sources_failed, interrupted, or the sink's own error
};

// Stores a response before anything reads it and returns its key. An error ends the fetch: what cannot be kept is not
// used.
using RawSink =
    std::function<Result<std::string>(const std::string& source, const HttpRequest&, const HttpResponse&, int attempt)>;

// ok, http_status, or malformed_response (the body is not of the expected shape).
Status classify(const HttpResponse& response, Expect expect);

struct FailoverOptions {
    resilience::RetryPolicy retry;
    std::int64_t return_after_us =
        300'000'000;  // the secondary must have served this long before the primary is probed
    std::size_t concurrency = 8;
    std::int64_t total_us = 0;  // for all sources together; 0: the sum of their budgets
    std::int64_t hedge_us = 0;  // a request that is unanswered for so long is sent once more; 0: never
};

// `secondary_since_us` (0: the primary serves) outlives the process with the breakers' snapshots.
class Failover {
public:
    Failover(FailoverOptions options, std::shared_ptr<HttpTransport> transport, std::shared_ptr<Clock> clock,
             std::shared_ptr<Random> random, std::shared_ptr<resilience::RetryBudget> budget);

    Fetched fetch(const std::vector<Source>& sources, const RawSink& sink, const Interrupt& interrupt);

    const std::shared_ptr<HttpTransport>& transport() const { return transport_; }
    std::int64_t secondary_since_us() const { return secondary_since_us_; }
    void set_secondary_since_us(std::int64_t value) { secondary_since_us_ = value; }

private:
    bool try_source(const Source& source, Deadline total, const RawSink& sink, const Interrupt& interrupt,
                    Fetched& out);
    std::vector<HttpResponse> send(const std::vector<HttpRequest>& requests, Deadline deadline, bool probe,
                                   const Interrupt& interrupt);
    bool may_probe_primary(const Source& source) const;

    FailoverOptions options_;
    std::shared_ptr<HttpTransport> transport_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    std::shared_ptr<resilience::RetryBudget> budget_;
    std::int64_t secondary_since_us_ = 0;
};

}  // namespace headgate::net
