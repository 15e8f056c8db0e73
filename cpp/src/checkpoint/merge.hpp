// External merge sort: rows are collected in bounded memory. When it is full, they are sorted and spilled to a file,
// and in the end the spilled runs, the rows in memory and the old table are merged while the new table is written.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "headgate/checkpoint/checkpoint.hpp"
#include "held.hpp"

namespace headgate::checkpoint {

// Collects the new rows of a run. Rows with equal sort values keep the order in which they were added.
class SortedRuns {
public:
    // `sort` is the number of the column to sort by, or SIZE_MAX to keep the order of arrival. Runs are spilled to the
    // folder that `folder` returns; it is called when the first run is spilled.
    SortedRuns(const Options& options, const TableFile& table, std::size_t sort,
               std::function<Result<std::string>()> folder);

    // Adds the rows of `columns` that `keep` lists, or all rows if it is null.
    Status add(const schema::Columns& columns, const std::vector<std::size_t>* keep);
    std::int64_t rows() const { return rows_; }
    std::int64_t spilled_bytes() const { return static_cast<std::int64_t>(spilled_); }

    // Sorts the rows in memory ahead of time. merge_into() sorts what was not sorted.
    void sort();
    // Writes the rows of `old`, which is sorted and may be null, merged with all rows that were added. Of equal rows
    // the old one comes first. Returns the sort value of the last row, or INT64_MIN if there is none.
    Result<std::int64_t> merge_into(TableReader* old, TableWriter& writer, const std::function<Status()>& go_on);

private:
    void hold(const schema::Columns& columns, std::size_t begin, std::size_t end);
    Status spill();

    const Options& options_;
    const TableFile& table_;
    std::size_t sort_;
    std::function<Result<std::string>()> folder_;
    HeldRows held_;
    std::vector<schema::RowAt> order_;  // their sorted order
    std::vector<std::string> runs_;
    std::int64_t rows_ = 0;
    std::uint64_t spilled_ = 0;
};

}  // namespace headgate::checkpoint
