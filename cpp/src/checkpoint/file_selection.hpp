// Which files of a source a run has to read.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "headgate/checkpoint/checkpoint.hpp"
#include "reading.hpp"
#include "rejected.hpp"
#include "taken.hpp"

namespace headgate::checkpoint {

struct Window {
    bool on = false;
    std::string stamp;  // YYYYMMDD-HHMMSS: only names after it
};

// Finds out what is new or may have changed, and counts the rest.
class FileSelection {
public:
    // `in_order`: rely on the order that the source promises.
    FileSelection(const Options& options, const Environment& environment, const Window& window, LedgerView& ledger,
                  bool in_order, ReadingList& out);
    ~FileSelection();
    FileSelection(const FileSelection&) = delete;
    FileSelection& operator=(const FileSelection&) = delete;

    // Fills and closes the list. Where the source lists in order, a thread does so while the first files are read.
    Status begin();
    // Waits for that thread, if there is one, and says what became of it. What it has listed is in `summary`.
    Status finish(Summary& summary);
    // Before begin(): files with such records are read again.
    void retry(const RejectedRecords& records);
    // Waits until everything is listed; false when `stop` was set first. For the threads that read.
    bool wait_until_listed(const std::atomic<bool>& stop) const;
    // Once everything is listed: a known file of lines with this key is still what it was.
    bool has_unchanged(const KeyDigest& key) const;
    // The tag of a file whose time of change is ahead of the clock, as it was when it was listed.
    std::optional<std::uint64_t> tag_ahead(const KeyDigest& key) const;
    // After finish(): of the files that were taken before, more are as they were then than not.
    bool most_known_are_unchanged() const;
    // The source did not list in the order that it promises: the run has to start again, with `in_order` false.
    bool listing_was_out_of_order() const;

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

// "20240115-100000", as event files are named.
std::string compact_stamp(std::int64_t us);

}  // namespace headgate::checkpoint
