#include "sigv4.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "headgate/base/file.hpp"
#include "headgate/base/text.hpp"

namespace headgate::backends::s3 {
namespace {

std::string hmac(std::string_view key, std::string_view text) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
    unsigned size = 0;
    HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(text.data()),
         text.size(), out.data(), &size);
    return {reinterpret_cast<const char*>(out.data()), size};
}

struct FreeDigest {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

// "20240115T100000Z"
std::string amz_date(std::int64_t now_us) {
    std::string out;
    for (const char c : format_timestamp(now_us - now_us % 1'000'000)) {
        if (c != '-' && c != ':') {
            out += c;
        }
    }
    return out;
}

}  // namespace

std::string uri_encode(std::string_view text, bool keep_slash) {
    static constexpr const char* kHex = "0123456789ABCDEF";
    std::string out;
    out.reserve(text.size());
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        const bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
                           c == '.' || c == '_' || c == '~' || (keep_slash && c == '/');
        if (plain) {
            out += c;
        } else {
            out += '%';
            out += kHex[byte >> 4U];
            out += kHex[byte & 15U];
        }
    }
    return out;
}

std::string sha256_hex(std::string_view bytes) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
    unsigned size = 0;
    EVP_Digest(bytes.data(), bytes.size(), out.data(), &size, EVP_sha256(), nullptr);
    return to_hex(out.data(), size);
}

Result<std::string> sha256_hex_of_file(const std::string& path) {
    const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.ok()) {
        return status_from_errno(errno, "cannot open " + path);
    }
    const std::unique_ptr<EVP_MD_CTX, FreeDigest> context(EVP_MD_CTX_new());
    EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
    std::string buffer(1U << 20U, '\0');
    while (true) {
        const auto read = ::read(file.get(), buffer.data(), buffer.size());
        if (read < 0 && errno == EINTR) {
            continue;
        }
        if (read < 0) {
            return status_from_errno(errno, "cannot read " + path);
        }
        if (read == 0) {
            break;
        }
        EVP_DigestUpdate(context.get(), buffer.data(), static_cast<std::size_t>(read));
    }
    std::array<unsigned char, EVP_MAX_MD_SIZE> out{};
    unsigned size = 0;
    EVP_DigestFinal_ex(context.get(), out.data(), &size);
    return to_hex(out.data(), size);
}

std::string canonical_query(Query query) {
    for (auto& [name, value] : query) {
        name = uri_encode(name, false);
        value = uri_encode(value, false);
    }
    std::sort(query.begin(), query.end());
    std::string out;
    for (const auto& [name, value] : query) {
        out += out.empty() ? "" : "&";
        out += name + "=" + value;
    }
    return out;
}

std::string Signer::key_of(const std::string& secret, const std::string& day) {
    const MutexLock lock(mutex_);
    if (day != day_ || secret != secret_) {
        day_ = day;
        secret_ = secret;
        key_ = hmac(hmac(hmac(hmac("AWS4" + secret, day), region_), "s3"), "aws4_request");
    }
    return key_;
}

void Signer::sign(const S3Credentials& credentials, std::string_view method, std::string_view host,
                  std::string_view path, const std::string& query, const std::string& payload_hash, std::int64_t now_us,
                  net::Headers& headers) {
    if (credentials.access_key.empty()) {
        return;
    }
    const auto date = amz_date(now_us);
    const auto day = date.substr(0, 8);
    headers.emplace_back("x-amz-content-sha256", payload_hash);
    headers.emplace_back("x-amz-date", date);
    if (!credentials.session_token.empty()) {
        headers.emplace_back("x-amz-security-token", credentials.session_token);
    }
    auto sorted = headers;
    sorted.emplace_back("host", host);
    std::sort(sorted.begin(), sorted.end());
    std::string canonical = std::string(method) + "\n" + std::string(path) + "\n" + query + "\n";
    std::string names;
    for (const auto& [name, value] : sorted) {
        canonical += name + ":" + value + "\n";
        names += (names.empty() ? "" : ";") + name;
    }
    canonical += "\n" + names + "\n" + payload_hash;
    const auto scope = day + "/" + region_ + "/s3/aws4_request";
    const auto signature = hmac(key_of(credentials.secret_key, day),
                                "AWS4-HMAC-SHA256\n" + date + "\n" + scope + "\n" + sha256_hex(canonical));
    headers.emplace_back(
        "authorization",
        "AWS4-HMAC-SHA256 Credential=" + credentials.access_key + "/" + scope + ", SignedHeaders=" + names +
            ", Signature=" + to_hex(reinterpret_cast<const std::uint8_t*>(signature.data()), signature.size()));
}

}  // namespace headgate::backends::s3
