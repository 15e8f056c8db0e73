// Which files of a source a run has to read.
#pragma once

#include "headgate/checkpoint/checkpoint.hpp"
#include "reading.hpp"
#include "taken.hpp"

namespace headgate::checkpoint {

struct Window {
    bool on = false;
    std::string stamp;  // YYYYMMDD-HHMMSS: only names after it
};

// Lists, and gives (sorted) what is new or may have changed; counts the rest in `summary`.
Result<SortedKeys> choose(const Options& options, const Environment& environment, const Window& window,
                          LedgerView& ledger, Summary& summary);

// "20240115-100000", as event files are named.
std::string compact_stamp(std::int64_t us);

}  // namespace headgate::checkpoint
