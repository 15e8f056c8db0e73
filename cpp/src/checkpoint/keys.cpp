#include "keys.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <iterator>
#include <string>

#include "headgate/base/limit.hpp"
#include "headgate/base/threads.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kSmallestBlock = limit(4U << 10U, 64);
constexpr std::size_t kLargestBlock = limit(256U << 10U, 256);
constexpr std::size_t kKeysPerThread = limit(20'000, 4);
constexpr std::size_t kKeysPerGroup = limit(64, 2);
constexpr std::size_t kCodedBlock = limit(64U << 10U, 64);
constexpr std::size_t kLongestStretch = limit(512, 3);
constexpr std::size_t kStretchesPerReader = limit(8, 2);  // at least, of enough files: few may be large ones

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

// Calls `work` with 0 to parts - 1, each on a thread of its own; the caller's is one of them.
void in_threads(std::size_t parts, const std::function<void(std::size_t)>& work) {
    Threads others;
    for (std::size_t part = 1; part < parts; ++part) {
        others.start([&work, part] { work(part); });
    }
    work(0);
    others.join();
}

std::size_t shared_prefix(std::string_view a, std::string_view b) {
    const auto most = std::min(a.size(), b.size());
    return static_cast<std::size_t>(
        std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(most), b.begin()).first - a.begin());
}

// Seven bits a byte, the lowest first; the last byte has its top bit clear.
void put_length(std::string& out, std::size_t length) {
    for (; length >= 0x80; length >>= 7U) {
        out.push_back(static_cast<char>(length | 0x80));
    }
    out.push_back(static_cast<char>(length));
}

std::size_t take_length(const char*& from) {
    std::size_t out = 0;
    for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<unsigned char>(*from++);
        out |= static_cast<std::size_t>(byte & 0x7FU) << shift;
        if (byte < 0x80) {
            return out;
        }
    }
}

// As the part that it shares with the one before, and the rest.
void put_key(std::string& out, std::string_view before, std::string_view key) {
    const auto shared = shared_prefix(before, key);
    put_length(out, shared);
    put_length(out, key.size() - shared);
    out.append(key.substr(shared));
}

}  // namespace

