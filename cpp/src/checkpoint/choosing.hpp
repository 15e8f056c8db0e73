// Which files of a source a run has to read.
#pragma once

#include <memory>

#include "headgate/checkpoint/checkpoint.hpp"
#include "reading.hpp"
#include "taken.hpp"

namespace headgate::checkpoint {

struct Window {
    bool on = false;
    std::string stamp;  // YYYYMMDD-HHMMSS: only names after it
};

// Finds out what is new or may have changed, and counts the rest.
class Choosing {
public:
    // `in_order`: take the source's word for it.
    Choosing(const Options& options, const Environment& environment, const Window& window, LedgerView& ledger,
             bool in_order, ReadingList& out);
    ~Choosing();
    Choosing(const Choosing&) = delete;
    Choosing& operator=(const Choosing&) = delete;

    // Fills and closes the list. Where the source lists in order, a thread does so while the first files are read.
    Status begin();
    // Waits for that thread, if there is one, and says what became of it. What it has listed is in `summary`.
    Status finish(Summary& summary);
    // The source broke its word: what was read is in no order, and the run has to start again.
    bool was_deceived() const;

private:
    class Chooser;
    std::unique_ptr<Chooser> chooser_;
};

// "20240115-100000", as event files are named.
std::string compact_stamp(std::int64_t us);

}  // namespace headgate::checkpoint
