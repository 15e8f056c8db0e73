// The HTTP seam: requests go out together under one deadline, and come back in the same order.
#pragma once

#include <cstdint>
#include <string>
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
    std::string body;
};

struct HttpResponse {
    Status error;  // not ok: no complete answer came (timeout, connection_failed, interrupted)
    long status = 0;
    Headers headers;  // names in lower case
    std::string body;
    std::int64_t elapsed_us = 0;
};

class HttpTransport {
public:
    virtual ~HttpTransport() = default;
    // Every request is answered, or cut at the deadline. At most `concurrency` are in flight.
    virtual std::vector<HttpResponse> perform(const std::vector<HttpRequest>& requests, Deadline deadline,
                                              std::size_t concurrency, const Interrupt& interrupt) = 0;
};

}  // namespace headgate::net
