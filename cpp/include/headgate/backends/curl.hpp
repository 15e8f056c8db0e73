// An HTTP client on libcurl's multi interface.
#pragma once

#include <memory>
#include <string>

#include "headgate/net/http.hpp"

namespace headgate::backends {

struct CurlOptions {
    std::string ca_file;                      // certificates of the trusted authorities; empty: libcurl's default
    std::size_t max_body = 64 * 1024 * 1024;  // bytes, after decoding; a larger body is malformed_response
    std::string user_agent = "headgate";
    long max_idle_connections = 16;
    bool decode = true;                   // request compressed responses, and decompress them
    std::int64_t connect_timeout_us = 0;  // for connecting, including TLS; 0: the deadline of the call
    int max_redirects = 0;                // followed only within one origin, so that a token is sent nowhere else
    long max_per_host = 0;                // connections to one host in one call; 0: as many as `concurrency`
};

// May be used by several threads; the connections are kept between calls. In a child of fork() every request is
// answered with the error forked.
std::shared_ptr<net::HttpTransport> make_curl_transport(CurlOptions options, std::shared_ptr<Clock> clock);

}  // namespace headgate::backends
