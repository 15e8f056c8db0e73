#include "merge.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kRowsPerWrite = 128 * 1024;  // a row group of the table, or less when rows are large:
constexpr std::size_t kBytesPerWrite = 256U << 20U;
constexpr std::size_t kRowsPerMove = 8 * 1024;
constexpr std::size_t kMovesPerLook = 256;  // how often the size is looked at

// A sorted stream of rows: the old table, a spilled run, or the rows in memory.
class Cursor {
public:
    Cursor(TableReader* reader, std::size_t sort) : reader_(reader), sort_(sort) {}
    Cursor(std::unique_ptr<TableReader> reader, std::size_t sort)
        : owned_(std::move(reader)), reader_(owned_.get()), sort_(sort) {}
    Cursor(schema::Columns rows, std::vector<std::size_t> order, std::size_t sort)
        : rows_(std::move(rows)), order_(std::move(order)), sort_(sort) {}

    // Makes sure that there is a current row; false at the end.
    Result<bool> ready() {
        while (at_ == rows_.rows) {
            if (reader_ == nullptr) {
                return false;
            }
            at_ = 0;
            HG_ASSIGN(const bool more, reader_->next(rows_));
            if (!more) {
                rows_.rows = 0;
                reader_ = nullptr;
                return false;
            }
        }
        return true;
    }

    std::int64_t value() const { return value(at_); }
    std::int64_t last_value() const { return value(rows_.rows - 1); }

    // Moves the rows up to `bound` (inclusive or not), at most `most` of them.
    void move_until(std::int64_t bound, bool inclusive, std::size_t most, schema::Columns& out) {
        std::size_t end = rows_.rows;
        if (sort_ != SIZE_MAX && !(inclusive ? last_value() <= bound : last_value() < bound)) {
            // The rows to move are mostly few or mostly all: look in steps that double.
            std::size_t step = 1;
            std::size_t low = at_;
            const auto fits = [&](std::size_t i) { return inclusive ? value(i) <= bound : value(i) < bound; };
            while (low + step < rows_.rows && fits(low + step)) {
                low += step;
                step *= 2;
            }
            std::size_t high = std::min(low + step, rows_.rows);
            while (low < high) {
                const auto middle = low + (high - low) / 2;
                if (fits(middle)) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            end = low;
        }
        const auto count = std::min(end - at_, most);
        if (order_.empty()) {
            out.append_range(rows_, at_, at_ + count);
        } else {
            out.append_rows(rows_, order_.data() + at_, count);
        }
        at_ += count;
    }

private:
    std::int64_t value(std::size_t i) const {
        return sort_ == SIZE_MAX ? 0 : rows_.columns[sort_].numbers[order_.empty() ? i : order_[i]];
    }

    std::unique_ptr<TableReader> owned_;
    TableReader* reader_ = nullptr;
    schema::Columns rows_;
    std::vector<std::size_t> order_;  // empty: as they are
    std::size_t sort_;
    std::size_t at_ = 0;
};

}  // namespace

SortedRuns::SortedRuns(const Options& options, const TableFile& table, std::size_t sort,
                       std::function<std::string()> folder)
    : options_(options),
      table_(table),
      sort_(sort),
      folder_(std::move(folder)),
      held_(schema::Columns::like(*options.schema)) {}

Status SortedRuns::add(schema::Columns&& columns, const std::vector<std::size_t>* keep) {
    if (keep != nullptr) {
        held_.append_rows(columns, keep->data(), keep->size());
        rows_ += static_cast<std::int64_t>(keep->size());
    } else {
        rows_ += static_cast<std::int64_t>(columns.rows);
        held_.append_range(columns, 0, columns.rows);
    }
    return held_.memory_bytes() > options_.memory && !options_.dry_run ? spill() : Status();
}

