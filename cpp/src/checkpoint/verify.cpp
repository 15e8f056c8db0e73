#include <algorithm>

#include "footer.hpp"
#include "reading.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kMostExamples = 20;

class Verifier {
public:
    Verifier(const Options& options, const Environment& environment, std::optional<std::int64_t> rows_elsewhere)
        : options_(options), env_(environment), rows_elsewhere_(rows_elsewhere) {}

    Result<VerifyReport> execute() {
        HG_ASSIGN(const auto peeked, env_.target->peek());
        if (!peeked) {
            return Status(ErrorCode::not_found, env_.target->name() + " does not exist");
        }
        HG_ASSIGN(const auto metadata, env_.table->metadata(*peeked));
        HG_ASSIGN(footer_, parse_footer(metadata, env_.target->name()));
        HG_RETURN_IF_ERROR(check_columns(*env_.table, *peeked, *options_.schema, env_.target->name()));
        report_.version = footer_.version;
        report_.rows_in_footer = footer_.rows;
        HG_RETURN_IF_ERROR(read_ledger());
        if (rows_elsewhere_) {
            report_.rows = *rows_elsewhere_;
        } else {
            HG_RETURN_IF_ERROR(read_table());
        }
        if (env_.source) {
            HG_RETURN_IF_ERROR(read_source());
        }
        compare();
        return std::move(report_);
    }

private:
    Status read_ledger() {
        for (const auto& name : footer_.segments) {
            HG_ASSIGN(const auto bytes, env_.target->read_part(name));
            HG_ASSIGN(auto entries, read_segment(bytes, name));
            taken_.merge(std::move(entries));
        }
        taken_.index();
        report_.ledger_entries = static_cast<std::int64_t>(taken_.size());
        std::int64_t rows = footer_.superseded - footer_.skipped;
        for (const auto& entry : taken_.entries()) {
            rows += entry.rows;
        }
        report_.rows_in_ledger = footer_.has_sums ? rows : -1;
        return {};
    }

    Status read_table() {
        const auto sort = options_.schema->sort_column();
        HG_ASSIGN(const auto path, env_.target->fetch());
        HG_ASSIGN(const auto reader, env_.table->open(path, *options_.schema));
        const auto go_on = [this] {
            return env_.interrupt && env_.interrupt() ? Status(ErrorCode::interrupted, "interrupted") : Status();
        };
        HG_RETURN_IF_ERROR(reader->check(go_on));
        std::vector<std::int64_t> times;
        std::int64_t last = INT64_MIN;
        while (true) {
            HG_ASSIGN(const auto rows, reader->next());
            if (rows == 0) {
                return {};
            }
            report_.rows += static_cast<std::int64_t>(rows);
            if (sort != SIZE_MAX) {
                reader->numbers(sort, times);
                for (const auto at : times) {
                    report_.out_of_order += at < last ? 1 : 0;
                    last = std::max(last, at);
                }
            }
            HG_RETURN_IF_ERROR(go_on());
        }
    }

    Status read_source() {
        KeyList keys;
        HG_RETURN_IF_ERROR(env_.source->list({}, env_.interrupt, [&](const Object& object) {
            if (options_.schema->accepts_name(object.key) && !belongs_to_target(object.key, options_.target_key)) {
                keys.add(object.key);
            }
        }));
        ReadingList list(std::move(keys), reading_threads(options_.threads, *env_.source));
        const Known known = [this](std::string_view, const KeyDigest& digest) { return taken_.find(digest); };
        std::int64_t found = 0;
        HG_RETURN_IF_ERROR(read_files(options_, list, known, env_, [&](Piece& piece) -> Status {
            for (const auto& file : piece.files) {
                ++report_.checked_files;
                const bool taken = taken_.find(file.entry.key) != nullptr;
                found += taken ? 1 : 0;
                if (file.outcome != ReadOutcome::read) {
                    ++report_.unreadable;
                    example(file.key);
                } else if (!taken) {
                    ++report_.pending;
                    example(file.key);
                } else if (!file.same_content && !is_torn(file)) {
                    ++report_.changed;
                    example(file.key);
                }
            }
            return {};
        }));
        report_.gone = report_.ledger_entries - found;
        return {};
    }

    // All of it was taken but a last line without an end, which is not a record.
    bool is_torn(const FileResult& file) const {
        const auto* found = taken_.find(file.entry.key);
        return (found->flags & Entry::kOpenEnd) != 0 && file.continuation.kind == Continuation::Kind::grown &&
               file.entry.rows == found->rows;
    }

    void example(std::string_view key) {
        if (report_.examples.size() < kMostExamples) {
            report_.examples.push_back(options_.schema->shown_name(key));
        }
    }

    void differ(std::int64_t count, const std::string& sentence) {
        if (count != 0) {
            report_.differences.push_back(std::to_string(count) + " " + sentence);
        }
    }

    // Files of the source that are gone are no difference: sources are pruned, and their rows stay.
    void compare() {
        differ(report_.rows - report_.rows_in_footer, "rows more than the footer says");
        if (report_.rows_in_ledger >= 0) {
            differ(report_.rows - report_.rows_in_ledger, "rows more than the ledger accounts for");
        }
        differ(report_.out_of_order, "rows are out of order");
        differ(report_.pending, "files of the source are not taken yet");
        differ(report_.changed, "files of the source have other content than was taken");
        differ(report_.unreadable, "files of the source cannot be read");
    }

    const Options& options_;
    const Environment& env_;
    std::optional<std::int64_t> rows_elsewhere_;
    Footer footer_;
    Taken taken_;
    VerifyReport report_;
};

}  // namespace

Result<VerifyReport> verify(const Options& options, const Environment& environment,
                            std::optional<std::int64_t> rows_elsewhere) {
    auto report = Verifier(options, environment, rows_elsewhere).execute();
    environment.target->end();
    return report;
}

}  // namespace headgate::checkpoint
