// What was taken, as immutable files beside the table. docs/formats.md describes the bytes.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::checkpoint {

using KeyDigest = std::array<std::uint8_t, 16>;

struct Entry {
    KeyDigest key{};
    std::uint64_t tag = 0;      // of size and modification time: cheap to compare
    std::uint64_t content = 0;  // first 8 bytes of the content's SHA-256
    std::uint32_t rows = 0;
    std::uint32_t flags = 0;  // bit 0: rejected
};

struct KeyHash {
    std::size_t operator()(const KeyDigest& key) const noexcept {
        std::size_t value = 0;
        std::memcpy(&value, key.data(), sizeof value);  // already a hash
        return value;
    }
};

using Taken = std::unordered_map<KeyDigest, Entry, KeyHash>;

KeyDigest digest_key(std::string_view key);
std::string write_segment(const std::vector<Entry>& entries);
Status read_segment(std::string_view bytes, const std::string& name, Taken& into);

}  // namespace headgate::checkpoint
