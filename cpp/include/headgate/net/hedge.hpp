// Hedged requests (Dean and Barroso, "The Tail at Scale", 2013): a request that is slow is sent a second time, and the
// first good answer counts.
#pragma once

#include <vector>

#include "headgate/net/http.hpp"

namespace headgate::net {

// As HttpTransport::perform; a request without an answer after `after_us` gets one twin. The slower one is cut.
std::vector<HttpResponse> perform_hedged(HttpTransport& transport, const Clock& clock,
                                         const std::vector<HttpRequest>& requests, Deadline deadline,
                                         std::size_t concurrency, std::int64_t after_us, const Interrupt& interrupt);

}  // namespace headgate::net
