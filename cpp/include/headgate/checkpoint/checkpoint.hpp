// The incremental checkpoint: many small JSON files become one sorted table, exactly once per file version.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "headgate/checkpoint/ports.hpp"
#include "headgate/checkpoint/refused.hpp"

namespace headgate::checkpoint {

enum class Mode : std::uint8_t { ledger, watermark };

struct Options {
    std::shared_ptr<const schema::Schema> schema;
    std::string plan;  // kept in the footer when not empty: the schema was inferred
    Mode mode = Mode::ledger;
    std::int64_t settle_us = 2'000'000;        // younger files wait for the next run, where writes are not atomic
    unsigned threads = 0;                      // 0: what the source says
    std::size_t memory = 256U * 1024 * 1024;   // bytes of rows held before a sorted run is spilled
    std::string spill_dir;                     // for sorted runs; empty: beside the next table
    std::uint64_t spill_limit = UINT64_MAX;    // bytes of sorted runs on disk
    std::size_t max_file_bytes = 256U << 20U;  // a larger file, packed or not, is rejected
    std::int64_t window_us = 0;                // > 0: list only what can be newer than the last run less this
    std::int64_t full_listing_every_us = 86'400'000'000;  // a windowed run lists everything when this has passed
    bool partitioned = false;                             // the ledger by the day in the files' names
    std::string target_key;       // of a target that lies in the source: it and what is beside it are no source
    bool rescan = false;          // read every file again, whatever its tag says
    bool take_rewritten = false;  // files of lines that begin anew are taken whole, although lines may come twice
    bool retry_rejected = false;  // read files again that have rejected records, and take those that are good now
    std::string retry_rule;       // only records that were rejected for this kind of problem, or in this field
    std::string source_name;      // as the footer keeps it; empty: not kept, and not compared
    bool other_source = false;    // the table may be fed from another source than before
    bool evolve = false;          // the table may get new nullable columns and wider numbers
    bool dry_run = false;
    int attempts = 50;  // of losing the race for the commit
};

// Every count of a run. listed = ignored + deferred + known + vanished + unreadable + taken_files, and
// taken records = rows_added + skipped_before_watermark + rejected_records (+ nothing for files seen unchanged).
struct Summary {
    bool first_run = false;
    bool committed = false;
    bool complete = true;  // false: a windowed listing, or files that could not be read
    std::int64_t listed = 0;
    std::int64_t ignored = 0;   // the name is not of this record type
    std::int64_t deferred = 0;  // not settled yet
    std::int64_t known = 0;     // taken by an earlier run, unchanged
    std::int64_t touched = 0;   // of taken files: known, another tag, the same content
    std::int64_t changed = 0;   // of taken files: known, other content (a new version, kept)
    std::int64_t grown = 0;     // of taken files: lines were added to those that are known
    std::int64_t moved = 0;     // of taken files: they begin with lines that were taken under another name
    std::int64_t retried = 0;   // of taken files: known, rejected records were tried again
    std::int64_t vanished = 0;
    std::int64_t unreadable = 0;  // refused, archived or failed: tried again by the next run
    std::int64_t archived = 0;    // of unreadable
    std::int64_t taken_files = 0;
    std::int64_t rejected_files = 0;  // of taken files: without one good record
    std::int64_t records = 0;
    std::int64_t rejected_records = 0;
    std::int64_t skipped_before_watermark = 0;
    std::int64_t rows_added = 0;
    std::int64_t late_rows = 0;  // of those, older than the newest row of the last run
    std::int64_t drifted = 0;    // values of an inferred schema that went to `_rest` because of their type
    std::int64_t rows_before = 0;
    std::int64_t rows_total = 0;
    std::int64_t bytes_read = 0;
    std::int64_t file_size = 0;
    std::int64_t version = 0;
    std::int64_t attempts = 1;  // more: races for the commit that were lost
    std::int64_t spilled_bytes = 0;
    std::int64_t memory_high_water = 0;  // of the process, bytes
    std::int64_t last_timestamp_us = INT64_MIN;
    std::map<std::string, std::int64_t> problems;       // by kind
    std::map<std::string, std::int64_t> read_problems;  // of unreadable files, by error kind
    std::shared_ptr<const Refused> rejects;             // every refused record
    std::shared_ptr<const Refused> unread;              // every unreadable file, its error kind as the one problem
};

using Progress = std::function<void(std::int64_t done, std::int64_t total)>;  // called on the calling thread only

struct Environment {
    std::shared_ptr<Source> source;
    std::shared_ptr<Target> target;
    std::shared_ptr<TableFile> table;
    std::shared_ptr<Clock> clock;
    std::shared_ptr<Random> random;
    Unpack unpack;
    Interrupt interrupt;
    Progress progress;
    // Called with every file of a run that fails because it could read none of them.
    std::function<void(std::shared_ptr<const Refused>)> none_read;
};

Result<Summary> update(const Options& options, const Environment& environment);

// What a target's footer says of its schema.
struct StoredSchema {
    std::string name;  // empty: no table yet
    std::string plan;  // empty: no table yet, or its schema was declared
};
Result<StoredSchema> stored_schema(const Environment& environment);

// Refuses the text of a footer, or of a Delta table's manifest, that update() would refuse: then none of the names in
// it may be opened.
Status check_footer(const std::string& footer, const std::string& target);

// Whether `key` is the target's, or that of a file which belongs to it: in it (Delta), its ledger, lock, or what it is
// written to. Nothing belongs to an empty target.
bool belongs_to_target(std::string_view key, std::string_view target);

// Refuses a table that does not have the columns of a schema, as update() does: `footer_file` has the table's columns
// and footer, `target` is its name.
Status check_columns(const TableFile& files, const std::string& footer_file, const schema::Schema& schema,
                     const std::string& target);

struct InferOptions {
    std::string name = "records";
    std::string sort_by;  // empty: the field `timestamp`, if it is one in every record
    unsigned threads = 0;
    std::size_t max_file_bytes = 256U << 20U;
    std::string target_key;  // as in Options
    std::string base_plan;   // of a table: its columns stay, integers may widen, and fields that came since are new
    std::size_t max_columns = 1'000;           // rarer fields stay in `_rest`
    std::string file_names;                    // a pattern; empty: schema::is_json_name()
    std::vector<std::string> records;          // the way to the array of records in a document
    std::string file_column;                   // with the key of each record's file; empty: none
    std::map<std::string, std::string> times;  // field -> schema::TimeForm of its numbers: s, ms, us, ns
};

// The union over all files of a source, as a plan (schema.hpp): a field of one kind gets its type, one of several kinds
// is kept as JSON text, and `_rest` takes what later files bring.
Result<std::string> infer(const InferOptions& options, const Environment& environment);

struct VerifyReport {
    std::int64_t rows = 0;  // counted by reading them
    std::int64_t rows_in_footer = 0;
    std::int64_t rows_in_ledger = 0;  // what the ledger says that the table must have; -1: not known (older footers)
    std::int64_t out_of_order = 0;
    std::int64_t ledger_entries = 0;
    std::int64_t checked_files = 0;  // of the source, when it was given
    std::int64_t pending = 0;        // in the source, not taken yet
    std::int64_t changed = 0;        // taken, but the source has other content now
    std::int64_t unreadable = 0;
    std::int64_t gone = 0;  // taken, no longer in the source
    std::int64_t version = 0;
    std::vector<std::string> differences;  // sentences; empty: all is well
    std::vector<std::string> examples;     // redacted names of files that differ, at most 20
};

// Re-reads the table and its ledger, recounts, and, with environment.source, reads every source file again. Of a table
// that others keep (Delta) the caller has counted the rows: `rows_elsewhere`.
Result<VerifyReport> verify(const Options& options, const Environment& environment,
                            std::optional<std::int64_t> rows_elsewhere = std::nullopt);

}  // namespace headgate::checkpoint
