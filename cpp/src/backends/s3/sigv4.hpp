// AWS Signature Version 4, as AWS documents it, for requests that contain a hash of their body.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "headgate/backends/s3.hpp"
#include "headgate/base/mutex.hpp"

namespace headgate::backends::s3 {

// Percent-encodes every byte except A-Z a-z 0-9 - . _ ~ and, with `keep_slash`, '/'.
std::string uri_encode(std::string_view text, bool keep_slash);
std::string sha256_hex(std::string_view bytes);
Result<std::string> sha256_hex_of_file(const std::string& path);

using Query = std::vector<std::pair<std::string, std::string>>;  // names and values, not encoded

// Signs requests. It caches the signing key, which is different every day. May be used by several threads.
class Signer {
public:
    explicit Signer(std::string region) : region_(std::move(region)) {}
    // Adds the headers x-amz-date, x-amz-content-sha256, x-amz-security-token and authorization. `path` is encoded.
    // `headers`, with names in lower case, are signed together with the host.
    void sign(const S3Credentials& credentials, std::string_view method, std::string_view host, std::string_view path,
              const std::string& canonical_query, const std::string& payload_hash, std::int64_t now_us,
              net::Headers& headers);

private:
    std::string key_of(const std::string& secret, const std::string& day);

    std::string region_;
    Mutex mutex_;
    std::string day_ HG_GUARDED_BY(mutex_);
    std::string secret_ HG_GUARDED_BY(mutex_);
    std::string key_ HG_GUARDED_BY(mutex_);
};

std::string canonical_query(Query query);

}  // namespace headgate::backends::s3
