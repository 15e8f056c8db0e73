// RFC 8785 (JSON Canonicalization Scheme), written while reading: one pass, objects re-ordered in place.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::json {

// RFC 8785 says nothing of integers a double cannot hold; `refuse` (the default) is an error for |n| > 2^53 - 1,
// because two such integers could become one key; `exact` keeps their digits, up to 4300; `verbatim` also keeps every
// other number as it was written where a double does not hold all of its digits.
enum class BigIntegers : std::uint8_t { refuse, exact, verbatim };

// Of an integer that is kept exactly. Python reads no longer one (sys.get_int_max_str_digits), and others take a time
// that grows with the square.
constexpr std::size_t kMostDigits = 4300;

// ECMAScript Number::toString (ECMA-262 section 6.1.6.1.20), which RFC 8785 section 3.2.2.3 prescribes.
// `value` is finite.
void append_number(std::string& out, double value);

// Whether the double nearest to a JSON number has all digits that were written.
bool double_holds(std::string_view token, double nearest);

// Whether a number token that is out of a double's range is one by being too close to zero.
bool is_tiny(std::string_view token) noexcept;

// Whether the text is one JSON document with an object at the top.
bool is_object(std::string_view text);

// Compares two well-formed UTF-8 strings in the order of their UTF-16 code units (RFC 8785 section 3.2.3).
int compare_utf16(std::string_view a, std::string_view b) noexcept;

// A handler for parse_json and for anything else that can enumerate a document, e.g. a Python object.
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

    // The document; the writer is then ready for the next one (its buffers are kept).
    std::string_view view() const { return out_; }
    void clear();

private:
    struct Member {
        std::size_t key;  // into keys_
        std::size_t key_size;
        std::size_t begin;  // of "key":value in out_
        std::size_t end;
        std::uint64_t prefix;  // first eight bytes in UTF-16 order: decides most comparisons at once
    };
    struct Level {
        bool is_object;
        std::size_t first_member;  // into members_
        std::size_t keys_begin;    // into keys_
        std::size_t body_begin;    // into out_, just after the brace
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

Result<std::string> canonicalize(std::string_view text, BigIntegers big_integers = BigIntegers::refuse);

}  // namespace headgate::json
