// Rows that wait to be sorted, in little memory.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "headgate/checkpoint/grouping.hpp"
#include "headgate/schema/schema.hpp"

namespace headgate::checkpoint {

// The distinct texts of a column, as long as they are few.
class TextCodes {
public:
    using Code = std::uint16_t;
    static constexpr Code kNull = UINT16_MAX;

    // Nothing: a text too many.
    std::optional<Code> code(std::string_view text);
    std::string_view text(Code code) const { return std::get<std::string_view>(values_[code]); }
    std::size_t memory_bytes() const { return bytes_; }

private:
    Values values_;
    std::size_t bytes_ = 0;
    Code last_ = 0;
};

// In the order in which they came. Log records repeat themselves: a column of few different texts takes two bytes a
// row.
class HeldRows {
public:
    explicit HeldRows(const schema::Schema& schema);

    void append(const schema::Columns& from, std::size_t begin, std::size_t end);
    std::size_t rows() const { return rows_; }
    std::size_t memory_bytes() const;  // with what sorting them will take

    // All rows by the numbers of column `sort`, equal ones as they came; with SIZE_MAX, all as they came.
    std::vector<schema::RowAt> order(std::size_t sort) const;
    std::int64_t number(std::size_t column, schema::RowAt at) const {
        return slabs_[at.part].columns.columns[column].numbers[at.row];
    }
    void copy(std::span<const schema::RowAt> which, schema::Columns& out) const;  // appended to `out`, in that order

private:
    struct Slab {
        schema::Columns columns;                          // the columns that are not coded
        std::vector<std::vector<TextCodes::Code>> codes;  // by column; empty: not coded here
        std::size_t memory_bytes() const;
    };

    Slab& slab();
    void append_coded(std::size_t column, const schema::Column& from, std::size_t begin, std::size_t end, Slab& to);
    void copy_column(std::size_t column, std::span<const schema::RowAt> which, schema::Column& out) const;

    schema::Columns empty_;
    std::vector<std::optional<TextCodes>> texts_;  // by column
    std::vector<bool> coding_;                     // by column: while its texts are few
    std::deque<Slab> slabs_;                       // one large block would double to grow
    std::size_t full_bytes_ = 0;                   // of the slabs before the last one
    std::size_t rows_ = 0;
};

}  // namespace headgate::checkpoint
