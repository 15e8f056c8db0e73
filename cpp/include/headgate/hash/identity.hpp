// Identities of records: SHA-256 over canonical JSON (RFC 8785), and the dedup key of news. All functions are pure and
// may be called from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"
#include "headgate/json/canonical.hpp"

namespace headgate::hash {

using Digest = std::array<std::uint8_t, 32>;

Digest sha256(std::string_view bytes);
std::string sha256_hex(std::string_view bytes);

// SHA-256 of bytes that arrive in parts. value() may be called at any time; it is the digest of the bytes added so far.
class Sha256 {
public:
    Sha256();
    void add(std::string_view bytes);
    Digest value() const;

private:
    struct State;
    std::unique_ptr<State, void (*)(State*)> state_;
};

// Returns 64 hexadecimal digits: the SHA-256 of the canonical form of a JSON document. Errors are those of
// json::canonicalize().
Result<std::string> event_id(std::string_view json_text, json::BigIntegers big_integers = json::BigIntegers::refuse);

// The event ids of many documents, in their order, computed on up to `threads` threads (0: one for each core). If some
// documents fail, the error is that of the first of them, and its message names the position.
Result<std::vector<std::string>> event_ids(const std::vector<std::string_view>& texts, unsigned threads = 0,
                                           json::BigIntegers big_integers = json::BigIntegers::refuse);

// As event_ids(), but returns the canonical forms themselves.
Result<std::vector<std::string>> canonical_texts(const std::vector<std::string_view>& texts, unsigned threads = 0,
                                                 json::BigIntegers big_integers = json::BigIntegers::refuse);

// The identity of a news story whose bytes differ between deliveries: the first 32 hexadecimal digits of the SHA-256 of
// "headline|source|YYYY-MM-DD". `date` is the day of publication in UTC.
std::string dedup_key(std::string_view headline, std::string_view source, std::string_view date);

}  // namespace headgate::hash
