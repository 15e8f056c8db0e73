#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <optional>

#include "evolution.hpp"
#include "file_outcomes.hpp"
#include "file_selection.hpp"
#include "footer.hpp"
#include "headgate/base/fault.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/memory.hpp"
#include "headgate/base/scratch.hpp"
#include "headgate/base/text.hpp"
#include "history.hpp"
#include "merge.hpp"
#include "parts.hpp"
#include "reading.hpp"
#include "taken.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::int64_t kBackOffUs = 20'000;  // base of the jittered wait after a lost race
constexpr std::int64_t kMostBackOffUs = 2'000'000;

// One attempt: load what is committed, read what is new, commit. A loser of the race starts again with a new one.
class Run {
public:
    Run(const Options& options, const Environment& environment, bool in_order)
        : options_(options),
          in_order_(in_order),
          env_(environment),
          source_(*environment.source),
          target_(*environment.target),
          sort_(options.schema->sort_column()),
          write_id_(environment.random->token_hex()),
          list_(reading_threads(options.threads, source_)),
          ledger_(options, *environment.target),
          history_(options, ledger_),
          runs_(options, *environment.table, sort_, [this] { return spill_folder(); }),
          parts_(target_, write_id_),
          outcomes_(options, ledger_, history_, parts_, summary_, footer_, [this] { return spill_folder(); }) {}
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    Result<Summary> execute() {
        HG_RETURN_IF_ERROR(load());
        parts_.begin(footer_.version + 1);
        HG_RETURN_IF_ERROR(read());
        if (outcomes_.none_was_read(list_.size())) {
            if (env_.none_read) {
                env_.none_read(outcomes_.unread());
            }
            const auto& error = outcomes_.first_error();
            return Status(error.code(), "none of the " + std::to_string(list_.size()) + " new files in " +
                                            source_.name() + " could be read: " + error.message());
        }
        summary_.rows_added = runs_.rows();
        summary_.spilled_bytes = runs_.spilled_bytes();
        const bool listed_fully = options_.window_us > 0 && !windowed_;  // worth a commit of its own: it is remembered
        const bool nothing = parts_.empty() && evolution_ == Evolution::none && !(listed_fully && !summary_.first_run);
        // A first run without one good record commits too: its files are not read again by every run.
        if (nothing || options_.dry_run) {
            summary_.rows_total = summary_.rows_before + (options_.dry_run ? summary_.rows_added : 0);
        } else {
            HG_RETURN_IF_ERROR(commit());
        }
        struct rusage usage {};
        getrusage(RUSAGE_SELF, &usage);
        summary_.memory_high_water = usage.ru_maxrss * 1024LL;
        summary_.rejects = outcomes_.rejects();
        summary_.unread = outcomes_.unread();
        return std::move(summary_);
    }

    // The source was not listed in the order that it promised.
    bool listing_was_out_of_order() const { return out_of_order_; }

private:
    Status load() {
        HG_ASSIGN(const auto path, target_.peek());
        if (!path) {
            summary_.first_run = true;
            footer_.has_sums = true;
            return {};
        }
        // Whatever cannot be read is never taken for a first run: the old history stays untouched.
        auto metadata = env_.table->metadata(*path);
        if (!metadata.ok()) {
            return about_target(metadata.status(), *path);
        }
        HG_ASSIGN(footer_, parse_footer(metadata.value(), target_.name()));
        HG_RETURN_IF_ERROR(check_schema(footer_, options_.schema->name, target_.name()));
        HG_ASSIGN(const auto stored, env_.table->stored(*path));
        if (stored) {
            HG_ASSIGN(evolution_,
                      compare_columns(*stored, footer_.types, *options_.schema, options_.evolve, target_.name()));
        }
        summary_.rows_before = footer_.rows;
        summary_.version = footer_.version;
        if (sort_ != SIZE_MAX && footer_.rows > 0) {
            if (!footer_.has_last) {
                HG_RETURN_IF_ERROR(find_last());
            }
            watermark_ = footer_.last_timestamp_us;
            summary_.last_timestamp_us = watermark_;
        }
        if (options_.retry_rejected) {
            HG_RETURN_IF_ERROR(history_.rejected().read(target_, footer_.rejects, options_.retry_rule));
        }
        return ledger_.open(footer_.segments, several_threads());
    }

    bool several_threads() const { return reading_threads(options_.threads, source_) > 1; }

    // The table may have been read from a temporary copy: errors name the table.
    Status about_target(const Status& status, const std::string& copy) const {
        auto message = status.message();
        if (const auto at = message.find(copy); at != std::string::npos) {
            message.replace(at, copy.size(), target_.name());
        }
        return {status.code(), message};
    }

    // Footers of the first releases do not have the newest timestamp.
    Status find_last() {
        HG_ASSIGN(const auto path, target_.fetch());
        HG_ASSIGN(const auto reader, env_.table->open(path, *options_.schema));
        std::vector<std::int64_t> times;
        while (true) {
            HG_ASSIGN(const auto rows, reader->next());
            if (rows == 0) {
                return {};
            }
            reader->numbers(sort_, times);
            footer_.last_timestamp_us = times.back();
        }
    }

