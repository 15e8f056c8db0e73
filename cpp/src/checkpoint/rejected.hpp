// Records that earlier runs have rejected, to be tried again with a corrected schema.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/checkpoint/ports.hpp"
#include "segment.hpp"

namespace headgate::checkpoint {

class RejectedRecords {
public:
    struct Record {
        std::uint64_t offset = 0;              // where it begins in its file, in bytes
        std::optional<std::uint64_t> content;  // Entry::content of the file; the first releases did not store it
    };
    using Records = std::vector<Record>;

    // Reads the segments `names` of a target's reject log, in order. `rule` selects records by a problem's kind, field,
    // or "field: kind"; empty selects all. Records that were accepted later are left out.
    Status read(Target& target, const std::vector<std::string>& names, std::string_view rule);
    // Returns the records of a file, or nullptr.
    const Records* find(const KeyDigest& key) const;
    bool empty() const { return records_.empty(); }

private:
    std::map<KeyDigest, Records> records_;
};

}  // namespace headgate::checkpoint
