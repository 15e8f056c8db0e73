#include "headgate/hash/identity.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "headgate/base/text.hpp"
#include "headgate/base/threads.hpp"
#include "headgate/json/reader.hpp"

namespace headgate::hash {
namespace {

// For fewer bytes than this, starting threads costs more than it saves.
constexpr std::size_t kBytesPerThread = 64 * 1024;

struct MdFree {
    void operator()(EVP_MD* md) const { EVP_MD_free(md); }
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

// Fetched once: EVP_sha256() would look the provider up again on every digest.
const EVP_MD* sha256_method() {
    static const std::unique_ptr<EVP_MD, MdFree> method(EVP_MD_fetch(nullptr, "SHA256", nullptr));
    return method.get();
}

struct Slice {
    std::size_t failed_at = SIZE_MAX;
    Status error;
};

}  // namespace

Digest sha256(std::string_view bytes) {
    thread_local const std::unique_ptr<EVP_MD_CTX, MdFree> context(EVP_MD_CTX_new());
    Digest digest{};
    unsigned size = 0;
    // These calls fail only if memory is exhausted. The digest is zero then, which matches no other.
    EVP_DigestInit_ex2(context.get(), sha256_method(), nullptr);
    EVP_DigestUpdate(context.get(), bytes.data(), bytes.size());
    EVP_DigestFinal_ex(context.get(), digest.data(), &size);
    return digest;
}

struct Sha256::State {
    std::unique_ptr<EVP_MD_CTX, MdFree> all{EVP_MD_CTX_new()};
    std::unique_ptr<EVP_MD_CTX, MdFree> copy{EVP_MD_CTX_new()};
};

// As in sha256(), the calls of OpenSSL fail only if memory is exhausted.
Sha256::Sha256() : state_(new State, [](State* state) { delete state; }) {
    EVP_DigestInit_ex2(state_->all.get(), sha256_method(), nullptr);
}

void Sha256::add(std::string_view bytes) {
    EVP_DigestUpdate(state_->all.get(), bytes.data(), bytes.size());
}

Digest Sha256::value() const {
    Digest digest{};
    unsigned size = 0;
    EVP_MD_CTX_copy_ex(state_->copy.get(), state_->all.get());
    EVP_DigestFinal_ex(state_->copy.get(), digest.data(), &size);
    return digest;
}

std::string sha256_hex(std::string_view bytes) {
    const auto digest = sha256(bytes);
    return to_hex(digest.data(), digest.size());
}

Result<std::string> event_id(std::string_view json_text, json::BigIntegers big_integers) {
    json::CanonicalWriter writer(big_integers);
    HG_RETURN_IF_ERROR(json::parse_json(json_text, writer));
    return sha256_hex(writer.view());
}

namespace {

// Calls `make` with each document's canonical form, on up to `threads` threads, and returns the results in order.
template <class Make>
Result<std::vector<std::string>> for_each_text(const std::vector<std::string_view>& texts, unsigned threads,
                                               json::BigIntegers big_integers, Make make) {
    std::vector<std::string> made(texts.size());
    const auto work = [&](std::size_t begin, std::size_t end, Slice& slice) {
        json::CanonicalWriter writer(big_integers);
        for (std::size_t i = begin; i < end; ++i) {
            writer.clear();
            if (auto status = json::parse_json(texts[i], writer); !status.ok()) {
                slice.failed_at = i;
                slice.error = std::move(status);
                return;
            }
            made[i] = make(writer.view());
        }
    };
    std::size_t bytes = 0;
    for (const auto text : texts) {
        bytes += text.size();
    }
    std::size_t count = threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
    count = std::max<std::size_t>(1, std::min(count, bytes / kBytesPerThread));
    std::vector<Slice> slices(count);
    Threads workers;
    const std::size_t share = (texts.size() + count - 1) / count;
    for (std::size_t t = 1; t < count; ++t) {
        workers.start(
            [&, t] { work(std::min(texts.size(), t * share), std::min(texts.size(), (t + 1) * share), slices[t]); });
    }
    work(0, std::min(texts.size(), share), slices[0]);
    workers.join();
    for (const auto& slice : slices) {
        if (!slice.error.ok()) {
            return Status(slice.error.code(),
                          "document " + std::to_string(slice.failed_at) + ": " + slice.error.message());
        }
    }
    return made;
}

}  // namespace

Result<std::vector<std::string>> event_ids(const std::vector<std::string_view>& texts, unsigned threads,
                                           json::BigIntegers big_integers) {
    return for_each_text(texts, threads, big_integers, sha256_hex);
}

Result<std::vector<std::string>> canonical_texts(const std::vector<std::string_view>& texts, unsigned threads,
                                                 json::BigIntegers big_integers) {
    return for_each_text(texts, threads, big_integers, [](std::string_view form) { return std::string(form); });
}

std::string dedup_key(std::string_view headline, std::string_view source, std::string_view date) {
    std::string text;
    text.reserve(headline.size() + source.size() + date.size() + 2);
    text.append(headline).append("|").append(source).append("|").append(date);
    return sha256_hex(text).substr(0, 32);
}

}  // namespace headgate::hash
