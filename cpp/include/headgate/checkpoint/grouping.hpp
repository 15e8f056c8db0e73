// Which rows have equal values in some columns, over batches of any size, in memory that grows with the groups only.
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

// A column of a batch, as views that need to live only as long as a call. Its values are texts or numbers: one for each
// row, or, with `codes`, those that the codes point to.
struct KeyColumn {
    bool text = true;
    std::vector<std::string_view> texts;
    std::span<const std::int64_t> numbers;
    bool coded = false;
    std::vector<std::int32_t> codes;
    std::vector<std::uint8_t> valid;  // one for each row; empty: all are

    std::size_t values() const { return text ? texts.size() : numbers.size(); }
};

// The finaliser of MurmurHash3 (Austin Appleby, public domain): every bit of the input changes the low bits.
constexpr std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 33U)) * 0xFF51AFD7ED558CCDULL;
    x = (x ^ (x >> 33U)) * 0xC4CEB9FE1A85EC53ULL;
    return x ^ (x >> 33U);
}

// Columns have mostly short texts: two words, which may overlap, cover them.
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

// Numbers given to hashes in the order in which they come; whoever asks compares what the numbers stand for.
class HashIndex {
public:
    // The number whose hash is this one and of which `equal` is true, or the next number, and whether it is new.
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

    std::vector<std::uint32_t> slots_;  // as many as a power of two
    std::vector<std::uint64_t> hashes_;
};

// The distinct values of a column, numbered from 0. Null is a value of its own.
class Values {
public:
    using Value = std::variant<std::monostate, std::int64_t, std::string_view>;

    Values() = default;
    Values(Values&&) = default;
    Values& operator=(Values&&) = default;
    Values(const Values&) = delete;  // a copy's views would point into the original
    Values& operator=(const Values&) = delete;

    std::uint32_t code(std::string_view text);
    std::uint32_t code(std::int64_t number);
    std::uint32_t null();
    std::size_t size() const { return values_.size(); }
    const Value& operator[](std::size_t code) const { return values_[code]; }

private:
    HashIndex index_;
    std::deque<std::string> texts_;  // what the views point to
    std::vector<Value> values_;
};

class Grouping {
public:
    explicit Grouping(std::size_t columns) : values_(columns), pairs_(columns == 0 ? 0 : columns - 1) {}

    // The group of each row; new combinations get the next numbers. Without columns all rows are one group.
    void number(std::span<const KeyColumn> columns, std::size_t rows, std::vector<std::uint32_t>& groups);
    std::size_t size() const;
    std::size_t columns() const { return values_.size(); }
    const Values::Value& value(std::size_t group, std::size_t column) const;

private:
    // Combinations of a number of the columns before and a code of this one.
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
    std::vector<std::uint32_t> cell_groups_;         // reused by by_table
    std::vector<std::vector<std::uint32_t>> known_;  // reused by number: codes of a batch's own values
};

// The row of each group whose value in one column is the largest, of equal ones the last; null is the smallest.
class Newest {
public:
    void add(std::span<const std::uint32_t> groups, const KeyColumn& by);
    const std::vector<std::int64_t>& rows() const { return rows_; }  // by group; rows are counted over all batches

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
