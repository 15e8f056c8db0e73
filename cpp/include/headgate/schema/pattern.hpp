// A small, documented subset of Python's `re` for full matches: literals, \d, escaped punctuation, [classes],
// (groups), (?P<named>groups), alternation, and ? * + {m} {m,n} with lazy forms. Anything else is refused by name,
// never skipped. What it accepts matches exactly as re.fullmatch does (a property test compares the two).
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/status.hpp"

namespace headgate::schema {

class Pattern {
public:
    struct Group {
        std::string name;
        std::size_t begin = 0;
        std::size_t end = 0;
    };

    static Result<Pattern> compile(std::string_view text);
    // What one of them matches, without their groups.
    static Pattern any_of(const std::vector<Pattern>& patterns);
    // Whether the whole text matches, in time that grows with its length only. Several threads may ask at once.
    bool matches(std::string_view text) const;
    // The same by backtracking, which also says where the named groups are.
    bool matches(std::string_view text, std::vector<Group>& groups) const;
    const std::string& text() const { return text_; }

private:
    friend class PatternCompiler;
    enum class Op : std::uint8_t { set, split, jump, save, match };
    struct Instruction {
        Op op;
        std::uint32_t a = 0;  // set: index; split: preferred target; jump: target; save: slot
        std::uint32_t b = 0;  // split: other target
    };
    struct Set {
        std::bitset<128> ascii;
        bool others = false;  // code points beyond ASCII
    };
    class Automaton;

    void prepare();

    std::string text_;
    std::vector<Instruction> program_;
    std::vector<Set> sets_;
    std::vector<std::string> names_;  // of save slots 2i, 2i + 1
    std::shared_ptr<const Automaton> automaton_;
};

}  // namespace headgate::schema
