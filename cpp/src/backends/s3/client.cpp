#include "client.hpp"

#include <expat.h>

#include <algorithm>
#include <charconv>

namespace headgate::backends::s3 {
namespace {

constexpr std::int64_t kCredentialsUs = 60'000'000;
constexpr std::int64_t kBackOffUs = 100'000;
constexpr std::int64_t kMostBackOffUs = 5'000'000;

struct FreeParser {
    void operator()(XML_ParserStruct* parser) const { XML_ParserFree(parser); }
};

struct Leaves {
    std::vector<XmlText> out;
    std::string text;
    bool leaf = false;
};

void on_start(void* user, const XML_Char* /*name*/, const XML_Char** /*attributes*/) {
    auto& leaves = *static_cast<Leaves*>(user);
    leaves.leaf = true;
    leaves.text.clear();
}

void on_end(void* user, const XML_Char* name) {
    auto& leaves = *static_cast<Leaves*>(user);
    if (leaves.leaf) {
        leaves.out.push_back({name, leaves.text});
    } else {
        leaves.out.push_back({"/" + std::string(name), ""});
    }
    leaves.leaf = false;
}

void on_text(void* user, const XML_Char* text, int size) {
    static_cast<Leaves*>(user)->text.append(text, static_cast<std::size_t>(size));
}

std::string code_of(const net::HttpResponse& response) {
    if (const auto leaves = xml_leaves(response.body); leaves.ok()) {
        for (const auto& leaf : leaves.value()) {
            if (leaf.name == "Code") {
                return leaf.text;
            }
        }
    }
    return {};
}

}  // namespace

Result<std::vector<XmlText>> xml_leaves(std::string_view xml) {
    const std::unique_ptr<XML_ParserStruct, FreeParser> parser(XML_ParserCreate("UTF-8"));
    Leaves leaves;
    XML_SetUserData(parser.get(), &leaves);
    XML_SetElementHandler(parser.get(), on_start, on_end);
    XML_SetCharacterDataHandler(parser.get(), on_text);
    if (XML_Parse(parser.get(), xml.data(), static_cast<int>(xml.size()), 1) != XML_STATUS_OK) {
        return Status(ErrorCode::malformed_response, "S3 answered with something that is not XML");
    }
    return std::move(leaves.out);
}

Result<S3Credentials> CredentialSource::get() {
    const MutexLock lock(mutex_);
    if (!known_ || clock_->mono_us() - asked_us_ > kCredentialsUs) {
        HG_ASSIGN(known_, ask_());
        asked_us_ = clock_->mono_us();
    }
    return *known_;
}

void CredentialSource::forget() {
    const MutexLock lock(mutex_);
    known_.reset();
}

std::shared_ptr<Shared> share(S3Options options, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
    auto out = std::make_shared<Shared>();
    out->credentials = std::make_shared<CredentialSource>(options.credentials, clock);
    out->options = std::move(options);
    out->clock = std::move(clock);
    out->random = std::move(random);
    return out;
}

Client::Client(std::shared_ptr<Shared> shared)
    : shared_(std::move(shared)), transport_(shared_->options.transport()), signer_(shared_->options.region) {
    const auto& options = shared_->options;
    if (!options.endpoint.empty()) {
        base_ = options.endpoint;
        while (base_.ends_with('/')) {
            base_.pop_back();
        }
        root_ = "/" + options.bucket;
    } else if (options.bucket.find('.') != std::string::npos) {
        // The certificate of *.s3.REGION.amazonaws.com does not cover a bucket whose name contains dots.
        base_ = "https://s3." + options.region + ".amazonaws.com";
        root_ = "/" + options.bucket;
    } else {
        base_ = "https://" + options.bucket + ".s3." + options.region + ".amazonaws.com";
    }
    const auto scheme = base_.find("://");
    host_ = scheme == std::string::npos ? base_ : base_.substr(scheme + 3);
}

Result<net::HttpRequest> Client::build(const Call& call, const std::string& payload_hash) {
    HG_ASSIGN(const auto credentials, shared_->credentials->get());
    net::HttpRequest out;
    auto path = root_ + (call.key.empty() ? std::string() : "/" + uri_encode(call.key, true));
    if (path.empty()) {
        path = "/";
    }
    const auto query = canonical_query(call.query);
    out.method = call.method;
    out.url = base_ + path + (query.empty() ? "" : "?" + query);
    out.headers = call.headers;
    signer_.sign(credentials, call.method, host_, path, query, payload_hash, clock().now_us(), out.headers);
    out.body = call.body;
    out.body_file = call.body_file;
    return out;
}

Outcome Client::judge(const net::HttpResponse& response) const {
    if (!response.error.ok()) {
        const auto code = response.error.code();
        return {{code, "S3: " + response.error.message()},
                "",
                code == ErrorCode::timeout || code == ErrorCode::connection_failed};
    }
    if (response.status >= 200 && response.status < 300) {
        return {};
    }
    const auto code = code_of(response);
    const auto says = "S3 answered " + std::to_string(response.status) + (code.empty() ? "" : " " + code);
    if (code == "ExpiredToken" || code == "InvalidToken" || code == "ExpiredTokenException") {
        shared_->credentials->forget();
        return {{ErrorCode::permission_denied, says}, code, true};
    }
    switch (response.status) {
        case 404:
            return {{ErrorCode::not_found, says + " (bucket " + shared_->options.bucket + ")"}, code, false};
        case 401:
        case 403:
            return {{ErrorCode::permission_denied,
                     says + " (without s3:ListBucket, S3 says so of a missing object too; bucket " +
                         shared_->options.bucket + ")"},
                    code,
                    false};
        case 409:
        case 412:
            return {{ErrorCode::version_conflict, says}, code, false};
        case 408:
        case 429:
        case 500:
        case 502:
        case 503:
        case 504:
            return {{ErrorCode::unavailable, says}, code, true};
        default:
            return {{ErrorCode::http_status, says + " (bucket " + shared_->options.bucket + ")"}, code, false};
    }
}

std::int64_t Client::back_off_us(int attempt) const {
    const auto most = std::min(kMostBackOffUs, kBackOffUs << std::min(attempt, 10));
    return static_cast<std::int64_t>(shared_->random->uniform() * static_cast<double>(most));
}

Result<net::HttpResponse> Client::send(const Call& call, const Interrupt& interrupt, std::string* code) {
    std::string hash = "UNSIGNED-PAYLOAD";  // with TLS the body is protected; without TLS its hash is signed
    if (base_.starts_with("http://") || call.body_file.empty()) {
        if (call.body_file.empty()) {
            hash = sha256_hex(call.body);
        } else {
            HG_ASSIGN(hash, sha256_hex_of_file(call.body_file));
        }
    }
    for (int attempt = 1;; ++attempt) {
        HG_ASSIGN(auto request, build(call, hash));
        auto responses =
            transport_->perform({std::move(request)}, Deadline::after(clock(), options().timeout_us), 1, interrupt);
        auto outcome = judge(responses.front());
        if (outcome.status.ok()) {
            return std::move(responses.front());
        }
        if (code != nullptr) {
            *code = outcome.code;
        }
        if (!outcome.transient || attempt >= options().attempts) {
            return outcome.status;
        }
        if (!sleep_interruptibly(clock(), back_off_us(attempt), interrupt)) {
            return Status(ErrorCode::interrupted, "interrupted");
        }
    }
}

}  // namespace headgate::backends::s3
