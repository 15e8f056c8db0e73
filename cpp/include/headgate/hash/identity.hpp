// Deterministic identity: SHA-256 over RFC 8785, and the market keys of the specification.
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

// The digest of bytes that come in parts, which can be asked for between them.
class Sha256 {
public:
    Sha256();
    void add(std::string_view bytes);
    Digest value() const;

private:
    struct State;
    std::unique_ptr<State, void (*)(State*)> state_;
};

// 64 hex digits of the SHA-256 of the canonical form of exactly this document.
Result<std::string> event_id(std::string_view json_text, json::BigIntegers big_integers = json::BigIntegers::refuse);

// The same for many documents on up to `threads` threads (0: all cores). The first failing document by position is
// the error, its message naming the position.
Result<std::vector<std::string>> event_ids(const std::vector<std::string_view>& texts, unsigned threads = 0,
                                           json::BigIntegers big_integers = json::BigIntegers::refuse);

// The canonical forms themselves, on the same terms.
Result<std::vector<std::string>> canonical_texts(const std::vector<std::string_view>& texts, unsigned threads = 0,
                                                 json::BigIntegers big_integers = json::BigIntegers::refuse);

// First 32 hex digits of SHA-256 over "headline|source|YYYY-MM-DD"; `date` is the publication date in UTC.
std::string dedup_key(std::string_view headline, std::string_view source, std::string_view date);

}  // namespace headgate::hash
