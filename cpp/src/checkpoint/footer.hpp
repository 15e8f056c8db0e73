// What the footer of a committed table says. docs/formats.md describes it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "headgate/checkpoint/ports.hpp"

namespace headgate::checkpoint {

constexpr const char* kFooterKey = "headgate";

struct Footer {
    std::string schema;
    std::string plan;                          // of an inferred schema
    std::map<std::string, std::string> types;  // of the columns; empty in footers of the first releases
    std::vector<std::string> sources;          // that the table was fed from, as far as they are known
    std::int64_t version = 0;
    std::string write_id;
    std::vector<std::string> segments;
    std::vector<std::string> rejects;
    std::int64_t rows = 0;
    std::int64_t last_timestamp_us = INT64_MIN;  // unknown in footers of format 1 that lack it
    bool has_last = false;
    std::int64_t superseded = 0;  // rows of older versions of files, whose ledger entries were replaced
    std::int64_t skipped = 0;     // rows that ledger entries count and a watermark left out
    bool has_sums = false;        // the two above are known
    std::int64_t last_full_listing_us = 0;

    std::vector<std::string> parts() const;  // all that it names
};

// corrupt_data, or unsupported_version for a newer headgate's.
Result<Footer> parse_footer(const Metadata& metadata, const std::string& target);
// invalid_input when the table holds records of another schema.
Status check_schema(const Footer& footer, const std::string& schema, const std::string& target);
// invalid_input when the table was fed from other sources only.
Status check_source(const Footer& footer, const std::string& source, const std::string& target);
std::string render_footer(const Footer& footer);

}  // namespace headgate::checkpoint
