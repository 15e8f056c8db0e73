// Keeps rows in memory until they are sorted, in a compact form.
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

// The distinct texts of a column with few distinct texts, and a code for each.
class TextCodes {
public:
    using Code = std::uint16_t;
    static constexpr Code kNull = UINT16_MAX;

    // Returns the code of a text, or nothing if there would be too many texts.
    std::optional<Code> code(std::string_view text);
    std::string_view text(Code code) const { return std::get<std::string_view>(values_[code]); }
    std::size_t memory_bytes() const { return bytes_; }

private:
    Values values_;
    std::size_t bytes_ = 0;
    Code last_ = 0;
};

// Rows in the order in which they arrived. Values of logs repeat, so a column with few different texts is stored as
// codes of two bytes.
class HeldRows {
public:
    explicit HeldRows(const schema::Schema& schema);

    void append(const schema::Columns& from, std::size_t begin, std::size_t end);
    std::size_t rows() const { return rows_; }
    std::size_t memory_bytes() const;  // including the memory that sorting will need

    // Returns all rows, sorted by the numbers of column `sort`; equal ones stay in the order in which they arrived.
    // With SIZE_MAX all rows stay in that order.
    std::vector<schema::RowAt> order(std::size_t sort) const;
    std::int64_t number(std::size_t column, schema::RowAt at) const {
        return slabs_[at.part].columns.columns[column].numbers[at.row];
    }
    void copy(std::span<const schema::RowAt> which,
              schema::Columns& out) const;  // appends these rows to `out`, in that order

private:
    struct Slab {
        schema::Columns columns;  // the columns that are not stored as codes
        std::vector<std::vector<TextCodes::Code>>
            codes;  // for each column; empty if it is not stored as codes in this slab
        std::size_t memory_bytes() const;
    };

    Slab& slab();
    void append_coded(std::size_t column, const schema::Column& from, std::size_t begin, std::size_t end, Slab& to);
    void copy_column(std::size_t column, std::span<const schema::RowAt> which, schema::Column& out) const;

    schema::Columns empty_;
    std::vector<std::optional<TextCodes>> texts_;  // for each column
    std::vector<bool> coding_;                     // for each column: whether it still has few texts
    std::deque<Slab> slabs_;      // many blocks, because one large block would have to double in size to grow
    std::size_t full_bytes_ = 0;  // the size of all slabs before the last one
    std::size_t rows_ = 0;
};

}  // namespace headgate::checkpoint
