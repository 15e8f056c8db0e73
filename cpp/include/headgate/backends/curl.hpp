// HttpTransport on libcurl's multi interface.
#pragma once

#include <memory>
#include <string>

#include "headgate/net/http.hpp"

namespace headgate::backends {

struct CurlOptions {
    std::string ca_file;                      // CURLOPT_CAINFO; empty: libcurl's own default
    std::size_t max_body = 64 * 1024 * 1024;  // a larger body is malformed_response
    std::string user_agent = "headgate";
    long max_idle_connections = 16;
    bool decode = true;                   // ask for compressed answers and unpack them
    std::int64_t connect_timeout_us = 0;  // for the connection alone, TLS included; 0: the call's deadline
    int max_redirects = 0;                // followed within one origin only: a token goes nowhere else
    long max_per_host = 0;                // connections to one host and perform(); 0: no limit but the concurrency
};

std::shared_ptr<net::HttpTransport> make_curl_transport(CurlOptions options, std::shared_ptr<Clock> clock);

}  // namespace headgate::backends
