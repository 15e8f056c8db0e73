// Reading many small files on several threads, with the results in the order of the list and bounded memory.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "growth.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "headgate/checkpoint/records.hpp"
#include "keys.hpp"
#include "segment.hpp"

namespace headgate::checkpoint {

struct BadRecord {
    std::uint64_t offset;
    std::vector<schema::Problem> problems;
};

struct FileResult {
    std::string_view key;  // of the piece's keys
    ReadOutcome outcome = ReadOutcome::failed;
    Entry entry;
    std::uint32_t records = 0;
    std::uint32_t drifted = 0;
    std::uint64_t bytes = 0;
    bool same_content = false;           // a known file whose content is what it was
    bool unsettled = false;              // changed since it was listed: nothing was taken
    Continuation continuation;           // of lines; of `rewritten` ones nothing was taken
    std::vector<std::uint64_t> retried;  // offsets of records that were rejected before and are good now
    bool goes_on = false;  // the rest of a large file comes in the next piece; counts and `bad` are of this part
    std::vector<BadRecord> bad;
    Status error;
};

// Files in the order of the list with their good records; a large batch or file comes in several pieces.
struct Piece {
    std::vector<FileResult> files;
    schema::Columns columns;
    std::shared_ptr<const KeyList> keys;
};

// What was taken of a key before, or nullptr. Called by several threads.
using Known = std::function<const Entry*(std::string_view key, const KeyDigest& digest)>;

class History;

// Calls `take` on the calling thread, piece by piece in the order of `list`. ErrorCode::interrupted when the interrupt
// says so; the workers are joined before it returns. With `history` lines and records that were taken before are left
// out.
Status read_files(const Options& options, ReadingList& list, const Known& known, const Environment& environment,
                  const std::function<Status(Piece&)>& take, const History* history = nullptr);

unsigned reading_threads(unsigned wanted, const Source& source);

}  // namespace headgate::checkpoint
