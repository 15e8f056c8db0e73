// A record type as a plan (JSON, made from a pydantic model by headgate.checkpoint.schema), the validator that it
// compiles to, and the columns that valid records fill.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"
#include "headgate/json/canonical.hpp"
#include "headgate/schema/pattern.hpp"

namespace headgate::schema {

// `json` keeps any value as canonical text; `date` is a string holding a real YYYY-MM-DD.
enum class Type : std::uint8_t { string, int32, int64, float64, boolean, timestamp, date, string_list, json };

enum class Blanks : std::uint8_t { keep, trim, refuse };  // outer blanks of a string

// In place of a nested member among names: no name is like it, as names are UTF-8.
inline constexpr std::string_view kNested = "\xFF";

// How a timestamp is written: ISO 8601 as headgate::parse_timestamp() takes it (`iso`) or as pydantic takes it for a
// datetime (`wide`); or, besides the latter, as a number of these units since 1970 (also as text).
enum class TimeForm : std::uint8_t { iso, wide, s, ms, us, ns };

// The members that lead from a record to a nested one.
struct MemberPath {
    std::size_t choice = 0;  // its number among all that may hold the field
    std::vector<std::string> members;
};

struct Field {
    std::string name;
    std::string key;                // the member of a record that holds it
    std::vector<std::string> keys;  // and others that may, instead; of several, the first in this order is taken
    std::vector<MemberPath> paths;  // those that are nested; in `key` and `keys` they are kNested
    Type type = Type::string;
    bool required = true;
    bool nullable = false;
    bool digits = false;        // an integer field that also takes a string of digits
    bool exact = false;         // a float64 field that refuses integers which it would round
    std::optional<bool> zoned;  // whether the texts of a timestamp name a zone; the others are kept in `rest` too
    TimeForm time = TimeForm::iso;
    Blanks blanks = Blanks::keep;
    std::optional<std::string> default_json;  // canonical text
    std::size_t min_length = 0;               // code points; items for string_list
    std::size_t max_length = SIZE_MAX;
    std::optional<double> minimum;    // inclusive
    std::optional<double> maximum;    // inclusive
    std::optional<Pattern> pattern;   // of the string, or of every item
    std::vector<std::string> values;  // an enumeration; empty: free
};

// When `when_field` has one of `when_values`, `field` is one of `then_values`; otherwise it is null (with `else_null`).
struct Rule {
    std::string name;
    std::size_t when_field = 0;
    std::vector<std::string> when_values;
    std::size_t field = 0;
    std::vector<std::string> then_values;
    bool else_null = false;
};

struct Problem {
    std::string field;
    std::string kind;  // missing, null, type, enum, length, pattern, date, timestamp, range, blank, unknown, duplicate,
                       // rule, json
};

struct Schema {
    std::string name;
    std::vector<Field> fields;
    std::vector<Rule> rules;
    std::vector<Pattern> file_names;            // a file must match one; none: is_json_name()
    std::optional<Pattern> any_file_name;       // all of them in one: every name is matched once
    std::vector<std::string> private_groups;    // groups of file_names that logs must not show
    std::vector<std::string> listing_prefixes;  // of names that go on with a stamp YYYYMMDD-HHMMSS
    std::vector<std::string> records;           // the way to the array of records in a document; empty: it is one
    std::string sort_by;                        // a timestamp field; empty: order of arrival
    bool forbid_unknown = true;
    std::size_t rest = SIZE_MAX;  // the column that keeps unknown fields (plan: "extra": "rest"), always the last one
    std::size_t file_column =
        SIZE_MAX;          // gets the key of the record's file; no member fills it, only `rest` is after it
    bool lenient = false;  // with `rest`: a value of another type goes there too, and its column is null

    static Result<std::shared_ptr<const Schema>> parse(std::string_view plan_json);
    std::size_t index_of(std::string_view field) const;  // SIZE_MAX when there is none
    std::size_t sort_column() const { return sort_by.empty() ? SIZE_MAX : index_of(sort_by); }  // a name may be ""