    Window listing_window() {
        const auto now = env_.clock->now_us();
        const bool due = summary_.first_run || now - footer_.last_full_listing_us >= options_.full_listing_every_us;
        Window window;
        window.on = options_.window_us > 0 && !due && !options_.schema->listing_prefixes.empty() &&
                    footer_.last_timestamp_us > INT64_MIN + options_.window_us;
        if (window.on) {
            summary_.complete = false;
            window.stamp = compact_stamp(footer_.last_timestamp_us - options_.window_us);
        } else {
            footer_.last_full_listing_us = now;
        }
        windowed_ = window.on;
        return window;
    }

    Status read() {
        FileSelection selection(options_, env_, listing_window(), ledger_, in_order_ && several_threads(), list_);
        selection.retry(history_.rejected());
        history_.ask(selection, !windowed_);
        HG_RETURN_IF_ERROR(selection.begin());
        return_freed_memory();  // of the names as they were listed
        HG_RETURN_IF_ERROR(read(list_));
        auto status = selection.finish(summary_);
        out_of_order_ = selection.listing_was_out_of_order();
        HG_RETURN_IF_ERROR(status);
        // Logs that have moved, or a copy of them, are the same source: most of what is known there is as it was.
        if (!options_.other_source && !selection.most_known_are_unchanged()) {
            HG_RETURN_IF_ERROR(check_source(footer_, options_.source_name, target_.name()));
        }
        HG_RETURN_IF_ERROR(read_rewritten());
        outcomes_.note_moved();
        return {};
    }

    Status read(ReadingList& list) {
        return read_files(
            options_, list, [this](auto key, const auto& digest) { return ledger_.find(key, digest); }, env_,
            [this](Piece& piece) -> Status { return take(piece); }, &history_);
    }

    // Files of lines that were begun anew are taken whole.
    Status read_rewritten() {
        HG_ASSIGN(auto again, outcomes_.begun_anew());
        if (again.size() == 0) {
            return {};
        }
        history_.take_rewritten();
        again.sort();
        ReadingList list(std::move(again), 1);
        return read(list);
    }

    Status take(Piece& piece) {
        parts_.expect(options_.partitioned ? 0 : list_.size());
        HG_RETURN_IF_ERROR(outcomes_.add(piece.files));
        HG_RETURN_IF_ERROR(take_rows(piece.columns));
        if (options_.dry_run) {
            parts_.clear();
            return {};
        }
        return parts_.write_if_full();
    }

    Status take_rows(const schema::Columns& columns) {
        if (sort_ == SIZE_MAX || summary_.first_run || columns.rows == 0) {
            return runs_.add(columns, nullptr);
        }
        const auto& times = columns.columns[sort_].numbers;
        std::vector<std::size_t> keep;
        for (std::size_t row = 0; row < columns.rows; ++row) {
            if (options_.mode == Mode::watermark && times[row] <= watermark_) {
                ++summary_.skipped_before_watermark;
                ++footer_.skipped;
                continue;
            }
            summary_.late_rows += times[row] < watermark_ && times[row] != schema::kNoTime ? 1 : 0;
            keep.push_back(row);
        }
        return runs_.add(columns, keep.size() == columns.rows ? nullptr : &keep);
    }

    Result<std::string> spill_folder() {
        if (options_.spill_dir.empty()) {
            return target_.scratch();
        }
        if (!spill_folder_) {
            HG_ASSIGN(spill_folder_, ScratchFolder::make(options_.spill_dir, *env_.random));
        }
        return spill_folder_->path();
    }

    Status go_on() const {
        return env_.interrupt && env_.interrupt() ? Status(ErrorCode::interrupted, "interrupted; nothing was written")
                                                  : Status();
    }

    // Segments first, then the table under a temporary name, then one conditional write: the commit. A crash before it
    // leaves the old checkpoint and orphans (swept by a later run), after it the new one. What fails before it takes
    // back what it has written: on a full disk the next run has the room that this one had.
    Status commit() {
        sweep_dead_runs();
        auto next = footer_;
        list_.clear();  // what was read is in runs_ and parts_
        ledger_.forget();
        return_freed_memory();
        HG_RETURN_IF_ERROR(write_parts(next));
        next.schema = options_.schema->name;
        next.plan = options_.plan;
        if (!options_.source_name.empty() &&
            std::find(next.sources.begin(), next.sources.end(), options_.source_name) == next.sources.end()) {
            next.sources.push_back(options_.source_name);
        }
        next.types = column_types(*options_.schema);
        next.version = footer_.version + 1;
        next.write_id = write_id_;
        next.rows = summary_.rows_before + runs_.rows();
        HG_ASSIGN(const auto scratch, target_.scratch());
        const auto temporary = scratch + "/table-" + write_id_.substr(0, 12);
        if (auto status = write_and_commit(temporary, next); !status.ok()) {
            ::unlink(temporary.c_str());
            return status;
        }
        HG_RETURN_IF_ERROR(fault_point("checkpoint.after_commit"));
        summary_.committed = true;
        summary_.version = next.version;
        summary_.rows_total = next.rows;
        summary_.last_timestamp_us = next.last_timestamp_us;
        target_.sweep(next.parts());
        return {};
    }

