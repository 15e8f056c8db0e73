// The ledger of a target as a run sees it: all of it, or the days that the source has.
#pragma once

#include <bitset>
#include <functional>
#include <future>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/mutex.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "segment.hpp"

namespace headgate::checkpoint {

class LedgerView {
public:
    LedgerView(const Options& options, Target& target) : options_(options), target_(target) {}
    ~LedgerView() {
        if (loading_.valid()) {
            loading_.wait();  // its thread uses what is destroyed next
        }
    }
    LedgerView(const LedgerView&) = delete;
    LedgerView& operator=(const LedgerView&) = delete;

    // The segments of what is committed. Those of an undivided ledger are read now, or by a thread of their own: then
    // ready() waits for it, and comes before find() and before any other use of the target.
    Status open(const std::vector<std::string>& segments, bool in_background);
    Status ready() const { return loading_.valid() ? loading_.get() : Status(); }
    // Reads the segments that may know `key`, if that was not done yet. One thread; others may find() meanwhile what
    // was reached before, and pointers that it gave stay good.
    Status reach(std::string_view key);
    const Entry* find(std::string_view key, const KeyDigest& digest) const;
    void expect(const KeyDigest& digest) const;  // a find() in a while
    bool empty() const { return empty_; }
    // Every entry that was read, with its partition; after ready(), and once everything was reached.
    void each(const std::function<void(const std::string& partition, const Entry&)>& look) const;
    void forget();  // frees the memory; nothing is looked up any more

    std::string partition_of(std::string_view key) const;
    // "seg-7-0123456789ab@20240115.hgl" belongs to the partition 20240115, a name without '@' to the only one.
    static std::string partition_of_part(const std::string& name);

private:
    Status load(std::string_view partition);
    const Entry* find_in(std::string_view partition, const KeyDigest& digest) const HG_REQUIRES_SHARED(mutex_);
    // Partitions besides its own that may know `key`: a run whose schema found the day elsewhere in names, or nowhere,
    // wrote it down under another part of the name, or under none.
    std::vector<std::string_view> others_of(std::string_view key) const;

    const Options& options_;
    Target& target_;
    std::shared_future<Status> loading_;
    bool empty_ = true;
    // Not null once the segments of an undivided ledger are loaded, that is after ready(). It does not change then, so
    // that look-ups need no lock.
    const Taken* undivided_ = nullptr;
    mutable SharedMutex mutex_;
    std::map<std::string, Taken, std::less<>> taken_ HG_GUARDED_BY(mutex_);
    // The members below belong to the thread that calls open() and reach(), or to the one that loads in the background.
    std::map<std::string, std::vector<std::string>, std::less<>> waiting_;  // parts not read yet
    std::set<std::string, std::less<>> partitions_;                         // of all parts
    std::set<std::size_t> lengths_;                                         // of their names, "" left out
    std::bitset<256> firsts_;                                               // bytes that these begin with
};

}  // namespace headgate::checkpoint
