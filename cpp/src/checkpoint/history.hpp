// What earlier runs have taken of files of lines and what they have rejected, as a run that reads files asks for it.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "file_selection.hpp"
#include "growth.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "rejected.hpp"
#include "taken.hpp"

namespace headgate::checkpoint {

// Called by the threads that read files.
class History {
public:
    History(const Options& options, LedgerView& ledger) : options_(options), ledger_(ledger) {}
    History(const History&) = delete;
    History& operator=(const History&) = delete;

    // Which names the source has is known once `selection` has listed it, unless it lists a part of it.
    void ask(const FileSelection& selection, bool lists_all) {
        selection_ = &selection;
        lists_all_ = lists_all;
    }
    // From now on a file of lines that begins anew is taken whole.
    void take_rewritten() { take_rewritten_ = true; }

    // Where the lines of a file begin that were not taken yet. `content` is unpacked, `whole` the digest of the bytes
    // as they came, and `found` what was taken under its name, or nullptr. Waits for the listing if lines may have been
    // taken under another name.
    Continuation continue_after(std::string_view key, std::string_view content, std::uint64_t whole, const Entry* found,
                                const std::atomic<bool>& stop) const;
    // The file has changed since it was listed, although its time says nothing of when.
    bool is_unsettled(const KeyDigest& key, std::uint64_t tag) const;
    // The rejected records that are to be tried again, or nullptr.
    const RejectedRecords::Records* rejected(const KeyDigest& key) const { return rejected_.find(key); }

    // For the thread that runs: the rejected records of a table, and the entry of lines that have another name now.
    RejectedRecords& rejected() { return rejected_; }
    std::optional<std::pair<std::string, Entry>> moved(std::uint64_t content) const;

private:
    using MovedLines = std::map<std::uint64_t, std::pair<std::string, Entry>>;  // by content: partition, entry

    // Returns the entries of files of lines whose names are gone, or nullptr if that cannot be known. What it returns
    // does not change any more. Waits for the listing.
    const MovedLines* index(const std::atomic<bool>& stop) const;

    const Options& options_;
    LedgerView& ledger_;
    const FileSelection* selection_ = nullptr;
    bool lists_all_ = false;
    bool take_rewritten_ = false;
    RejectedRecords rejected_;
    mutable Mutex mutex_;
    mutable std::unique_ptr<const MovedLines> moved_ HG_GUARDED_BY(mutex_);
};

}  // namespace headgate::checkpoint
