// One request that libcurl is performing: its handle, and the response so far.
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
    bool head_complete = false;  // the headers of the final response are complete; further ones are trailers
    int redirects_left = 0;
    std::int64_t started_us = 0;
    FileDescriptor upload;
    // For flows only: the request and response that the transfer owns, and the number of the request.
    net::HttpRequest own_request;
    net::HttpResponse own_response;
    std::uint64_t number = 0;
};

// Prepares the handle of a transfer for a request that check_request() has accepted. The response is written to
// `response`.
void prepare(Transfer& transfer, const net::HttpRequest& request, net::HttpResponse& response,
             const CurlOptions& options, std::int64_t started_us, std::int64_t left_ms);

// Returns scheme, host and port of a URL. The port is present even if it is the scheme's default. Empty for an invalid
// URL.
std::string origin_of(const char* url);

Status to_status(CURLcode code, bool too_large);

}  // namespace headgate::backends
