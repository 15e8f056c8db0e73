// The interface of HTTP clients, with the types of requests and responses. The core uses HTTP through it only, so that
// tests and the simulation can supply responses of their own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/status.hpp"

namespace headgate::net {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
    std::string method = "GET";
    std::string url;  // contains no secret, since URLs are logged; tokens are in headers
    Headers headers;
    std::string body = {};
    std::string body_file = {};  // if not empty, the path of a file that is sent instead of `body`
};

// Returns invalid_input if the method or a header contains characters, such as line breaks, with which it could add
// other headers or a second request. The error names the header, not its value, which may be a secret.
Status check_request(const HttpRequest& request);

struct HttpResponse {
    Status error;     // not ok if there was no complete response: timeout, connection_failed, interrupted
    long status = 0;  // the HTTP status, such as 200; 0 without a response
    Headers headers;  // names in lower case
    std::string body = {};
    std::int64_t elapsed_us = 0;
    bool hedged = false;  // this is the response to the second copy of a hedged request
    // The value of the first header of that name, in lower case; empty if there is none.
    std::string_view header(std::string_view name) const {
        for (const auto& [key, value] : headers) {
            if (key == name) {
                return value;
            }
        }
        return {};
    }
};

// A stream of requests whose number is not known in advance, for HttpTransport::run(). All its methods are called on
// the thread that called run().
class HttpFlow {
public:
    enum class Step : std::uint8_t { request, later, none };
    virtual ~HttpFlow() = default;
    // Fills in the next request, and a number that is passed to answered() with its response. Returns `later` if there
    // may be another request after a while, or `none` if there will be no more.
    virtual Step next(HttpRequest& request, std::uint64_t& number) = 0;
    virtual void answered(std::uint64_t number, HttpResponse&& response) = 0;
};

// An HTTP client. Its methods block, and may be called from several threads at once.
class HttpTransport {
public:
    virtual ~HttpTransport() = default;
    // Sends the requests, at most `concurrency` at a time, and returns one response for each, in the same order. Those
    // without a complete response at the deadline have the error timeout; after an interrupt, interrupted.
    virtual std::vector<HttpResponse> perform(const std::vector<HttpRequest>& requests, Deadline deadline,
                                              std::size_t concurrency, const Interrupt& interrupt) = 0;
    // Sends the requests of `flow` until it has no more and all are answered. Each may take `timeout_us`. After an
    // interrupt, requests in flight are answered with the error interrupted, and no more are sent.
    virtual void run(HttpFlow& flow, std::int64_t timeout_us, std::size_t concurrency, const Interrupt& interrupt) = 0;
    // The number of name lookups that were still running when their requests ended. The system's resolver cannot be
    // cancelled, so they occupy a thread each until it gives up.
    virtual std::int64_t abandoned_lookups() const { return 0; }
};

}  // namespace headgate::net