    // Before anything is written, so that runs which die one after the other do not fill the disk. Not where others may
    // be at work: there the sweep after a commit leaves young parts alone. Not on a first run: the table may only have
    // been put aside, and would miss its parts.
    void sweep_dead_runs() {
        if (target_.may_race() || summary_.first_run) {
            return;
        }
        auto known = footer_.parts();
        known.insert(known.end(), parts_.written().begin(), parts_.written().end());
        target_.sweep(known);
    }

    // The rows in memory are sorted, and the old table fetched, meanwhile.
    Status write_parts(Footer& next) {
        HG_RETURN_IF_ERROR(parts_.compact(next));
        auto written = std::async(several_threads() ? std::launch::async : std::launch::deferred,
                                  [this] { return parts_.write(outcomes_.reject_logs()); });
        runs_.sort();
        if (!summary_.first_run) {
            HG_ASSIGN(old_path_, target_.fetch());
        }
        HG_RETURN_IF_ERROR(written.get());
        parts_.name_in(next);
        return_freed_memory();
        return fault_point("checkpoint.after_segments");
    }

    Status write_and_commit(const std::string& temporary, Footer& next) {
        std::unique_ptr<TableReader> old;
        if (!summary_.first_run) {
            HG_ASSIGN(old, env_.table->open(old_path_, *options_.schema));
        }
        HG_ASSIGN(const auto writer, env_.table->create(temporary, *options_.schema));
        const auto last = runs_.merge_into(old.get(), *writer, [this] { return go_on(); });
        if (!last.ok()) {
            return old ? about_target(last.status(), old_path_) : last.status();
        }
        next.last_timestamp_us = last.value();
        HG_RETURN_IF_ERROR(writer->finish({{kFooterKey, render_footer(next)}}));
        struct stat info {};
        if (::stat(temporary.c_str(), &info) == 0) {
            summary_.file_size = info.st_size;
        }
        HG_RETURN_IF_ERROR(fault_point("checkpoint.before_commit"));
        HG_RETURN_IF_ERROR(go_on());
        parts_.keep();
        auto status = target_.commit(temporary);
        return status.ok() || is_ours() ? Status() : status;
    }

    // After a commit whose answer was lost or that seems to have lost the race: the write id tells whether it is there.
    bool is_ours() const {
        const auto path = target_.peek();
        if (!path.ok() || !path.value()) {
            return false;
        }
        const auto metadata = env_.table->metadata(*path.value());
        if (!metadata.ok()) {
            return false;
        }
        const auto footer = parse_footer(metadata.value(), target_.name());
        return footer.ok() && footer.value().write_id == write_id_;
    }

    const Options& options_;
    const bool in_order_;
    const Environment& env_;
    Source& source_;
    Target& target_;
    std::size_t sort_;
    std::string write_id_;
    Summary summary_;
    Footer footer_;
    ReadingList list_;
    LedgerView ledger_;
    History history_;
    std::optional<ScratchFolder> spill_folder_;  // outlives what lies in it
    SortedRuns runs_;
    NewParts parts_;
    std::string old_path_;
    FileOutcomes outcomes_;
    std::int64_t watermark_ = INT64_MIN;
    Evolution evolution_ = Evolution::none;
    bool windowed_ = false;
    bool out_of_order_ = false;
};

}  // namespace

Result<Summary> update(const Options& options, const Environment& environment) {
    HG_RETURN_IF_ERROR(environment.target->begin(*environment.clock, environment.interrupt));
    bool in_order = true;
    for (int attempt = 1;; ++attempt) {
        Run run(options, environment, in_order);
        auto result = run.execute();
        if (run.listing_was_out_of_order()) {
            in_order = false;
            --attempt;
            continue;
        }
        if (result.ok()) {
            result.value().attempts = attempt;
        }
        const bool lost = !result.ok() && result.status().code() == ErrorCode::version_conflict &&
                          environment.target->may_race() && attempt < options.attempts;
        if (!lost) {
            environment.target->end();
            return result;
        }
        const auto most = std::min<std::int64_t>(kMostBackOffUs, kBackOffUs << std::min(attempt, 10));
        const auto wait = static_cast<std::int64_t>(environment.random->uniform() * static_cast<double>(most));
        if (!sleep_interruptibly(*environment.clock, wait, environment.interrupt)) {
            return Status(ErrorCode::interrupted, "interrupted; nothing was written");
        }
    }
}

Result<StoredSchema> stored_schema(const Environment& environment) {
    HG_ASSIGN(const auto path, environment.target->peek());
    if (!path) {
        return StoredSchema{};
    }
    HG_ASSIGN(const auto metadata, environment.table->metadata(*path));
    HG_ASSIGN(const auto footer, parse_footer(metadata, environment.target->name()));
    return StoredSchema{footer.schema, footer.plan};
}

}  // namespace headgate::checkpoint
