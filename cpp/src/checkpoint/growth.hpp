// Files of lines that grow, are renamed or begin anew: which of their lines were taken before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "segment.hpp"

namespace headgate::checkpoint {

// A leading part of a text: where it ends, and the first 8 bytes of its SHA-256, as the ledger keeps them.
struct LeadingPart {
    std::size_t end = 0;  // 0: there is none
    std::uint64_t content = 0;
};

// How a file goes on after what was taken of it.
struct Continuation {
    enum class Kind : std::uint8_t {
        none,       // nothing of it was taken, or it is a new version of one document
        grown,      // lines follow those that were taken under its name
        moved,      // it begins with lines that were taken under another name, which no longer has them
        rewritten,  // lines were taken under its name, and it does not begin with them
    };
    Kind kind = Kind::none;
    std::size_t begin = 0;      // of what is new
    std::uint64_t content = 0;  // of what is not
};

// The longest leading part of `text` that ends with a whole line (before or behind its line end) and that `is_taken`,
// asked with its content and its end, says was taken.
LeadingPart find_taken_part(std::string_view text, const std::function<bool(std::uint64_t, std::size_t)>& is_taken);

// Whether what follows the known part of a file may be taken alone. A document of which nothing was taken may have been
// read while it was written: what was there then is a part of a record.
bool goes_on_after(const Entry& known);

// What comes before the last line if that has no line end, else all of `text`.
LeadingPart whole_lines(std::string_view text);

// The first 8 bytes of the SHA-256 of `text`.
std::uint64_t content_of(std::string_view text);

}  // namespace headgate::checkpoint
