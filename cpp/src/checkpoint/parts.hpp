// What a run adds beside the table: segments of the ledger, and what was refused.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "footer.hpp"
#include "headgate/base/limit.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "segment.hpp"

namespace headgate::checkpoint {

class NewParts {
public:
    NewParts(Target& target, const std::string& write_id, std::size_t most_entries = limit(1'000'000, 5),
             std::size_t most_merged = kMostPartEntries)
        : target_(target), id_(write_id.substr(0, 12)), most_entries_(most_entries), most_merged_(most_merged) {}
    ~NewParts();  // removes what was written, unless it was to be kept
    NewParts(const NewParts&) = delete;
    NewParts& operator=(const NewParts&) = delete;

    // Of the version that the run wants to commit; before anything is written.
    void begin(std::int64_t version) { version_ = version; }
    void expect(std::size_t entries) { expected_ = entries; }  // of one partition: room for so many is made at once
    void add(const std::string& partition, const Entry& entry);
    bool empty() const { return entries_.empty() && segments_.empty(); }
    void clear() {  // of what was not written yet
        entries_.clear();
        held_ = 0;
    }
    // Segments that are full are written now, so that memory stays flat; nobody sees them before the commit.
    Status write_if_full();
    // Where a partition has too many segments, all its entries go into one of this commit.
    Status compact(Footer& next);
    // The rest. Nothing else may be asked meanwhile; what names it comes after it.
    Status write(const std::vector<const Refused*>& rejects);
    void name_in(Footer& next) const;
    void keep() { written_.clear(); }  // a commit is about to be asked for: whatever the answer, it may have been made
    const std::vector<std::string>& written() const { return written_; }

private:
    Status write_entries();
    Status write_part(std::string name, std::string_view bytes, std::vector<std::string>& named);
    std::string part_name(const char* kind, std::size_t n, const std::string& ending) const;

    Target& target_;
    std::string id_;
    std::size_t most_entries_;  // held in memory
    std::size_t most_merged_;   // into one segment
    std::int64_t version_ = 0;
    std::map<std::string, NewSegment> entries_;  // by partition
    std::size_t held_ = 0;
    std::size_t expected_ = 0;
    std::size_t numbered_ = 0;           // segments: never two of one name, whatever was merged since
    std::vector<std::string> segments_;  // to be named
    std::vector<std::string> rejects_;   // to be named
    std::vector<std::string> written_;   // also what was merged into another one since
};

}  // namespace headgate::checkpoint
