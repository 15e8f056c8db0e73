// The HTTP seam: requests go out together under one deadline, and come back in the same order.
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
    std::string url;  // never holds a secret: tokens travel in headers only
    Headers headers;
    std::string body = {};
    std::string body_file = {};  // instead of `body`: a local file that is streamed
};

// invalid_input: a method or a header that would break the request apart or add others to it. The error names the
// header, never its value, which may be a secret.
Status check_request(const HttpRequest& request);

struct HttpResponse {
    Status error;  // not ok: no complete answer came (timeout, connection_failed, interrupted)
    long status = 0;
    Headers headers;  // names in lower case
    std::string body = {};
    std::int64_t elapsed_us = 0;
    bool hedged = false;  // the second copy of the request was faster
    std::string_view header(std::string_view name) const {
        for (const auto& [key, value] : headers) {
            if (key == name) {
                return value;
            }
        }
        return {};
    }
};

// A flow of requests whose number is not known before. All members are called on the thread that runs the flow.
class HttpFlow {
public:
    enum class Step : std::uint8_t { request, later, none };
    virtual ~HttpFlow() = default;
    // Fills the next request and the number that its answer shall carry; `later`: ask again after a while.
    virtual Step next(HttpRequest& request, std::uint64_t& number) = 0;
    virtual void answered(std::uint64_t number, HttpResponse&& response) = 0;
};

class HttpTransport {
public:
    virtual ~HttpTransport() = default;
    // Every request is answered, or cut at the deadline. At most `concurrency` are in flight.
    virtual std::vector<HttpResponse> perform(const std::vector<HttpRequest>& requests, Deadline deadline,
                                              std::size_t concurrency, const Interrupt& interrupt) = 0;
    // Until the flow has none left and all are answered; each request has `timeout_us` of its own. When the interrupt
    // says so, what is in flight is answered as interrupted and no more is asked for.
    virtual void run(HttpFlow& flow, std::int64_t timeout_us, std::size_t concurrency, const Interrupt& interrupt) = 0;
    // Name lookups that were still running when their calls were cut: the system's resolver cannot be stopped.
    virtual std::int64_t abandoned_lookups() const { return 0; }
};

}  // namespace headgate::net
