// Matches texts with a pattern: by an automaton if only yes or no is wanted, and by backtracking if the groups are.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <map>

#include "headgate/base/mutex.hpp"
#include "headgate/base/text.hpp"
#include "headgate/schema/pattern.hpp"

namespace headgate::schema {
namespace {

constexpr std::size_t kMaxSteps = 1'000'000;  // limit of backtracking; an ordinary match takes some hundred steps
constexpr std::size_t kMaxPlaces = 1'024;     // patterns with more places than this get no automaton
constexpr std::size_t kMaxStates = 2'048;     // how many states are kept; file names need some hundreds
constexpr std::size_t kAscii = 128;

}  // namespace

// The subset construction (Rabin and Scott, 1959), done lazily as in Thompson's grep. A state is a set of places in the
// program, and its successors are computed when they are needed first. If there are more than kMaxStates states, the
// sets are computed for each character without keeping them.
class Pattern::Automaton {
public:
    Automaton(const std::vector<Instruction>& program, const std::vector<Set>& sets) {
        classify(sets);
        std::vector<std::size_t> place_of(program.size(), 0);
        std::vector<std::uint32_t> places;  // instructions that consume a character
        for (std::uint32_t pc = 0; pc < program.size(); ++pc) {
            if (program[pc].op == Op::set) {
                place_of[pc] = places.size();
                places.push_back(pc);
                set_of_.push_back(program[pc].a);
            }
        }
        accept_ = places.size();
        words_ = places.size() / kWord + 1;
        for (const auto pc : places) {
            after_.push_back(reached(program, place_of, pc + 1));
        }
        next_ = std::make_unique<std::atomic<std::uint16_t>[]>(kMaxStates * symbols_);
        accepts_ = std::make_unique<std::atomic<bool>[]>(kMaxStates);
        number(Places(words_, 0));              // kNowhere
        number(reached(program, place_of, 0));  // kStart
    }

    bool matches(std::string_view text) const {
        auto* const next = next_.get();
        std::size_t state = kStart;
        for (std::size_t at = 0; at < text.size();) {
            const auto c = static_cast<unsigned char>(text[at]);
            std::size_t length = 1;
            std::size_t symbol = other_;
            if (c < kAscii) {
                symbol = symbol_of_[c];
            } else if (length = utf8_sequence(text, at); length == 0) {
                return false;
            }
            auto& cell = next[state * symbols_ + symbol];
            std::size_t following = cell.load(std::memory_order_acquire);
            if (following <= kNowhere) {
                if (following == kNowhere) {
                    return false;
                }
                following = work_out(state, symbol);
                cell.store(static_cast<std::uint16_t>(following), std::memory_order_release);
            }
            if (following == kNoRoom) {
                return simulate(state, text, at);
            }
            state = following;
            at += length;
        }
        return accepts_[state].load(std::memory_order_acquire);
    }

private:
    using Places = std::vector<std::uint64_t>;  // one bit for each place; the last is the end of the match
    static constexpr std::size_t kWord = 64;
    static constexpr std::uint16_t kUnknown = 0;
    static constexpr std::uint16_t kNowhere = 1;
    static constexpr std::uint16_t kStart = 2;
    static constexpr std::uint16_t kNoRoom = 0xFFFF;

    // Characters that are members of the same sets are one symbol, which keeps the table of successors small.
    void classify(const std::vector<Set>& sets) {
        std::map<std::vector<bool>, std::uint8_t> known;
        const auto symbol = [&](const auto& takes) {
            std::vector<bool> taken;
            taken.reserve(sets.size());
            for (const auto& set : sets) {
                taken.push_back(takes(set));
            }
            const auto [found, fresh] = known.emplace(std::move(taken), static_cast<std::uint8_t>(known.size()));
            if (fresh) {
                taken_.push_back(found->first);
            }
            return found->second;
        };
        for (std::size_t c = 0; c < kAscii; ++c) {
            symbol_of_[c] = symbol([c](const Set& set) { return set.ascii.test(c); });
        }
        other_ = symbol([](const Set& set) { return set.others; });
        symbols_ = known.size();
    }

