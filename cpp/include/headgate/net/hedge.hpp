// Hedged requests (Dean and Barroso, "The Tail at Scale", 2013): a slow request is sent a second time, and the first
// good response is used.
#pragma once

#include <vector>

#include "headgate/net/http.hpp"

namespace headgate::net {

// As HttpTransport::perform(), but a request that has no response after `after_us` is sent once more. The slower copy
// is cancelled.
std::vector<HttpResponse> perform_hedged(HttpTransport& transport, const Clock& clock,
                                         const std::vector<HttpRequest>& requests, Deadline deadline,
                                         std::size_t concurrency, std::int64_t after_us, const Interrupt& interrupt);

}  // namespace headgate::net
