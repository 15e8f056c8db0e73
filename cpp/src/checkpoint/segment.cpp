#include "segment.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <numeric>
#include <tuple>
#include <type_traits>

#include "headgate/base/limit.hpp"
#include "headgate/hash/identity.hpp"

namespace headgate::checkpoint {
namespace {

// Frozen: part of the persistent format.
constexpr std::string_view kMagic = "HGLS";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kHeader = 16;
constexpr std::size_t kEntry = 40;
constexpr std::size_t kTrailer = 32;
constexpr std::size_t kEntriesPerBucket = limit(4, 1);
constexpr std::size_t kFewEntries = limit(32, 2);
static_assert(sizeof(Entry) == kEntry && std::is_trivially_copyable_v<Entry> &&
                  std::endian::native == std::endian::little,
              "an entry is written as it lies in memory");

template <class T>
void put(std::string& out, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        out.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i)));  // little endian
    }
}

template <class T>
T take(std::string_view& in) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        value |= static_cast<std::uint64_t>(static_cast<unsigned char>(in[i])) << (8 * i);
    }
    in.remove_prefix(sizeof(T));
    return static_cast<T>(value);
}

// Entries with the same first bytes, by the next one: each goes where that says ("American flag sort"), and those that
// are few are compared. Digests are spread evenly: two bytes of a hundred thousand leave one or two of a kind.
void sort_from(std::span<Entry> entries, std::size_t byte) {
    if (entries.size() <= kFewEntries || byte == std::tuple_size_v<KeyDigest>) {
        std::sort(entries.begin(), entries.end(), ByKey());
        return;
    }
    std::array<std::size_t, 256> begins{};
    std::array<std::size_t, 256> ends{};
    for (const auto& entry : entries) {
        ++ends[entry.key[byte]];
    }
    std::partial_sum(ends.begin(), ends.end(), ends.begin());
    std::copy(ends.begin(), ends.end() - 1, begins.begin() + 1);
    auto at = begins;
    for (std::size_t value = 0; value < at.size(); ++value) {
        while (at[value] < ends[value]) {
            auto& entry = entries[at[value]];
            if (const std::size_t other = entry.key[byte]; other == value) {
                ++at[value];
            } else {
                std::swap(entry, entries[at[other]++]);
            }
        }
    }
    for (std::size_t value = 0; value < at.size(); ++value) {
        sort_from(entries.subspan(begins[value], ends[value] - begins[value]), byte + 1);
    }
}

}  // namespace

KeyDigest digest_key(std::string_view key) {
    const auto full = hash::sha256(key);
    KeyDigest out{};
    std::copy_n(full.begin(), out.size(), out.begin());
    return out;
}

void sort_by_key(std::span<Entry> entries) {
    sort_from(entries, 0);
}

NewSegment::NewSegment(const std::vector<Entry>& entries) {
    reserve(entries.size());
    for (const auto& entry : entries) {
        add(entry);
    }
}

void NewSegment::reserve(std::size_t entries) {
    bytes_.reserve(kHeader + kEntry * entries + kTrailer);
}

void NewSegment::add(const Entry& entry) {
    bytes_.resize(std::max(bytes_.size(), kHeader));
    const auto* from = reinterpret_cast<const std::byte*>(&entry);
    bytes_.insert(bytes_.end(), from, from + kEntry);
    ++size_;
}

