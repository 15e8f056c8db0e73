// What the checkpoint engine asks of the outside: where the files come from, where the table lives, how it is encoded.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/status.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {

using Metadata = std::map<std::string, std::string>;

// One object of a source. The tag changes whenever the content may have: of size and modification time in a folder, of
// the ETag on S3.
struct Object {
    std::string_view key;  // relative to the source, with '/'
    bool looked_at = false;
    std::uint64_t tag = 0;         // once looked_at
    std::int64_t modified_us = 0;  // once looked_at
    bool is_outside = false;       // a link to a folder that is not in the source: whatever its name, it is not read
};

enum class ReadOutcome : std::uint8_t {
    read,
    vanished,  // gone between listing and reading
    refused,   // access denied
    outside,   // a symbolic link leads out of the source
    archived,  // in cold storage (S3: InvalidObjectState)
    failed,    // any other error, after the retries
};

struct Fetched {
    std::size_t index = 0;
    ReadOutcome outcome = ReadOutcome::failed;
    std::string_view bytes;  // valid during the call only
    std::uint64_t tag = 0;   // of these very bytes
    Status error;
};

struct Wanted {
    std::size_t index = 0;
    std::string_view key;
};

// Belongs to one thread.
class Fetcher {
public:
    virtual ~Fetcher() = default;
    // Whether there is a file to read, will be one (only where the source lists in order: ask again), or never will.
    enum class Coming : std::uint8_t { file, later, nothing };
    using Next = std::function<Coming(Wanted&)>;
    using Got = std::function<void(const Fetched&)>;  // in the order of Next
    virtual void run(const Next& next, const Got& got, const Interrupt& stop) = 0;
};

struct ListOptions {
    std::string prefix;       // only keys that start with it
    std::string start_after;  // only keys after it
};

class Source {
public:
    virtual ~Source() = default;
    // Every object; `each` gets a key that is valid during the call only.
    virtual Status list(const ListOptions& options, const Interrupt& interrupt,
                        const std::function<void(const Object&)>& each) = 0;
    // True where list() gives keys in the order of their bytes, each looked at: then the first are read while others
    // are still listed, by another thread. One that breaks its word costs the run a second listing.
    virtual bool lists_in_order() const { return false; }
    // Fills tag and modified_us of an object whose listing had none; false when it has vanished. Called by several
    // threads at once.
    virtual bool look_at(Object& object) = 0;
    virtual Result<std::unique_ptr<Fetcher>> fetcher() = 0;
    virtual std::string name() const = 0;
    virtual bool writes_are_atomic() const = 0;  // false: a young file may still be growing
    virtual unsigned threads() const = 0;        // reading threads worth having; 0: as many as cores
};

class TableWriter {
public:
    virtual ~TableWriter() = default;
    virtual void expect(std::int64_t /*rows*/) {}               // before the first append: so many will come
    virtual Status append(const schema::Columns& columns) = 0;  // some thousand rows: no unit of the file
    virtual Status finish(const Metadata& metadata) = 0;        // synced when it returns
};

// Some thousand rows at a time, which stay as the file has them until they are asked for.
class TableReader {
public:
    virtual ~TableReader() = default;
    // Reads the next rows and says how many there are; 0 when there are none left.
    virtual Result<std::size_t> next() = 0;
    // Of those rows: the values of a timestamp column, all columns (`out` is replaced), or all of them straight into a
    // writer, which for one of the same kind of file costs no conversion.
    virtual void numbers(std::size_t column, std::vector<std::int64_t>& out) const = 0;
    virtual void columns(schema::Columns& out) const = 0;
    virtual Status pass_on(TableWriter& writer) const = 0;
    // Before the first next(), and before anything was appended to `writer`: hands over, as bytes, the leading parts of
    // the file whose values of `column` (SIZE_MAX: in whatever order) are at most `bound`; next() goes on after them.
    // `rows` new ones will be appended: parts that are not larger than what comes after them are left to become one
    // with it. Gives the last value handed over, INT64_MIN when there was none.
    virtual Result<std::int64_t> pass_units(TableWriter& writer, std::size_t column, std::int64_t bound,
                                            std::int64_t rows, const std::function<Status()>& go_on) = 0;
    // Compares the bytes with the checksums that the file has of them: corrupt_data when they differ.
    virtual Status check(const std::function<Status()>& go_on) = 0;
};

