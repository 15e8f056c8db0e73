// An S3 client: signed requests, what their errors mean, retries. Threads may share it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/backends/s3.hpp"
#include "headgate/base/mutex.hpp"
#include "sigv4.hpp"

namespace headgate::backends::s3 {

// Shared by the threads of a run; asks for credentials again when they are a minute old or have been refused.
class CredentialSource {
public:
    CredentialSource(std::function<Result<S3Credentials>()> ask, std::shared_ptr<Clock> clock)
        : ask_(std::move(ask)), clock_(std::move(clock)) {}
    Result<S3Credentials> get();
    void forget();

private:
    std::function<Result<S3Credentials>()> ask_;
    std::shared_ptr<Clock> clock_;
    Mutex mutex_;
    std::optional<S3Credentials> known_ HG_GUARDED_BY(mutex_);
    std::int64_t asked_us_ HG_GUARDED_BY(mutex_) = 0;
};

struct Shared {
    S3Options options;
    std::shared_ptr<Clock> clock;
    std::shared_ptr<Random> random;
    std::shared_ptr<CredentialSource> credentials;
};

std::shared_ptr<Shared> share(S3Options options, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random);

struct Call {
    std::string method = "GET";
    std::string key;  // whole, not encoded; empty: the bucket
    Query query;
    net::Headers headers;  // lower case
    std::string body;
    std::string body_file;
};

// What became of an answer. The messages name codes, never keys or credentials.
struct Outcome {
    Status status;  // ok for 2xx
    std::string code;
    bool transient = false;
};

class Client {
public:
    explicit Client(std::shared_ptr<Shared> shared);
    Result<net::HttpRequest> build(const Call& call, const std::string& payload_hash);
    Outcome judge(const net::HttpResponse& response) const;
    std::int64_t back_off_us(int attempt) const;
    // With retries. An answer that is no success is its status, with its code in `code` when that is given.
    Result<net::HttpResponse> send(const Call& call, const Interrupt& interrupt, std::string* code = nullptr);
    net::HttpTransport& transport() { return *transport_; }
    const S3Options& options() const { return shared_->options; }
    Clock& clock() { return *shared_->clock; }

private:
    std::shared_ptr<Shared> shared_;
    std::shared_ptr<net::HttpTransport> transport_;
    Signer signer_;
    std::string base_;  // scheme and host
    std::string host_;
    std::string root_;  // path of the bucket: "/bucket" or nothing
};

struct XmlText {
    std::string name;
    std::string text;
};

// The text of every leaf element, in order, and an item named after every element that ends with children
// ("/Contents").
Result<std::vector<XmlText>> xml_leaves(std::string_view xml);

}  // namespace headgate::backends::s3
