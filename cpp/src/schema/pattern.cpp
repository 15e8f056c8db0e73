#include "headgate/schema/pattern.hpp"

#include <limits>

namespace headgate::schema {
namespace {

constexpr std::size_t kMaxProgram = 10'000;

}  // namespace

// Compiles a pattern by recursive descent to a program for backtracking. Counted repetitions are unrolled.
class PatternCompiler {
public:
    explicit PatternCompiler(std::string_view text) : text_(text) { out_.text_ = text; }

    Result<Pattern> run() {
        if (peek() == '^') {
            ++at_;
        }
        if (!alternation(0)) {
            return error_;
        }
        if (peek() == '$') {
            ++at_;
        }
        if (at_ != text_.size()) {
            static_cast<void>(refuse("an unexpected character"));
            return error_;
        }
        emit(Pattern::Op::match);
        out_.prepare();
        return out_;
    }

private:
    using Op = Pattern::Op;

    char peek(std::size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }

    bool refuse(const std::string& what) {
        error_ = Status(ErrorCode::invalid_schema, "pattern '" + std::string(text_) + "': " + what + " at position " +
                                                       std::to_string(at_) + " (see docs/schemas.md for the subset)");
        return false;
    }

    std::uint32_t here() const { return static_cast<std::uint32_t>(out_.program_.size()); }
    std::uint32_t emit(Op op, std::uint32_t a = 0, std::uint32_t b = 0) {
        out_.program_.push_back({op, a, b});
        return here() - 1;
    }

    bool alternation(int depth) {
        if (depth > 20) {
            return refuse("groups nested too deep");
        }
        std::vector<std::uint32_t> exits;
        while (true) {
            const auto split = emit(Op::split, here() + 1, 0);
            if (!sequence(depth)) {
                return false;
            }
            if (peek() != '|') {
                out_.program_[split] = {Op::jump, split + 1, 0};
                break;
            }
            ++at_;
            exits.push_back(emit(Op::jump));
            out_.program_[split].b = here();
        }
        for (const auto exit : exits) {
            out_.program_[exit].a = here();
        }
        return true;
    }

    bool sequence(int depth) {
        while (at_ < text_.size() && peek() != '|' && peek() != ')' && !(peek() == '$' && at_ + 1 == text_.size())) {
            const auto begin = here();
            if (!atom(depth) || !quantifier(begin)) {
                return false;
            }
            if (out_.program_.size() > kMaxProgram) {
                return refuse("the pattern is too large");
            }
        }
        return true;
    }

    bool atom(int depth) {
        const char c = peek();
        if (c == '(') {
            return group(depth);
        }
        Pattern::Set set;
        if (c == '[') {
            if (!char_class(set)) {
                return false;
            }
        } else if (c == '\\') {
            if (!escape(set)) {
                return false;
            }
        } else if (c == '.') {
            set.ascii.set();
            set.ascii.reset('\n');
            set.others = true;
            ++at_;
        } else if (std::string_view("*+?{}]^$").find(c) != std::string_view::npos) {
            return refuse("an unexpected character");
        } else if (static_cast<unsigned char>(c) >= 0x80) {
            return refuse("a character beyond ASCII");
        } else {
            set.ascii.set(static_cast<std::size_t>(c));
            ++at_;
        }
        out_.sets_.push_back(set);
        emit(Op::set, static_cast<std::uint32_t>(out_.sets_.size() - 1));
        return true;
    }

    bool group(int depth) {
        ++at_;
        std::uint32_t slot = std::numeric_limits<std::uint32_t>::max();
        if (peek() == '?') {
            if (peek(1) == ':') {
                at_ += 2;
            } else if (peek(1) == 'P' && peek(2) == '<') {
                const auto close = text_.find('>', at_);
                if (close == std::string_view::npos) {
                    return refuse("a group name without '>'");
                }
                slot = static_cast<std::uint32_t>(out_.names_.size() * 2);
                out_.names_.emplace_back(text_.substr(at_ + 3, close - at_ - 3));
                at_ = close + 1;
            } else {
                return refuse("only (?:...) and (?P<name>...) groups are supported");
            }
        }
        const bool named = slot != std::numeric_limits<std::uint32_t>::max();
        if (named) {
            emit(Op::save, slot);
        }
        if (!alternation(depth + 1)) {
            return false;
        }
        if (peek() != ')') {
            return refuse("a group without ')'");
        }
        ++at_;
        if (named) {
            emit(Op::save, slot + 1);
        }
        return true;
    }

    bool escape(Pattern::Set& set) {
        const char c = peek(1);
        at_ += 2;
        if (c == 'd') {
            // ASCII digits only, as in pydantic's engine. Python's re has that meaning with re.ASCII.
            for (char digit = '0'; digit <= '9'; ++digit) {
                set.ascii.set(static_cast<std::size_t>(digit));
            }
            return true;
        }
        if (c == '\0' || std::string_view(".-_/|()[]{}?*+^$\\ ~!@#%&=:;,'\"<>`").find(c) == std::string_view::npos) {
            return refuse("an escape that is not supported");
        }
        set.ascii.set(static_cast<std::size_t>(c));
        return true;
    }