    // Returns the places that can be reached from an instruction without consuming a character.
    Places reached(const std::vector<Instruction>& program, const std::vector<std::size_t>& place_of,
                   std::uint32_t from) const {
        Places out(words_, 0);
        std::vector<std::uint32_t> open = {from};
        std::vector<bool> seen(program.size(), false);
        while (!open.empty()) {
            const auto pc = open.back();
            open.pop_back();
            if (seen[pc]) {
                continue;
            }
            seen[pc] = true;
            const auto& instruction = program[pc];
            switch (instruction.op) {
                case Op::set:
                    add(out, place_of[pc]);
                    break;
                case Op::match:
                    add(out, accept_);
                    break;
                case Op::split:
                    open.push_back(instruction.b);
                    [[fallthrough]];
                case Op::jump:
                    open.push_back(instruction.a);
                    break;
                case Op::save:
                    open.push_back(pc + 1);
                    break;
            }
        }
        return out;
    }

    static void add(Places& places, std::size_t place) { places[place / kWord] |= std::uint64_t{1} << (place % kWord); }
    bool accepting(const Places& places) const { return (places[accept_ / kWord] >> (accept_ % kWord) & 1U) != 0; }

    Places step(const Places& from, std::size_t symbol) const {
        Places out(words_, 0);
        for (std::size_t w = 0; w < words_; ++w) {
            for (auto left = from[w]; left != 0; left &= left - 1) {
                const auto place = w * kWord + static_cast<std::size_t>(std::countr_zero(left));
                for (std::size_t i = 0; place != accept_ && taken_[symbol][set_of_[place]] && i < words_; ++i) {
                    out[i] |= after_[place][i];
                }
            }
        }
        return out;
    }

    std::uint16_t number(const Places& places) const HG_REQUIRES(mutex_) {
        if (states_.size() == kMaxStates - 1 && !numbers_.contains(places)) {
            return kNoRoom;
        }
        const auto [found, fresh] = numbers_.emplace(places, static_cast<std::uint16_t>(states_.size() + 1));
        if (fresh) {
            states_.push_back(&found->first);
            accepts_[found->second].store(accepting(places), std::memory_order_release);
        }
        return found->second;
    }

    std::uint16_t work_out(std::size_t state, std::size_t symbol) const {
        const MutexLock lock(mutex_);
        return number(step(*states_[state - 1], symbol));
    }

    bool simulate(std::size_t state, std::string_view text, std::size_t at) const {
        Places places;
        {
            const MutexLock lock(mutex_);
            places = *states_[state - 1];
        }
        while (at < text.size()) {
            const auto c = static_cast<unsigned char>(text[at]);
            const auto length = c < kAscii ? 1 : utf8_sequence(text, at);
            if (length == 0) {
                return false;
            }
            places = step(places, c < kAscii ? symbol_of_[c] : other_);
            at += length;
        }
        return accepting(places);
    }

