// S3 (and what speaks its protocol) as the source and the target of a checkpoint.
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
    std::string access_key;  // empty: requests are not signed
    std::string secret_key;
    std::string session_token;
};

struct S3Options {
    std::string bucket;
    std::string prefix;  // of every key; a source's keys are what follows it
    std::string within;  // a source has only keys of which the rest starts with this
    std::string region = "us-east-1";
    std::string endpoint;                                // "http://host:port"; empty: AWS
    std::function<Result<S3Credentials>()> credentials;  // asked again after a minute, and when they have expired
    std::function<std::shared_ptr<net::HttpTransport>()> transport;  // one per thread
    unsigned threads = 2;
    std::size_t in_flight = 192;  // requests per thread
    int attempts = 4;             // 500, 503, timeouts and broken connections are tried again, with jittered back-off
    std::int64_t timeout_us = 60'000'000;  // of one request
};

std::shared_ptr<checkpoint::Source> make_s3_source(S3Options options, std::shared_ptr<Clock> clock,
                                                   std::shared_ptr<Random> random);

// The table is `key`, its parts are under `key`.ledger/, temporary files go below `scratch_parent`. A commit is one PUT
// with If-Match or If-None-Match.
std::shared_ptr<checkpoint::Target> make_s3_target(S3Options options, std::string key,
                                                   const std::string& scratch_parent, std::shared_ptr<Clock> clock,
                                                   std::shared_ptr<Random> random);

}  // namespace headgate::backends