void KeyList::add(std::string_view key) {
    if (key.size() > room_) {
        constexpr std::size_t most_doublings = std::bit_width(kLargestBlock / kSmallestBlock) - 1;
        room_ = std::max(kSmallestBlock << std::min(blocks_.size(), most_doublings), key.size());
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

void SortedKeys::Coded::put(const std::string& group) {
    if (group.size() > room) {
        room = std::max(group.size(), kCodedBlock);
        blocks.push_back(std::make_unique_for_overwrite<char[]>(room));
        end = blocks.back().get();
    }
    groups.push_back(end);
    end = std::copy(group.begin(), group.end(), end);
    room -= group.size();
}

SortedKeys::Coded SortedKeys::code(const std::string_view* begin, const std::string_view* end) {
    Coded out;
    std::string group;
    while (begin != end) {
        group.clear();
        std::string_view before;
        for (std::size_t i = 0; i < kKeysPerGroup && begin != end; ++i, ++begin) {
            put_key(group, before, *begin);
            before = *begin;
        }
        out.put(group);
    }
    return out;
}

void SortedKeys::append(std::string_view key) {
    if (size_ % kKeysPerGroup == 0) {
        if (!group_.empty()) {
            coded_.put(group_);
        }
        group_.clear();
        last_.clear();
    }
    put_key(group_, last_, key);
    last_ = key;
    ++size_;
}

SortedKeys SortedKeys::merged(std::vector<KeyList> sorted, std::size_t threads) {
    std::erase_if(sorted, [](const KeyList& list) { return list.keys_.empty(); });
    std::size_t total = 0;
    Keys samples;  // a few of each list
    bool in_order = true;
    std::string_view greatest;
    for (const auto& list : sorted) {
        in_order = in_order && greatest <= list.keys_.front();
        greatest = list.keys_.back();
        total += list.keys_.size();
        for (std::size_t i = 0; i < list.keys_.size(); i += list.keys_.size() / 16 + 1) {
            samples.push_back(list.keys_[i]);
        }
    }
    const auto parts = std::clamp<std::size_t>(total / kKeysPerThread, 1, std::max<std::size_t>(threads, 1));
    Keys keys(total);
    if (in_order) {
        auto to = keys.begin();
        for (const auto& list : sorted) {
            to = std::copy(list.keys_.begin(), list.keys_.end(), to);
        }
    } else {
        // Each thread merges the keys between two of the samples.
        std::sort(samples.begin(), samples.end());
        std::vector<std::size_t> at(sorted.size(), 0);
        std::vector<std::vector<std::ptrdiff_t>> ends(parts);
        std::vector<Keys::iterator> begins;
        auto to = keys.begin();
        for (std::size_t part = 0; part < parts; ++part) {
            begins.push_back(to);
            for (std::size_t i = 0; i < sorted.size(); ++i) {
                const auto& list = sorted[i].keys_;
                const auto first = list.begin() + static_cast<std::ptrdiff_t>(at[i]);
                const auto last = part + 1 == parts ? list.end()
                                                    : std::lower_bound(first, list.end(),
                                                                       samples[samples.size() * (part + 1) / parts]);
                to = std::copy(first, last, to);
                at[i] = static_cast<std::size_t>(last - list.begin());
                ends[part].push_back(to - begins[part]);
            }
        }
        for (auto& list : sorted) {
            list.keys_ = Keys();  // the texts are needed, these no longer
        }
        in_threads(parts, [&](std::size_t part) { merge_stretches(begins[part], std::move(ends[part])); });
    }
    std::vector<Coded> coded(parts);
    const auto groups = (total + kKeysPerGroup - 1) / kKeysPerGroup;
    in_threads(parts, [&](std::size_t part) {
        const auto bound = [&](std::size_t n) { return std::min(total, groups * n / parts * kKeysPerGroup); };
        coded[part] = code(keys.data() + bound(part), keys.data() + bound(part + 1));
    });
    SortedKeys out;
    out.size_ = total;
    for (auto& part : coded) {
        std::move(part.blocks.begin(), part.blocks.end(), std::back_inserter(out.coded_.blocks));
        out.coded_.groups.insert(out.coded_.groups.end(), part.groups.begin(), part.groups.end());
    }
    return out;
}

KeyList SortedKeys::range(std::size_t begin, std::size_t end) const {
    KeyList out;
    out.keys_.reserve(end - begin);
    std::string key;
    if (begin >= end) {
        return out;
    }
    const char* from = nullptr;
    for (auto i = begin - begin % kKeysPerGroup; i < end; ++i) {
        if (const auto group = i / kKeysPerGroup; i % kKeysPerGroup == 0) {
            from = group < coded_.groups.size() ? coded_.groups[group] : group_.data();
        }
        key.resize(take_length(from));
        const auto rest = take_length(from);
        key.append(from, rest);
        from += rest;
        if (i >= begin) {
            out.add(key);
        }
    }
    return out;
}

ReadingList::ReadingList(KeyList keys, std::size_t readers) : readers_(readers), closed_(true) {
    keys.sort();
    std::vector<KeyList> lists;
    lists.push_back(std::move(keys));
    keys_ = SortedKeys::merged(std::move(lists), readers);
}

void ReadingList::add(const KeyList& keys) {
    const MutexLock lock(mutex_);
    for (std::size_t i = 0; i < keys.size(); ++i) {
        keys_.append(keys[i]);
    }
    changed_.notify_all();
}

void ReadingList::add(SortedKeys keys) {
    const MutexLock lock(mutex_);
    keys_ = std::move(keys);
    changed_.notify_all();
}

void ReadingList::close() {
    const MutexLock lock(mutex_);
    closed_ = true;
    changed_.notify_all();
}

void ReadingList::cancel() {
    const MutexLock lock(mutex_);
    next_ = keys_.size();
    closed_ = true;
    changed_.notify_all();
}

void ReadingList::clear() {
    const MutexLock lock(mutex_);
    keys_ = {};
}

std::optional<bool> ReadingList::any_within(std::chrono::milliseconds most) const {
    const auto end = std::chrono::steady_clock::now() + most;
    const MutexLock lock(mutex_);
    bool in_time = true;
    while (!closed_ && next_ == keys_.size()) {
        if (!in_time) {
            return std::nullopt;
        }
        in_time = changed_.wait_until(mutex_, end);
    }
    return next_ < keys_.size();
}

std::optional<Stretch> ReadingList::next() {
    const MutexLock lock(mutex_);
    const auto most = std::clamp<std::size_t>(keys_.size() / (readers_ * kStretchesPerReader), 1, kLongestStretch);
    const auto end = std::min(keys_.size(), next_ + most);
    if (next_ == end) {
        return std::nullopt;
    }
    Stretch out{stretches_++, next_, nullptr};
    out.keys = std::make_shared<const KeyList>(keys_.range(next_, end));
    next_ = end;
    return out;
}

std::optional<std::size_t> ReadingList::finished() const {
    const MutexLock lock(mutex_);
    return is_finished() ? std::optional(stretches_) : std::nullopt;
}

std::size_t ReadingList::size() const {
    const MutexLock lock(mutex_);
    return keys_.size();
}

std::size_t ReadingList::readers() const {
    const MutexLock lock(mutex_);
    return closed_ ? std::min(readers_, keys_.size()) : readers_;
}

Fetcher::Coming OpenStretches::next(Wanted& out) {
    if (at_ == end_) {
        auto stretch = list_.next();
        if (!stretch) {
            return list_.finished() ? Fetcher::Coming::nothing : Fetcher::Coming::later;
        }
        at_ = stretch->begin;
        end_ = at_ + stretch->keys->size();
        open_.push_back(std::move(*stretch));
    }
    out = {at_, (*this)[at_]};
    ++at_;
    return Fetcher::Coming::file;
}

std::string_view OpenStretches::operator[](std::size_t index) const {
    auto stretch = open_.begin();
    while (index - stretch->begin >= stretch->keys->size()) {
        ++stretch;
    }
    return (*stretch->keys)[index - stretch->begin];
}

void OpenStretches::close_before(std::size_t index) {
    while (!open_.empty() && open_.front().begin + open_.front().keys->size() <= index) {
        open_.pop_front();
    }
}

}  // namespace headgate::checkpoint