    std::array<std::uint8_t, kAscii> symbol_of_{};
    std::uint8_t other_ = 0;
    std::size_t symbols_ = 0;
    std::vector<std::vector<bool>> taken_;  // symbol, set -> whether the set contains the symbol
    std::vector<std::uint32_t> set_of_;     // the set of each place
    std::vector<Places> after_;             // the places that can follow each place
    std::size_t accept_ = 0;
    std::size_t words_ = 0;
    std::unique_ptr<std::atomic<std::uint16_t>[]> next_;  // the table of successors: state, symbol -> state
    std::unique_ptr<std::atomic<bool>[]> accepts_;
    mutable Mutex mutex_;
    mutable std::map<Places, std::uint16_t> numbers_ HG_GUARDED_BY(mutex_);
    mutable std::vector<const Places*> states_ HG_GUARDED_BY(mutex_);
};

Pattern Pattern::any_of(const std::vector<Pattern>& patterns) {
    Pattern out;
    for (const auto& pattern : patterns) {
        const auto sets = static_cast<std::uint32_t>(out.sets_.size());
        out.sets_.insert(out.sets_.end(), pattern.sets_.begin(), pattern.sets_.end());
        const auto begin = static_cast<std::uint32_t>(out.program_.size()) + 1;
        const auto end = begin + static_cast<std::uint32_t>(pattern.program_.size());
        out.program_.push_back({Op::split, begin, end});
        for (auto instruction : pattern.program_) {
            if (instruction.op == Op::set) {
                instruction.a += sets;
            } else if (instruction.op == Op::save) {
                instruction = {Op::jump, static_cast<std::uint32_t>(out.program_.size()) + 1 - begin, 0};
            }
            if (instruction.op == Op::split || instruction.op == Op::jump) {
                instruction.a += begin;
                instruction.b += begin;
            }
            out.program_.push_back(instruction);
        }
        out.text_ += (out.text_.empty() ? "" : "|") + pattern.text_;
    }
    out.sets_.emplace_back();  // an empty set matches nothing, so the last alternative has no other after it
    out.program_.push_back({Op::set, static_cast<std::uint32_t>(out.sets_.size() - 1), 0});
    out.program_.push_back({Op::match, 0, 0});
    out.prepare();
    return out;
}

void Pattern::prepare() {
    if (sets_.size() <= kMaxPlaces && program_.size() <= 4 * kMaxPlaces) {
        automaton_ = std::make_shared<const Automaton>(program_, sets_);
    }
}

bool Pattern::matches(std::string_view text) const {
    if (automaton_) {
        return automaton_->matches(text);
    }
    std::vector<Group> unused;
    return matches(text, unused);
}

bool Pattern::matches(std::string_view text, std::vector<Group>& groups) const {
    struct Branch {
        std::uint32_t pc;
        std::size_t at;
        std::size_t trail;  // how many saves are kept when matching continues here
    };
    struct Saved {
        std::uint32_t slot;
        std::size_t previous;
    };
    std::vector<Branch> branches;
    std::vector<Saved> trail;
    std::vector<std::size_t> slots(names_.size() * 2, 0);
    std::uint32_t pc = 0;
    std::size_t at = 0;
    for (std::size_t steps = 0; steps < kMaxSteps; ++steps) {
        const auto& instruction = program_[pc];
        bool failed = false;
        switch (instruction.op) {
            case Op::set: {
                const auto& set = sets_[instruction.a];
                const auto c = at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
                std::size_t length = at < text.size() ? 1 : 0;
                if (length == 1 && c >= 0x80) {
                    length = set.others ? utf8_sequence(text, at) : 0;
                } else if (length == 1 && !set.ascii.test(c)) {
                    length = 0;
                }
                failed = length == 0;
                at += length;
                ++pc;
                break;
            }
            case Op::split:
                branches.push_back({instruction.b, at, trail.size()});
                pc = instruction.a;
                break;
            case Op::jump:
                pc = instruction.a;
                break;
            case Op::save:
                trail.push_back({instruction.a, slots[instruction.a]});
                slots[instruction.a] = at;
                ++pc;
                break;
            case Op::match:
                if (at == text.size()) {
                    for (std::size_t i = 0; i < names_.size(); ++i) {
                        groups.push_back({names_[i], slots[2 * i], slots[2 * i + 1]});
                    }
                    return true;
                }
                failed = true;
                break;
        }
        if (failed) {
            if (branches.empty()) {
                return false;
            }
            const auto branch = branches.back();
            branches.pop_back();
            while (trail.size() > branch.trail) {
                slots[trail.back().slot] = trail.back().previous;
                trail.pop_back();
            }
            pc = branch.pc;
            at = branch.at;
        }
    }
    return false;
}

}  // namespace headgate::schema
