// One request on its way through libcurl: what its handle is told and what comes back.
#pragma once

#include <curl/curl.h>

#include <memory>
#include <string>

#include "headgate/backends/curl.hpp"
#include "headgate/base/file.hpp"

namespace headgate::backends {

struct SlistFree {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct EasyFree {
    void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};

struct Transfer {
    std::unique_ptr<CURL, EasyFree> easy;
    std::unique_ptr<curl_slist, SlistFree> headers;
    net::HttpResponse* response = nullptr;
    std::size_t max_body = 0;
    bool too_large = false;
    bool done = false;
    bool head_complete = false;  // the final response's headers have ended: what follows are trailers
    int redirects_left = 0;
    std::int64_t started_us = 0;
    FileDescriptor upload;
    // Of a flow only: what the transfer owns and its number.
    net::HttpRequest own_request;
    net::HttpResponse own_response;
    std::uint64_t number = 0;
};

// Fills a transfer's handle for a request that check_request() has accepted; the answer goes to `response`.
void prepare(Transfer& transfer, const net::HttpRequest& request, net::HttpResponse& response,
             const CurlOptions& options, std::int64_t started_us, std::int64_t left_ms);

// Scheme, host and port, the port named even where it is the scheme's own; empty for what is no URL.
std::string origin_of(const char* url);

Status to_status(CURLcode code, bool too_large);

}  // namespace headgate::backends
