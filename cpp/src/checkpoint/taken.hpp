// The ledger of a target as a run sees it: all of it, or the days that the source has.
#pragma once

#include <map>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/checkpoint/checkpoint.hpp"
#include "segment.hpp"

namespace headgate::checkpoint {

class LedgerView {
public:
    LedgerView(const Options& options, Target& target) : options_(options), target_(target) {}

    // The segments of what is committed; those of an undivided ledger are read now.
    Status open(const std::vector<std::string>& segments);
    // Reads the segments that may know `key`, if that was not done yet. One thread; others may find() meanwhile what
    // was reached before, and pointers that it gave stay good.
    Status reach(std::string_view key);
    const Entry* find(std::string_view key, const KeyDigest& digest) const;
    bool empty() const { return empty_; }

    std::string partition_of(std::string_view key) const;
    // "seg-7-0123456789ab@20240115.hgl" belongs to the partition 20240115, a name without '@' to the only one.
    static std::string partition_of_part(const std::string& name);

private:
    Status load(const std::string& partition);

    const Options& options_;
    Target& target_;
    bool empty_ = true;
    mutable std::shared_mutex mutex_;  // of taken_, where days come one by one
    std::map<std::string, Taken> taken_;
    std::map<std::string, std::vector<std::string>> waiting_;  // parts not read yet
};

}  // namespace headgate::checkpoint