std::vector<std::size_t> SortedRuns::order() const {
    if (sort_ == SIZE_MAX) {
        return {};
    }
    const auto& values = held_.columns[sort_].numbers;
    if (std::is_sorted(values.begin(), values.end())) {
        return {};
    }
    std::vector<std::size_t> out(held_.rows);
    std::iota(out.begin(), out.end(), std::size_t{0});
    std::stable_sort(out.begin(), out.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
    return out;
}

Status SortedRuns::spill() {
    const auto path = folder_() + "/run-" + std::to_string(runs_.size());
    HG_ASSIGN(auto writer, table_.create(path, *options_.schema));
    const auto sorted = order();
    const auto rows = std::exchange(held_, schema::Columns::like(*options_.schema));
    auto out = schema::Columns::like(*options_.schema);
    for (std::size_t at = 0; at < rows.rows; at += out.rows) {
        out.clear();
        const auto count = std::min(kRowsPerWrite, rows.rows - at);
        if (sorted.empty()) {
            out.append_range(rows, at, at + count);
        } else {
            out.append_rows(rows, sorted.data() + at, count);
        }
        HG_RETURN_IF_ERROR(writer->append(out));
    }
    HG_RETURN_IF_ERROR(writer->finish({}));
    runs_.push_back(path);
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0) {
        spilled_ += static_cast<std::uint64_t>(info.st_size);
    }
    if (spilled_ > options_.spill_limit) {
        return {ErrorCode::disk_full, "sorting needs more than the " + std::to_string(options_.spill_limit) +
                                          " bytes that spill_limit allows in " + folder_()};
    }
    return {};
}

// Earlier cursors win ties, so the merge is stable.
Result<std::int64_t> SortedRuns::merge_into(TableReader* old, TableWriter& writer,
                                            const std::function<Status()>& go_on) {
    std::vector<Cursor> cursors;
    if (old != nullptr) {
        cursors.emplace_back(old, sort_);
    }
    for (const auto& run : runs_) {
        HG_ASSIGN(auto reader, table_.open(run, *options_.schema));
        cursors.emplace_back(std::move(reader), sort_);
        ::unlink(run.c_str());  // the open file is enough, and nothing is left behind
    }
    auto sorted = order();
    cursors.emplace_back(std::exchange(held_, schema::Columns::like(*options_.schema)), std::move(sorted), sort_);
    auto out = schema::Columns::like(*options_.schema);
    std::int64_t last = INT64_MIN;
    const auto flush = [&]() -> Status {
        if (sort_ != SIZE_MAX) {
            last = out.columns[sort_].numbers.back();
        }
        HG_RETURN_IF_ERROR(writer.append(out));
        out.clear();
        return go_on();
    };
    for (std::size_t moves = 1;; ++moves) {
        std::size_t best = SIZE_MAX;
        std::size_t second = SIZE_MAX;
        for (std::size_t i = 0; i < cursors.size(); ++i) {
            HG_ASSIGN(const bool more, cursors[i].ready());
            if (!more) {
                continue;
            }
            if (best == SIZE_MAX || cursors[i].value() < cursors[best].value()) {
                second = best;
                best = i;
            } else if (second == SIZE_MAX || cursors[i].value() < cursors[second].value()) {
                second = i;
            }
        }
        if (best == SIZE_MAX) {
            break;
        }
        const auto bound = second == SIZE_MAX ? INT64_MAX : cursors[second].value();
        const auto room = std::min(kRowsPerMove, kRowsPerWrite - out.rows);
        const auto before = out.rows;
        cursors[best].move_until(bound, second == SIZE_MAX || best < second, room, out);
        const bool look = moves % kMovesPerLook == 0 || out.rows - before == room;
        if (out.rows == kRowsPerWrite || (look && out.memory_bytes() > kBytesPerWrite)) {
            HG_RETURN_IF_ERROR(flush());
        }
    }
    if (out.rows > 0) {
        HG_RETURN_IF_ERROR(flush());
    }
    return last;
}

}  // namespace headgate::checkpoint
