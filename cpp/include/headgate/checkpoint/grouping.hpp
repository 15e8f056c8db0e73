// Groups rows by their values in some columns. Rows come in batches of any size; the memory grows with the number of
// groups, not with the number of rows. All classes are for one thread at a time.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace headgate::checkpoint {

// A column of a batch, as views that have to be valid during a call only. Its values are texts or numbers: one for each
// row, or, if it is `coded`, a dictionary into which `codes` point.
struct KeyColumn {
    bool text = true;
    std::vector<std::string_view> texts;
    std::span<const std::int64_t> numbers;
    bool coded = false;
    std::vector<std::int32_t> codes;
    std::vector<std::uint8_t> valid;  // one for each row, 0 for null; empty if no value is null

    std::size_t values() const { return text ? texts.size() : numbers.size(); }
};

// The finaliser of MurmurHash3 (Austin Appleby, public domain): every bit of the input changes the low bits.
constexpr std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 33U)) * 0xFF51AFD7ED558CCDULL;
    x = (x ^ (x >> 33U)) * 0xC4CEB9FE1A85EC53ULL;
    return x ^ (x >> 33U);
}

// Most texts are short. Up to sixteen bytes are hashed as two words, which may overlap.
inline std::uint64_t hash_of(std::string_view text) {
    const auto size = text.size();
    if (size > 16) {
        return std::hash<std::string_view>()(text);
    }
    std::uint64_t first = 0;
    std::uint64_t last = 0;
    if (size >= 8) {
        std::memcpy(&first, text.data(), 8);
        std::memcpy(&last, text.data() + size - 8, 8);
    } else if (size >= 4) {
        std::memcpy(&first, text.data(), 4);
        std::memcpy(&last, text.data() + size - 4, 4);
    } else {
        for (const char c : text) {
            first = first << 8U | static_cast<unsigned char>(c);
        }
    }
    return mixed(first ^ mixed(last ^ size << 56U));
}

// Gives numbers to distinct values, in the order in which they arrive. It stores hashes only; the caller compares the
// values that the numbers stand for.
class HashIndex {
public:
    // Returns the number with this hash for which `equal` is true, and false; or the next number, and true.
    template <class Equal>
    std::pair<std::uint32_t, bool> find(std::uint64_t hash, const Equal& equal) {
        if ((hashes_.size() + 1) * 2 > slots_.size()) {
            grow();
        }
        for (std::size_t at = hash & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1)) {
            if (slots_[at] == kFree) {
                slots_[at] = static_cast<std::uint32_t>(hashes_.size());
                hashes_.push_back(hash);
                return {slots_[at], true};
            }
            if (hashes_[slots_[at]] == hash && equal(slots_[at])) {
                return {slots_[at], false};
            }
        }
    }

private:
    static constexpr std::uint32_t kFree = UINT32_MAX;

    void grow();

    std::vector<std::uint32_t> slots_;  // the size is a power of two
    std::vector<std::uint64_t> hashes_;
};

// The distinct values of a column, numbered from 0. Null is one of the values.
class Values {
public:
    using Value = std::variant<std::monostate, std::int64_t, std::string_view>;

    Values() = default;
    Values(Values&&) = default;
    Values& operator=(Values&&) = default;
    Values(const Values&) = delete;  // the views of a copy would point into the original
    Values& operator=(const Values&) = delete;

    std::uint32_t code(std::string_view text);
    std::uint32_t code(std::int64_t number);
    std::uint32_t null();
    std::size_t size() const { return values_.size(); }
    const Value& operator[](std::size_t code) const { return values_[code]; }

private:
    HashIndex index_;
    std::deque<std::string> texts_;  // owns the texts of the views
    std::vector<Value> values_;
};

// Numbers the distinct combinations of values of several columns.
class Grouping {
public:
    explicit Grouping(std::size_t columns) : values_(columns), pairs_(columns == 0 ? 0 : columns - 1) {}

    // Sets `groups` to the number of each row's group. New combinations get the next numbers. If there are no columns,
    // all rows are one group.
    void number(std::span<const KeyColumn> columns, std::size_t rows, std::vector<std::uint32_t>& groups);
    std::size_t size() const;
    std::size_t columns() const { return values_.size(); }
    const Values::Value& value(std::size_t group, std::size_t column) const;

private:
    // Combinations of the group by all columns before, and a value's code in this column.
    struct Pairs {
        HashIndex index;
        std::vector<std::pair<std::uint32_t, std::uint32_t>> members;
    };

    void by_table(std::span<const KeyColumn> columns, std::size_t rows, std::size_t cells,
                  std::vector<std::uint32_t>& groups);
    std::uint32_t code_of(std::size_t column, const KeyColumn& from, std::size_t value);
    std::uint32_t code_of_row(std::size_t column, const KeyColumn& from, std::size_t row);
    std::uint32_t pair(std::size_t level, std::uint32_t before, std::uint32_t code);

    std::vector<Values> values_;
    std::vector<Pairs> pairs_;
    bool any_ = false;
    std::vector<std::uint32_t> cell_groups_;         // scratch memory of by_table()
    std::vector<std::vector<std::uint32_t>> known_;  // scratch memory of number(): the codes of a batch's dictionary
};

// Finds, in each group, the row with the largest value of one column. Of equal ones it is the last; null is the
// smallest.
class Newest {
public:
    void add(std::span<const std::uint32_t> groups, const KeyColumn& by);
    const std::vector<std::int64_t>& rows() const {
        return rows_;
    }  // one row number for each group, counted over all batches

private:
    template <class T, class ValueOf>
    void keep(std::span<const std::uint32_t> groups, const KeyColumn& by, std::vector<T>& best, const ValueOf& value);

    std::int64_t seen_ = 0;
    std::vector<std::int64_t> rows_;
    std::vector<std::uint8_t> has_;
    std::vector<std::int64_t> numbers_;
    std::vector<std::string> texts_;
};

}  // namespace headgate::checkpoint
