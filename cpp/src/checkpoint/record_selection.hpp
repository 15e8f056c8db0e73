// Which records of a file a run takes, when earlier runs have read the file or a leading part of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "rejected.hpp"
#include "segment.hpp"

namespace headgate::checkpoint {

class RecordSelection {
public:
    // The records that end behind `begin`: what is before it was read by an earlier run. All of them if it is 0.
    explicit RecordSelection(std::size_t begin = 0) : begin_(begin) {}

    // Selects those of `records`, which were rejected earlier, that are still where they were in `content`. Of the file
    // `found` was kept, and `begin` is where the part of `content` ends that this is about.
    void retry(const RejectedRecords::Records& records, const Entry& found, std::string_view content);

    // Whether to take a record that begins at `offset` and that ends, or whose document ends, at `end`. One that was
    // read before it was whole is not the record that was rejected then.
    bool has(std::uint64_t offset, std::uint64_t end) const {
        if (all_ || begin_ == 0 || end > begin_) {
            return true;
        }
        const auto* rejected = find(offset);
        return rejected != nullptr && end <= rejected->part_end;
    }
    // The offset under which the reject store keeps the record that begins at `offset`, if retry() has selected it.
    std::optional<std::uint64_t> rejected_at(std::uint64_t offset) const {
        const auto* rejected = find(offset);
        return rejected == nullptr ? std::nullopt : std::optional(rejected->offset);
    }

    bool takes_all() const { return all_; }  // rejected records are tried again, and nothing of the file was taken
    bool any_again() const { return all_ || !again_.empty(); }
    std::vector<std::uint64_t> again() const;  // offsets of the rejected records that are tried again, sorted

private:
    struct Rejected {
        std::uint64_t offset = 0;  // as it was recorded: blanks and a byte order mark may follow
        std::size_t part_end = 0;  // of the leading part of the file that the run had read
    };
    const Rejected* find(std::uint64_t offset) const;

    std::size_t begin_ = 0;
    bool all_ = false;
    std::string_view content_;
    std::map<std::size_t, Rejected> again_;  // by where the record's first character is
};

}  // namespace headgate::checkpoint
