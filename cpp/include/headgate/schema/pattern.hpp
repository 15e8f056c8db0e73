// Regular expressions for full matches: a subset of Python's `re` with literals, \d, escaped punctuation, [classes],
// (groups),
// (?P<named>groups), alternation, and ? * + {m} {m,n} with lazy forms. Anything else is an error of compile(), which
// names it. A pattern matches the same texts as re.fullmatch does; a property test compares the two.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::schema {

// A compiled pattern. It does not change, and may be used by several threads.
class Pattern {
public:
    // A named group of a match: the bytes from `begin` to `end` of the text.
    struct Group {
        std::string name;
        std::size_t begin = 0;
        std::size_t end = 0;
    };

    // Returns invalid_schema, with the part that is not supported, if `text` is not of the subset.
    static Result<Pattern> compile(std::string_view text);
    // Returns a pattern that matches what any of these match. It has no groups.
    static Pattern any_of(const std::vector<Pattern>& patterns);
    // Whether the whole text matches. The time grows linearly with the length of the text.
    bool matches(std::string_view text) const;
    // The same by backtracking, which also finds the named groups. Returns false after a million steps, so that a
    // pattern that backtracks badly cannot run for long.
    bool matches(std::string_view text, std::vector<Group>& groups) const;
    const std::string& text() const { return text_; }

private:
    friend class PatternCompiler;
    enum class Op : std::uint8_t { set, split, jump, save, match };
    struct Instruction {
        Op op;
        std::uint32_t a = 0;  // set: number of the set; split: target that is tried first; jump: target; save: slot
        std::uint32_t b = 0;  // split: other target
    };
    struct Set {
        std::bitset<128> ascii;
        bool others = false;  // contains all code points beyond ASCII
    };
    class Automaton;

    void prepare();

    std::string text_;
    std::vector<Instruction> program_;
    std::vector<Set> sets_;
    std::vector<std::string> names_;  // the group of save slots 2i and 2i + 1
    std::shared_ptr<const Automaton> automaton_;
};

}  // namespace headgate::schema
