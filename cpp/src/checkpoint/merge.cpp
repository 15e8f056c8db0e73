#include "merge.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include "headgate/base/limit.hpp"

#include <algorithm>
#include <future>
#include <numeric>
#include <span>
#include <utility>

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kRowsPerWrite = limit(2 * 1024, 3);
constexpr std::size_t kBytesPerWrite = limit(32U << 20U, 100);
// After this many rows the size of the batch is checked.
constexpr std::size_t kMovesPerLook = limit(256, 1);

// A sorted stream of rows: the old table, a spilled run, or the rows in memory.
class Cursor {
public:
    Cursor(TableReader* reader, std::size_t sort) : reader_(reader), sort_(sort) {}
    Cursor(std::unique_ptr<TableReader> reader, std::size_t sort)
        : owned_(std::move(reader)), reader_(owned_.get()), sort_(sort) {}
    Cursor(HeldRows held, std::vector<schema::RowAt> order, std::size_t sort)
        : held_(std::move(held)), order_(std::move(order)), sort_(sort) {
        end_ = order_.size();
    }

    // Makes sure that there is a current row. Returns false at the end.
    Result<bool> ready() {
        while (at_ == end_) {
            at_ = 0;
            end_ = 0;
            if (reader_ != nullptr) {
                HG_ASSIGN(end_, reader_->next());
                if (end_ == 0) {
                    reader_ = nullptr;
                    return false;
                }
                rows_.rows = 0;  // not read yet
                if (sort_ != SIZE_MAX) {
                    reader_->numbers(sort_, times_);
                }
            } else {
                return false;
            }
        }
        return true;
    }

    std::int64_t value() const { return value(at_); }

    // Whether all rows of the reader's current batch are before `bound`, so that the batch can be passed on as it is.
    bool passes(std::int64_t bound, bool inclusive) const {
        return reader_ != nullptr && at_ == 0 && fits(end_ - 1, bound, inclusive);
    }
    // Passes these rows on and returns the last value.
    Result<std::int64_t> pass_on(TableWriter& writer) {
        at_ = end_;
        HG_RETURN_IF_ERROR(reader_->pass_on(writer));
        return value(end_ - 1);
    }

    // Moves the rows up to `bound`, inclusive or not, but at most `most` rows.
    void move_until(std::int64_t bound, bool inclusive, std::size_t most, schema::Columns& out) {
        std::size_t end = end_;
        if (!fits(end_ - 1, bound, inclusive)) {
            // Usually few rows or all rows are moved, so the end is searched in steps that double.
            std::size_t step = 1;
            std::size_t low = at_;
            while (low + step < end_ && fits(low + step, bound, inclusive)) {
                low += step;
                step *= 2;
            }
            std::size_t high = std::min(low + step, end_);
            while (low < high) {
                const auto middle = low + (high - low) / 2;
                if (fits(middle, bound, inclusive)) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            end = low;
        }
        const auto count = std::min(end - at_, most);
        if (reader_ != nullptr && rows_.rows == 0) {
            reader_->columns(rows_);
        }
        if (held_) {
            held_->copy(std::span(order_).subspan(at_, count), out);
        } else {
            out.append_range(rows_, at_, at_ + count);
        }
        at_ += count;
    }

private:
    bool fits(std::size_t i, std::int64_t bound, bool inclusive) const {
        return sort_ == SIZE_MAX || (inclusive ? value(i) <= bound : value(i) < bound);
    }
    std::int64_t value(std::size_t i) const {
        if (sort_ == SIZE_MAX) {
            return INT64_MIN;
        }
        return held_ ? held_->number(sort_, order_[i]) : times_[i];
    }

    std::unique_ptr<TableReader> owned_;
    TableReader* reader_ = nullptr;
    std::vector<std::int64_t> times_;  // the sort values of the reader's rows
    schema::Columns rows_;             // the reader's rows, once they were read
    std::optional<HeldRows> held_;
    std::vector<schema::RowAt> order_;  // the sorted order of the rows in memory
    std::size_t sort_;
    std::size_t at_ = 0;
    std::size_t end_ = 0;  // the end of the reader's rows, or of order_
};

// Writes batches on another thread, which encodes rows while the next ones are merged.
class WriteBehind {
public:
    WriteBehind(TableWriter& writer, const Options& options)
        : writer_(writer),
          policy_(options.threads == 1 ? std::launch::deferred : std::launch::async),
          rows_(schema::Columns::like(*options.schema)) {}

    // Takes the rows and leaves `rows` empty, to be filled again. The error that it returns may be that of an earlier
    // batch.
    Status append(schema::Columns& rows) {
        HG_RETURN_IF_ERROR(drain());
        std::swap(rows, rows_);
        rows.clear();
        writing_ = std::async(policy_, [this] { return writer_.append(rows_); });
        return {};
    }
    // Waits until nothing is being written any more, so that others may use the writer.
    Status drain() { return writing_.valid() ? writing_.get() : Status(); }

private:
    TableWriter& writer_;
    std::launch policy_;
    schema::Columns rows_;
    std::future<Status> writing_;  // its destructor waits for the thread
};

}  // namespace

