// Canonical JSON by RFC 8785 (JSON Canonicalization Scheme): one text for all JSON documents that mean the same. The
// canonical form is written while the document is parsed, and the members of each object are put in order when it ends.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::json {

// What happens to integers beyond 2^53 - 1. RFC 8785 would round them to a double, so that two different integers could
// get the same identity.
//
//     refuse    number_out_of_range; the default
//     exact     their digits are kept, up to kMostDigits
//     verbatim  as exact, and the digits of every other number that a double cannot hold exactly are kept too
enum class BigIntegers : std::uint8_t { refuse, exact, verbatim };

// The largest number of digits of an integer that is kept exactly. Python reads no longer ones
// (sys.get_int_max_str_digits), because the time to convert them grows with the square of their length.
constexpr std::size_t kMostDigits = 4300;

// Appends a number as ECMAScript's Number::toString prints it (ECMA-262, section 6.1.6.1.20), which RFC 8785 prescribes
// in section 3.2.2.3. `value` must be finite.
void append_number(std::string& out, double value);

// Whether `nearest`, the double nearest to the JSON number `token`, has exactly the value that is written there.
bool double_holds(std::string_view token, double nearest);

// Whether a number token that is out of a double's range is one by being too close to zero.
bool is_tiny(std::string_view token) noexcept;

// Whether the text is one JSON document with an object at the top.
bool is_object(std::string_view text);

// Compares two well-formed UTF-8 strings in the order of their UTF-16 code units (RFC 8785 section 3.2.3).
int compare_utf16(std::string_view a, std::string_view b) noexcept;

// Writes the canonical form of a document whose parts it is given one after the other, by parse_json() or by code that
// walks through a Python object. Every method returns false if the document has no canonical form; status() then says
// why. For one thread at a time.
class CanonicalWriter {
public:
    explicit CanonicalWriter(BigIntegers big_integers = BigIntegers::refuse) : big_integers_(big_integers) {}

    bool start_object();
    bool end_object();
    bool start_array();
    bool end_array();
    bool key(std::string_view name);
    bool string(std::string_view value);
    bool number(std::string_view token, bool is_integer);
    bool number(double value);
    bool boolean(bool value);
    bool null();
    Status status() const { return error_; }

    // The canonical form, once the document is complete. clear() makes the writer ready for the next document and keeps
    // its buffers.
    std::string_view view() const { return out_; }
    void clear();

private:
    struct Member {
        std::size_t key;  // position in keys_
        std::size_t key_size;
        std::size_t begin;  // where "key":value begins in out_
        std::size_t end;
        std::uint64_t prefix;  // the key's first eight bytes in UTF-16 order; most comparisons need no more
    };
    struct Level {
        bool is_object;
        std::size_t first_member;  // position in members_
        std::size_t keys_begin;    // position in keys_
        std::size_t body_begin;    // position in out_, just after the brace
        bool empty;
        bool sorted;
    };

    bool fail(ErrorCode code, std::string message);
    void before_value();
    void end_member();
    void append_string(std::string_view value);
    std::string_view key_of(const Member& member) const;
    int compare(const Member& a, const Member& b) const;
    bool reorder(const Level& level);

    BigIntegers big_integers_;
    std::string out_;
    std::string keys_;
    std::string scratch_;
    std::vector<Member> members_;
    std::vector<Level> levels_;
    Status error_;
};

// Returns the canonical form of a JSON document. Errors: invalid_json, duplicate_key, nesting_too_deep,
// number_out_of_range, invalid_unicode.
Result<std::string> canonicalize(std::string_view text, BigIntegers big_integers = BigIntegers::refuse);

}  // namespace headgate::json