std::span<Entry> NewSegment::span() {
    // The header's length leaves them where entries may lie.
    static_assert(kHeader % alignof(Entry) == 0 && alignof(Entry) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
    return {reinterpret_cast<Entry*>(bytes_.data() + kHeader), size_};
}

std::vector<Entry> NewSegment::entries() const {
    std::vector<Entry> out(size_);
    if (size_ > 0) {
        std::memcpy(out.data(), bytes_.data() + kHeader, kEntry * size_);
    }
    return out;
}

std::string_view NewSegment::seal() {
    bytes_.resize(std::max(bytes_.size(), kHeader));
    sort_by_key(span());
    std::string header(kMagic);
    put(header, kVersion);
    put(header, static_cast<std::uint64_t>(size_));
    std::memcpy(bytes_.data(), header.data(), kHeader);
    const auto view = [this] { return std::string_view(reinterpret_cast<const char*>(bytes_.data()), bytes_.size()); };
    const auto sum = hash::sha256(view());
    const auto* from = reinterpret_cast<const std::byte*>(sum.data());
    bytes_.insert(bytes_.end(), from, from + sum.size());
    return view();
}

const Entry* Taken::find(const KeyDigest& key) const {
    auto low = entries_.begin();
    auto high = entries_.end();
    if (!buckets_.empty()) {
        const auto bucket = ByKey::head(key) >> shift_;
        low = entries_.begin() + buckets_[bucket];
        high = entries_.begin() + buckets_[bucket + 1];
    }
    const auto found = std::lower_bound(low, high, key, ByKey());
    return found != high && found->key == key ? &*found : nullptr;
}

// Digests are spread evenly: buckets by their first bits hold about the same number each.
void Taken::index() {
    const auto bits = static_cast<int>(std::bit_width(entries_.size() / kEntriesPerBucket));
    if (bits == 0 || entries_.size() > UINT32_MAX) {
        return;
    }
    shift_ = 64 - bits;
    buckets_.assign((std::size_t{1} << bits) + 1, 0);
    for (const auto& entry : entries_) {
        ++buckets_[(ByKey::head(entry.key) >> shift_) + 1];
    }
    std::partial_sum(buckets_.begin(), buckets_.end(), buckets_.begin());
}

void Taken::merge(std::vector<Entry> newer) {
    buckets_.clear();
    if (!std::is_sorted(newer.begin(), newer.end(), ByKey())) {
        std::stable_sort(newer.begin(), newer.end(), ByKey());
    }
    if (entries_.empty()) {
        entries_ = std::move(newer);
    } else if (!newer.empty()) {
        std::vector<Entry> both;
        both.reserve(entries_.size() + newer.size());
        std::merge(entries_.begin(), entries_.end(), newer.begin(), newer.end(), std::back_inserter(both), ByKey());
        entries_ = std::move(both);
    }
    // Of equal keys the last one counts: walk from the back, where std::unique keeps the first it meets.
    const auto kept =
        std::unique(entries_.rbegin(), entries_.rend(), [](const Entry& a, const Entry& b) { return a.key == b.key; });
    entries_.erase(entries_.begin(), kept.base());
}

Result<std::vector<Entry>> read_segment(std::string_view bytes, const std::string& name) {
    const auto corrupt = [&](const std::string& what) {
        return Status(ErrorCode::corrupt_data, "ledger segment " + name + ": " + what);
    };
    if (bytes.size() < kHeader + kTrailer || bytes.substr(0, kMagic.size()) != kMagic) {
        return corrupt("not a ledger segment");
    }
    auto rest = bytes.substr(kMagic.size());
    const auto version = take<std::uint32_t>(rest);
    if (version > kVersion) {
        return Status(ErrorCode::unsupported_version, "ledger segment " + name + ": version " +
                                                          std::to_string(version) + ", this headgate reads up to " +
                                                          std::to_string(kVersion));
    }
    const auto count = take<std::uint64_t>(rest);
    if (rest.size() < kTrailer || (rest.size() - kTrailer) % kEntry != 0 ||
        (rest.size() - kTrailer) / kEntry != count) {
        return corrupt("its length does not fit its entry count");
    }
    const auto sum = hash::sha256(bytes.substr(0, bytes.size() - kTrailer));
    if (std::memcmp(sum.data(), bytes.data() + bytes.size() - kTrailer, kTrailer) != 0) {
        return corrupt("its checksum does not match");
    }
    std::vector<Entry> out(count);
    std::memcpy(out.data(), rest.data(), kEntry * count);
    return out;
}

}  // namespace headgate::checkpoint
