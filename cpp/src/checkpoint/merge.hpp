// Rows in bounded memory: what does not fit is sorted and spilled, and everything is merged while it is written.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "headgate/checkpoint/checkpoint.hpp"
#include "held.hpp"

namespace headgate::checkpoint {

// New rows on their way into the table. Rows with equal timestamps keep the order in which they came.
class SortedRuns {
public:
    // `sort` is the column to sort by, or SIZE_MAX for the order of arrival. Runs are spilled into the folder that
    // `folder` makes when it is first asked.
    SortedRuns(const Options& options, const TableFile& table, std::size_t sort,
               std::function<Result<std::string>()> folder);

    // Takes the rows of `columns` that `keep` names (all when it is null).
    Status add(const schema::Columns& columns, const std::vector<std::size_t>* keep);
    std::int64_t rows() const { return rows_; }
    std::int64_t spilled_bytes() const { return static_cast<std::int64_t>(spilled_); }

    // The rows in memory, when there is time: merge_into does what was not done.
    void sort();
    // Writes `old` (sorted, may be null) and all rows here; on a tie the old row comes first. Gives the last row's
    // sort value, or INT64_MIN.
    Result<std::int64_t> merge_into(TableReader* old, TableWriter& writer, const std::function<Status()>& go_on);

private:
    void hold(const schema::Columns& columns, std::size_t begin, std::size_t end);
    Status spill();

    const Options& options_;
    const TableFile& table_;
    std::size_t sort_;
    std::function<Result<std::string>()> folder_;
    HeldRows held_;
    std::vector<schema::RowAt> order_;  // of those
    std::vector<std::string> runs_;
    std::int64_t rows_ = 0;
    std::uint64_t spilled_ = 0;
};

}  // namespace headgate::checkpoint