SortedRuns::SortedRuns(const Options& options, const TableFile& table, std::size_t sort,
                       std::function<Result<std::string>()> folder)
    : options_(options), table_(table), sort_(sort), folder_(std::move(folder)), held_(*options.schema) {}

void SortedRuns::hold(const schema::Columns& columns, std::size_t begin, std::size_t end) {
    rows_ += static_cast<std::int64_t>(end - begin);
    held_.append(columns, begin, end);
}

Status SortedRuns::add(const schema::Columns& columns, const std::vector<std::size_t>* keep) {
    if (keep == nullptr) {
        hold(columns, 0, columns.rows);
    } else {
        for (std::size_t i = 0; i < keep->size();) {
            const auto begin = (*keep)[i];
            auto end = begin;  // the end of a sequence of adjacent rows
            while (i < keep->size() && (*keep)[i] == end) {
                ++i;
                ++end;
            }
            hold(columns, begin, end);
        }
    }
    const bool large = held_.rows() > 0 && held_.memory_bytes() > options_.memory;
    return large && !options_.dry_run ? spill() : Status();
}

Status SortedRuns::spill() {
    HG_ASSIGN(const auto folder, folder_());
    const auto path = folder + "/run-" + std::to_string(runs_.size());
    HG_ASSIGN(auto writer, table_.create(path, *options_.schema));
    sort();
    Cursor rows(std::exchange(held_, HeldRows(*options_.schema)), std::exchange(order_, {}), sort_);
    WriteBehind behind(*writer, options_);
    auto out = schema::Columns::like(*options_.schema);
    while (true) {
        HG_ASSIGN(const bool more, rows.ready());
        if (!more) {
            break;
        }
        rows.move_until(INT64_MAX, true, kRowsPerWrite, out);
        HG_RETURN_IF_ERROR(behind.append(out));
    }
    HG_RETURN_IF_ERROR(behind.drain());
    HG_RETURN_IF_ERROR(writer->finish({}));
    runs_.push_back(path);
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0) {
        spilled_ += static_cast<std::uint64_t>(info.st_size);
    }
    if (spilled_ > options_.spill_limit) {
        return {ErrorCode::disk_full, "sorting needs more than the " + std::to_string(options_.spill_limit) +
                                          " bytes that spill_limit allows in " + folder};
    }
    return {};
}

void SortedRuns::sort() {
    if (order_.size() != held_.rows()) {
        order_ = held_.order(sort_);
    }
}

// Of equal rows, that of the earlier cursor comes first, so the merge is stable.
Result<std::int64_t> SortedRuns::merge_into(TableReader* old, TableWriter& writer,
                                            const std::function<Status()>& go_on) {
    sort();
    std::vector<Cursor> cursors;
    cursors.emplace_back(old, sort_);
    for (const auto& run : runs_) {
        HG_ASSIGN(auto reader, table_.open(run, *options_.schema));
        cursors.emplace_back(std::move(reader), sort_);
        ::unlink(run.c_str());  // the open file can still be read, and it is gone when the process ends
    }
    cursors.emplace_back(std::exchange(held_, HeldRows(*options_.schema)), std::exchange(order_, {}), sort_);
    auto out = schema::Columns::like(*options_.schema);
    std::int64_t last = INT64_MIN;
    if (old == nullptr) {
        writer.expect(rows_);
    } else {
        std::int64_t first = INT64_MAX;
        for (auto& cursor : std::span(cursors).subspan(1)) {
            HG_ASSIGN(const bool more, cursor.ready());
            if (more && sort_ != SIZE_MAX) {
                first = std::min(first, cursor.value());
            }
        }
        HG_ASSIGN(last, old->pass_units(writer, sort_, first, rows_, go_on));
    }
    WriteBehind behind(writer, options_);
    const auto flush = [&]() -> Status {
        if (sort_ != SIZE_MAX) {
            last = out.columns[sort_].numbers.back();
        }
        HG_RETURN_IF_ERROR(behind.append(out));
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
        const bool inclusive = second == SIZE_MAX || best < second;
        if (cursors[best].passes(bound, inclusive)) {
            if (out.rows > 0) {
                HG_RETURN_IF_ERROR(flush());
            }
            HG_RETURN_IF_ERROR(behind.drain());
            HG_ASSIGN(last, cursors[best].pass_on(writer));
            HG_RETURN_IF_ERROR(go_on());
            continue;
        }
        const auto room = kRowsPerWrite - out.rows;
        const auto before = out.rows;
        cursors[best].move_until(bound, inclusive, room, out);
        const bool look = moves % kMovesPerLook == 0 || out.rows - before == room;
        if (out.rows == kRowsPerWrite || (look && out.memory_bytes() > kBytesPerWrite)) {
            HG_RETURN_IF_ERROR(flush());
        }
    }
    if (out.rows > 0) {
        HG_RETURN_IF_ERROR(flush());
    }
    HG_RETURN_IF_ERROR(behind.drain());
    return last;
}

}  // namespace headgate::checkpoint