    // Of a key the schema judges the name: without folders, and without the ending of a compression.
    bool accepts_name(std::string_view key) const;
    std::string shown_name(std::string_view key) const;   // as logs may have it: redacted and printable()
    std::string day_of_name(std::string_view key) const;  // YYYYMMDD of the group `stamp`, or nothing
};

// Whether a key is that of a file which checkpoints keep for themselves: segments of a ledger, rejected records,
// manifests, and what lies in the log of a Delta table. Such a file is never a source, wherever it is.
bool is_checkpoint_file(std::string_view key);

std::string_view without_packing(std::string_view name);  // x.json of x.json.gz and of x.json.zst
bool is_json_name(std::string_view name);                 // what is read where a schema says nothing of names

// A row of several columns or tables that belong together.
struct RowAt {
    std::uint32_t part;
    std::uint32_t row;
};

// Into a column's bytes or items: as Arrow's, it holds less than 2 GiB. Those who fill columns hand them on long
// before.
using Offset = std::uint32_t;

// Stands in `numbers` where a timestamp is null: before every time, so that rows without one are first.
constexpr std::int64_t kNoTime = INT64_MIN;

struct Column {
    Type type = Type::string;
    std::vector<std::uint8_t> valid;    // one byte per row
    std::vector<std::int64_t> numbers;  // int32, int64, boolean, timestamp
    std::vector<double> reals;
    std::vector<Offset> offsets = {0};  // string, date, json: into bytes; string_list: into item_offsets
    std::vector<Offset> item_offsets = {0};
    std::string bytes;
    std::size_t rows() const { return valid.size(); }
    void append_null();
    void append_range(const Column& other, std::size_t begin, std::size_t end);
    void append_rows(std::span<const Column* const> parts, std::span<const RowAt> which);  // those, in that order
    void clear();                                                                          // keeps the memory
    void reserve_as(const Column& other);  // for about as much as the other one holds
    std::size_t memory_bytes() const;
    std::string_view text(std::size_t row) const;
};

struct Columns {
    std::vector<Column> columns;
    std::size_t rows = 0;
    static Columns like(const Schema& schema);
    void append_range(const Columns& other, std::size_t begin, std::size_t end);
    void clear();
    void reserve_as(const Columns& other);
    std::size_t memory_bytes() const;
};

// A row as a JSON object: times as ISO 8601 in UTC, `json` columns as the text that they are.
std::string row_as_json(const Schema& schema, const Columns& columns, std::size_t row);

// Reads one JSON document and, when it is valid, appends one row. One per thread; keeps its buffers.
class RecordReader {
public:
    explicit RecordReader(std::shared_ptr<const Schema> schema);
    ~RecordReader();
    RecordReader(RecordReader&&) noexcept;

    // The key of the file that the next records are of, for the schema's file_column.
    void begin_file(std::string_view key);
    // Empty: valid, and appended to `out` when it is given.
    const std::vector<Problem>& read(std::string_view json_text, Columns* out);
    // Whether the last text was one JSON document with an object at the top, valid as a record or not.
    bool was_object() const;
    // Of the last valid record: values that went to `_rest` because they are of another type than their column.
    std::uint32_t drifted() const;

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

// Rows of an inferred schema that has evolved since: what they keep in `rest` moves into the columns that there are for
// it now, where these are null. `reader` is one of this schema.
void promote_rest(const Schema& schema, RecordReader& reader, Columns& rows);

std::string_view type_name(Type type) noexcept;
// Whether `to` is a wider type of number: int64 or float64 for int32, float64 for int64 (if it holds every value).
bool is_wider(Type from, Type to) noexcept;
std::optional<TimeForm> time_form(std::string_view name);

// Microseconds since 1970. `exact` becomes false when digits beyond microseconds were cut from a number.
std::optional<std::int64_t> parse_time(TimeForm form, std::string_view text, bool is_number, bool& exact);

}  // namespace headgate::schema