// The columns that a file has, and what its rows are sorted by (empty: it does not say).
struct StoredTable {
    struct Column {
        std::string name;
        std::optional<schema::Type> type;  // `string` for any text; nothing: a type that no schema has
        std::string shown;                 // the type as errors name it
    };
    std::vector<Column> columns;
    std::string sorted_by;
};

// How rows are encoded in a local file. The Parquet one is in backends/parquet; tests use one of text.
class TableFile {
public:
    virtual ~TableFile() = default;
    // not_found only when there definitely is no file; anything unreadable is corrupt_data.
    virtual Result<Metadata> metadata(const std::string& path) const = 0;
    // What the file's footer says of its columns; nothing for a kind of file that does not tell.
    virtual Result<std::optional<StoredTable>> stored(const std::string& path) const = 0;
    // Rows come as the schema has them. Where the file has other columns, new ones are null and numbers are widened
    // while they are read (evolution.hpp says which tables may); corrupt_data for any other difference.
    virtual Result<std::unique_ptr<TableReader>> open(const std::string& path, const schema::Schema& schema) const = 0;
    virtual Result<std::unique_ptr<TableWriter>> create(const std::string& path,
                                                        const schema::Schema& schema) const = 0;
};

// The longest part that is read back: a ledger segment of 26 million files. Segments that would be longer together are
// not merged.
constexpr std::uint64_t kMostPartBytes = std::uint64_t{1} << 30;

// Where the committed table and its parts (ledger and reject segments) live.
class Target {
public:
    virtual ~Target() = default;
    virtual Status begin(Clock& clock, const Interrupt& interrupt) = 0;  // once, before anything else: locks, checks
    // Learns what is committed now. nullopt: definitely nothing. Otherwise a local file whose footer is in its place
    // (its rows may be missing), valid until the next call.
    virtual Result<std::optional<std::string>> peek() = 0;
    virtual Result<std::string> fetch() = 0;  // the same file with its rows
    // corrupt_data for a part that is missing, no regular file, or longer than kMostPartBytes.
    virtual Result<std::string> read_part(const std::string& name) = 0;
    virtual Status write_part(const std::string& name, std::string_view bytes) = 0;
    virtual Status remove_part(const std::string& name) = 0;  // one that stays harms nothing
    virtual Result<std::string> scratch() = 0;  // a folder for temporary files, on the file system of the next table
    // The one conditional write: `path` becomes the table if what peek() saw is still there (else version_conflict).
    virtual Status commit(const std::string& path) = 0;
    // Removes other parts than these, left by dead runs, while the table is the one that peek() saw or commit() made.
    virtual void sweep(const std::vector<std::string>& named_parts) = 0;
    virtual void end() = 0;             // removes scratch
    virtual bool may_race() const = 0;  // other runs work at the same time: the loser of a commit tries again
    virtual std::string name() const = 0;
};

// Undoes the compression that the first bytes tell (gzip or zstd); invalid_record when the rest is not that,
// message_too_large when it unpacks to more than `limit`.
using Unpack =
    std::function<Status(std::string_view name, std::string_view packed, std::size_t limit, std::string& out)>;

struct FolderOptions {
    std::size_t max_file_bytes = 256U << 20U;  // of a larger file, one byte more than that is read
    // Symbolic links that lead out of the folder are followed. Otherwise such a link is ReadOutcome::outside, and links
    // to folders inside are left alone: their files have names of their own.
    bool follow_links = false;
};
std::shared_ptr<Source> make_folder_source(const std::string& folder, FolderOptions options = {});
// For a table that others append to (Delta): what is committed is told by the footer of `footer_file` (empty: nothing
// yet), `commit` leaves the new rows in `out`, and the parts live where `parts` keeps them. Whoever appends `out` makes
// the real, conditional commit.
std::shared_ptr<Target> make_staging_target(std::string footer_file, std::string out, std::shared_ptr<Target> parts);
// On the machine's own files, or on those given.
std::shared_ptr<Target> make_file_target(const std::string& path, std::int64_t lock_timeout_us = 60'000'000,
                                         std::shared_ptr<FileSystem> files = nullptr);
// A folder behind the seam: every file is there whole or not at all. The machine's own folders have a faster source.
std::shared_ptr<Source> make_files_source(const std::string& folder, std::shared_ptr<FileSystem> files);

// The tag of a file; changes whenever size or modification time (nanoseconds) do.
std::uint64_t file_tag(std::uint64_t size, std::int64_t mtime_ns) noexcept;

}  // namespace headgate::checkpoint