    bool class_member(Pattern::Set& one, char& value) {
        value = peek();
        if (value == '\\') {
            const bool is_digit = peek(1) == 'd';
            value = is_digit ? '\0' : peek(1);
            return escape(one);
        }
        if (value == '\0' || static_cast<unsigned char>(value) >= 0x80) {
            return refuse("a character class that is not closed, or not ASCII");
        }
        one.ascii.set(static_cast<std::size_t>(value));
        ++at_;
        return true;
    }

    bool char_class(Pattern::Set& set) {
        ++at_;
        const bool negated = peek() == '^';
        at_ += negated ? 1 : 0;
        bool first = true;
        while (peek() != ']' || first) {
            first = false;
            char low = 0;
            Pattern::Set one;
            if (!class_member(one, low)) {
                return false;
            }
            if (peek() == '-' && peek(1) != ']' && low != '\0') {
                ++at_;
                char high = 0;
                Pattern::Set last;
                if (!class_member(last, high)) {
                    return false;
                }
                if (high < low) {
                    return refuse("a reversed range");
                }
                for (auto c = static_cast<unsigned char>(low); c <= static_cast<unsigned char>(high); ++c) {
                    one.ascii.set(c);
                }
            }
            set.ascii |= one.ascii;
        }
        ++at_;
        if (negated) {
            set.ascii.flip();
            set.others = true;
        }
        return true;
    }

    bool count(std::uint32_t& out) {
        const auto start = at_;
        out = 0;
        while (peek() >= '0' && peek() <= '9' && at_ - start < 5) {
            out = out * 10 + static_cast<std::uint32_t>(peek() - '0');
            ++at_;
        }
        return at_ > start;
    }

    // Whether the instructions from `begin` on can reach their end without consuming a character.
    static bool can_be_empty(const std::vector<Pattern::Instruction>& body, std::uint32_t begin) {
        std::vector<bool> seen(body.size() + 1, false);
        std::vector<std::size_t> open = {0};
        while (!open.empty()) {
            const auto at = open.back();
            open.pop_back();
            if (at == body.size()) {
                return true;
            }
            if (seen[at] || body[at].op == Op::set) {
                continue;
            }
            seen[at] = true;
            if (body[at].op == Op::save) {
                open.push_back(at + 1);
            } else {
                open.push_back(body[at].a - begin);
                if (body[at].op == Op::split) {
                    open.push_back(body[at].b - begin);
                }
            }
        }
        return false;
    }

    // Repeats the instructions from `begin` on. A group inside a repetition is that of the last round, as in re.
    bool quantifier(std::uint32_t begin) {
        std::uint32_t least = 1;
        std::uint32_t most = 1;
        bool endless = false;
        switch (peek()) {
            case '?':
                least = 0;
                break;
            case '*':
                least = 0;
                endless = true;
                break;
            case '+':
                endless = true;
                break;
            case '{':
                ++at_;
                if (!count(least)) {
                    return refuse("expected a number after '{'");
                }
                most = least;
                if (peek() == ',') {
                    ++at_;
                    endless = !count(most);
                }
                if (peek() != '}' || (!endless && most < least)) {
                    return refuse("a repeat that is not {m}, {m,} or {m,n}");
                }
                break;
            default:
                return true;
        }
        ++at_;
        const bool lazy = peek() == '?';
        at_ += lazy ? 1 : 0;
        if (peek() == '*' || peek() == '+' || peek() == '{' || peek() == '?') {
            return refuse("a repeat of a repeat");
        }
        const std::vector<Pattern::Instruction> body(out_.program_.begin() + begin, out_.program_.end());
        out_.program_.resize(begin);
        if (body.size() * (static_cast<std::size_t>(endless ? least : most) + 1) > kMaxProgram) {
            return refuse("the pattern is too large");
        }
        if (endless && can_be_empty(body, begin)) {
            return refuse("an endless repeat of something that can be empty");
        }
        const auto append_body = [&] {
            const auto shift = here() - begin;
            for (auto instruction : body) {
                if (instruction.op == Op::split || instruction.op == Op::jump) {
                    instruction.a += shift;
                    instruction.b += shift;
                }
                out_.program_.push_back(instruction);
            }
        };
        const auto aim = [&](std::uint32_t split, std::uint32_t into, std::uint32_t past) {
            out_.program_[split].a = lazy ? past : into;
            out_.program_[split].b = lazy ? into : past;
        };
        for (std::uint32_t i = 0; i < least; ++i) {
            append_body();
        }
        if (endless) {
            const auto split = emit(Op::split);
            append_body();
            emit(Op::jump, split);
            aim(split, split + 1, here());
            return true;
        }
        std::vector<std::uint32_t> splits;
        for (std::uint32_t i = least; i < most; ++i) {
            splits.push_back(emit(Op::split));
            append_body();
        }
        for (const auto split : splits) {
            aim(split, split + 1, here());
        }
        return true;
    }

    std::string_view text_;
    std::size_t at_ = 0;
    Pattern out_;
    Status error_;
};

Result<Pattern> Pattern::compile(std::string_view text) {
    return PatternCompiler(text).run();
}

}  // namespace headgate::schema
