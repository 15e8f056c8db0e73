// What was taken, as immutable files beside the table. docs/formats.md describes the bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::checkpoint {

using KeyDigest = std::array<std::uint8_t, 16>;

// Of a segment that can be read back (kMostPartBytes).
constexpr std::size_t kMostPartEntries = 26'000'000;

struct Entry {
    KeyDigest key{};
    std::uint64_t tag = 0;      // of size and modification time: cheap to compare
    std::uint64_t content = 0;  // first 8 bytes of the content's SHA-256
    std::uint32_t rows = 0;
    std::uint32_t flags = 0;

    static constexpr std::uint32_t kRejected = 1;  // nothing of the file is in the table
    static constexpr std::uint32_t kOpenEnd = 2;   // `content` is of its whole lines: the last one had no end
    static constexpr std::uint32_t kLines = 4;     // a file of lines
    static constexpr std::uint32_t kMoved = 8;     // whose lines are known under another name now
};

// Digests as they are compared byte by byte.
struct ByKey {
    bool operator()(const Entry& a, const Entry& b) const { return (*this)(a, b.key); }
    bool operator()(const Entry& a, const KeyDigest& b) const {
        const auto heads = std::pair(head(a.key), head(b));
        return heads.first != heads.second ? heads.first < heads.second : a.key < b;
    }
    static std::uint64_t head(const KeyDigest& key) {
        std::uint64_t out = 0;
        std::memcpy(&out, key.data(), sizeof out);
        return __builtin_bswap64(out);
    }
};

// The entries of all segments, sorted by key: 41 bytes a file, where a hash map would take a hundred.
class Taken {
public:
    const Entry* find(const KeyDigest& key) const;
    // Makes the processor fetch what find() will look at; of millions of entries each lies where none was before.
    void expect(const KeyDigest& key) const {
        if (buckets_.empty()) {
            return;
        }
        if (const std::size_t first = buckets_[ByKey::head(key) >> shift_]; first + 2 < entries_.size()) {
            __builtin_prefetch(&entries_[first]);
            __builtin_prefetch(&entries_[first + 2]);
        }
    }
    // `newer` replaces what is here under the same key; any order, the last of equal keys counts.
    void merge(std::vector<Entry> newer);
    // Makes find() look at one bucket of some entries, until the next merge.
    void index();
    std::size_t size() const { return entries_.size(); }
    const std::vector<Entry>& entries() const { return entries_; }

private:
    std::vector<Entry> entries_;
    std::vector<std::uint32_t> buckets_;  // by a key's first bits: where its entries begin
    int shift_ = 0;
};

KeyDigest digest_key(std::string_view key);
void sort_by_key(std::span<Entry> entries);  // not stable

// Entries in the bytes that will be written, so that a million of them are there once.
class NewSegment {
public:
    NewSegment() = default;
    explicit NewSegment(const std::vector<Entry>& entries);
    void reserve(std::size_t entries);
    void add(const Entry& entry);
    bool empty() const { return size_ == 0; }
    std::vector<Entry> entries() const;
    // Sorts them and puts a header before them and a checksum behind. Nothing can be added after it.
    std::string_view seal();

private:
    std::span<Entry> span();

    std::vector<std::byte> bytes_;
    std::size_t size_ = 0;
};

Result<std::vector<Entry>> read_segment(std::string_view bytes, const std::string& name);

}  // namespace headgate::checkpoint
