// S3, and servers with the same protocol, as the source and the target of a checkpoint.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "headgate/checkpoint/ports.hpp"
#include "headgate/net/http.hpp"

namespace headgate::backends {

// Tables and their parts are read in ranges of so many bytes, which a transport has to take.
constexpr std::size_t kS3RangeBytes = 16U << 20U;

struct S3Credentials {
    std::string access_key;  // if empty, requests are not signed
    std::string secret_key;
    std::string session_token;
};

struct S3Options {
    std::string bucket;
    std::string prefix;  // what every key begins with; a source shows its keys without it
    std::string within;  // if not empty, a source has only keys whose rest begins with it
    std::string region = "us-east-1";
    std::string endpoint;                                // "http://host:port"; empty: AWS
    std::function<Result<S3Credentials>()> credentials;  // called again after a minute, and after they were refused
    std::function<std::shared_ptr<net::HttpTransport>()> transport;  // makes the HTTP client of one thread
    unsigned threads = 2;
    std::size_t in_flight = 192;  // concurrent requests of a thread
    int attempts = 4;  // how often a request is sent at most; after 500, 503, timeouts and broken connections
    std::int64_t timeout_us = 60'000'000;  // the time limit of one attempt
};

std::shared_ptr<checkpoint::Source> make_s3_source(S3Options options, std::shared_ptr<Clock> clock,
                                                   std::shared_ptr<Random> random);

// The table is the object `key`; the processed-files index and the reject log are under `key`.ledger/. Temporary files
// are written below the local folder `scratch_parent`. A commit is one PUT with If-Match or If-None-Match, so that of
// two runs that commit at the same time one gets version_conflict.
std::shared_ptr<checkpoint::Target> make_s3_target(S3Options options, std::string key,
                                                   const std::string& scratch_parent, std::shared_ptr<Clock> clock,
                                                   std::shared_ptr<Random> random);

}  // namespace headgate::backends
