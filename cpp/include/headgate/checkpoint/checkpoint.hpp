// The incremental checkpoint: a folder of small JSON files becomes one sorted table, exactly once per file version.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/status.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {

// Where the rows live. The Parquet one is in backends/parquet; tests use one in memory.
class TableFile {
public:
    virtual ~TableFile() = default;
    // not_found only when there definitely is no file; anything unreadable is corrupt_data.
    virtual Result<std::map<std::string, std::string>> metadata(const std::string& path) const = 0;
    virtual Result<schema::Columns> read(const std::string& path, const schema::Schema& schema) const = 0;
    // Writes and syncs `path` (a temporary name; the caller renames).
    virtual Status write(const std::string& path, const schema::Schema& schema, const schema::Columns& columns,
                         const std::map<std::string, std::string>& metadata) const = 0;
};

enum class Mode : std::uint8_t { ledger, watermark };

struct Options {
    std::string source;  // a folder; nested folders are read too
    std::string target;  // the table's path; its ledger is in `target`.ledger/
    std::shared_ptr<const schema::Schema> schema;
    Mode mode = Mode::ledger;
    std::int64_t settle_us = 2'000'000;  // younger files wait for the next run
    unsigned threads = 0;                // 0: all cores
    std::int64_t lock_timeout_us = 60'000'000;
    bool dry_run = false;
};

struct Reject {
    std::string name;          // redacted
    std::string digest;        // 12 hex digits of the key's digest
    std::uint64_t offset = 0;  // of the record in its file, bytes
    std::vector<schema::Problem> problems;
};

// Every count of a run. listed = ignored + deferred + known + vanished + unreadable + taken_files, and
// taken records = rows_added + skipped_before_watermark + rejected_records (+ nothing for files seen unchanged).
struct Summary {
    bool first_run = false;
    bool committed = false;
    std::int64_t listed = 0;
    std::int64_t ignored = 0;   // the name is not of this record type
    std::int64_t deferred = 0;  // not settled yet
    std::int64_t known = 0;     // taken by an earlier run, unchanged
    std::int64_t touched = 0;   // of taken files: known, another tag, the same content
    std::int64_t changed = 0;   // of taken files: known, other content (a new version, kept)
    std::int64_t vanished = 0;
    std::int64_t unreadable = 0;
    std::int64_t taken_files = 0;
    std::int64_t rejected_files = 0;  // of taken files: without one good record
    std::int64_t records = 0;
    std::int64_t rejected_records = 0;
    std::int64_t skipped_before_watermark = 0;
    std::int64_t rows_added = 0;
    std::int64_t late_rows = 0;  // of those, older than the newest row of the last run
    std::int64_t rows_before = 0;
    std::int64_t rows_total = 0;
    std::int64_t bytes_read = 0;
    std::int64_t file_size = 0;
    std::int64_t version = 0;
    std::int64_t last_timestamp_us = INT64_MIN;
    std::map<std::string, std::int64_t> problems;  // by kind
    std::vector<Reject> first_rejects;             // at most 20
};

using Progress = std::function<void(std::int64_t done, std::int64_t total)>;  // called on the calling thread only

struct Environment {
    std::shared_ptr<TableFile> table;
    std::shared_ptr<Clock> clock;
    std::shared_ptr<Random> random;
    Interrupt interrupt;
    Progress progress;
};

Result<Summary> update(const Options& options, const Environment& environment);

}  // namespace headgate::checkpoint
