#include "keys.hpp"

#include <algorithm>
#include <iterator>
#include <thread>

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kSmallestBlock = 4U << 10U;
constexpr std::size_t kLargestBlock = 256U << 10U;
constexpr std::size_t kKeysPerThread = 20'000;

using Keys = std::vector<std::string_view>;

// Sorted stretches, one behind the other, made into one: pairs of them, then pairs of those.
void merge_stretches(Keys::iterator begin, std::vector<std::ptrdiff_t> ends) {
    Keys other(static_cast<std::size_t>(ends.empty() ? 0 : ends.back()));
    auto from = begin;
    auto to = other.begin();
    while (ends.size() > 1) {
        std::vector<std::ptrdiff_t> longer;
        std::ptrdiff_t start = 0;
        for (std::size_t i = 0; i < ends.size(); i += 2) {
            const auto middle = ends[i];
            const auto end = i + 1 < ends.size() ? ends[i + 1] : middle;
            std::merge(from + start, from + middle, from + middle, from + end, to + start);
            longer.push_back(end);
            start = end;
        }
        ends = std::move(longer);
        std::swap(from, to);
    }
    if (from != begin) {
        std::copy(other.begin(), other.end(), begin);
    }
}

}  // namespace

void KeyList::add(std::string_view key) {
    if (key.size() > room_) {
        room_ = std::max(std::clamp(kSmallestBlock << blocks_.size(), kSmallestBlock, kLargestBlock), key.size());
        blocks_.push_back(std::make_unique_for_overwrite<char[]>(room_));
        end_ = blocks_.back().get();
    }
    std::copy(key.begin(), key.end(), end_);
    keys_.emplace_back(end_, key.size());
    end_ += key.size();
    room_ -= key.size();
}

void KeyList::sort() {
    if (!std::is_sorted(keys_.begin(), keys_.end())) {
        std::sort(keys_.begin(), keys_.end());
    }
}

KeyList KeyList::merged(std::vector<KeyList> sorted, std::size_t threads) {
    std::erase_if(sorted, [](const KeyList& list) { return list.keys_.empty(); });
    KeyList out;
    std::size_t total = 0;
    Keys samples;  // a few of each list
    bool in_order = true;
    std::string_view greatest;
    for (auto& list : sorted) {
        std::move(list.blocks_.begin(), list.blocks_.end(), std::back_inserter(out.blocks_));
        in_order = in_order && greatest <= list.keys_.front();
        greatest = list.keys_.back();
        total += list.keys_.size();
        for (std::size_t i = 0; i < list.keys_.size(); i += list.keys_.size() / 16 + 1) {
            samples.push_back(list.keys_[i]);
        }
    }
    out.keys_.resize(total);
    if (in_order) {
        auto to = out.keys_.begin();
        for (const auto& list : sorted) {
            to = std::copy(list.keys_.begin(), list.keys_.end(), to);
        }
        return out;
    }
    // Each thread merges the keys between two of the samples.
    std::sort(samples.begin(), samples.end());
    const auto parts = std::clamp<std::size_t>(total / kKeysPerThread, 1, threads);
    std::vector<std::thread> others;
    std::vector<std::size_t> at(sorted.size(), 0);
    auto to = out.keys_.begin();
    for (std::size_t part = 1; part <= parts; ++part) {
        std::vector<std::ptrdiff_t> ends;
        const auto begin = to;
        for (std::size_t i = 0; i < sorted.size(); ++i) {
            const auto& keys = sorted[i].keys_;
            const auto first = keys.begin() + static_cast<std::ptrdiff_t>(at[i]);
            const auto last = part == parts
                                  ? keys.end()
                                  : std::lower_bound(first, keys.end(), samples[samples.size() * part / parts]);
            to = std::copy(first, last, to);
            at[i] = static_cast<std::size_t>(last - keys.begin());
            ends.push_back(to - begin);
        }
        if (part < parts) {
            others.emplace_back(merge_stretches, begin, std::move(ends));
        } else {
            merge_stretches(begin, std::move(ends));
        }
    }
    for (auto& thread : others) {
        thread.join();
    }
    return out;
}

}  // namespace headgate::checkpoint
