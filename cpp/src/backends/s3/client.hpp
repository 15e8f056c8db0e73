// An S3 client: it signs requests, classifies error responses and retries. May be used by several threads.
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

// Caches credentials for the threads of a run. It asks for them again after a minute, and after forget(), which is
// called when S3 has refused them. The function that it asks is called with the mutex held and must not use this
// object.
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
    std::string key;  // the complete key, not encoded; empty for a request to the bucket
    Query query;
    net::Headers headers;  // names in lower case
    std::string body;
    std::string body_file;
};

// What a response means. The messages contain error codes, never keys or credentials.
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
    // Sends a request, with retries. If the last response is an error, returns its Status, and sets `code` to S3's
    // error code if that is not null.
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
    std::string root_;  // the path of the bucket: "/bucket", or empty if the host names it
};

struct XmlText {
    std::string name;
    std::string text;
};

// Returns the text of every element without children, in document order. Where an element with children ends, there is
// an entry whose name is a slash and the element's name, such as "/Contents".
Result<std::vector<XmlText>> xml_leaves(std::string_view xml);

}  // namespace headgate::backends::s3
