// Records that earlier runs have rejected and that a mended schema may take.
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
        std::uint64_t offset = 0;              // in its file, bytes
        std::optional<std::uint64_t> content;  // of the file, as in the ledger; the first releases did not keep it
    };
    using Records = std::vector<Record>;

    // Reads the reject segments `names` of a target, in order. `rule` chooses by a problem's kind, field, or
    // "field: kind"; empty: all. Records that a later line says were taken are left out.
    Status read(Target& target, const std::vector<std::string>& names, std::string_view rule);
    // Those of a file, or nullptr.
    const Records* find(const KeyDigest& key) const;
    bool empty() const { return records_.empty(); }

private:
    std::map<KeyDigest, Records> records_;
};

}  // namespace headgate::checkpoint
