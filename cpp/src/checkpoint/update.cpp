#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "headgate/base/fault.hpp"
#include "headgate/base/file.hpp"
#include "headgate/base/text.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "reading.hpp"

namespace headgate::checkpoint {
namespace {

using Json = nlohmann::json;

constexpr int kFooterFormat = 1;
constexpr const char* kFooterKey = "headgate";
constexpr std::size_t kMostSegments = 32;  // more are merged into one
constexpr std::size_t kMostRejectsShown = 20;
constexpr std::size_t kRowsPerPoll = 64 * 1024;
constexpr std::int64_t kLockPollUs = 20'000;

// What the footer of a committed table says.
struct Footer {
    std::int64_t version = 0;
    std::string write_id;
    std::vector<std::string> segments;
    std::vector<std::string> rejects;
};

Status refuse_network_storage(const std::string& folder) {
    // statfs(2) magic numbers: NFS, SMB, SMB2/CIFS, 9p, FUSE. None promises our locks and renames.
    static constexpr std::array<std::uint32_t, 5> network = {0x6969, 0x517B, 0xFE534D42, 0x01021997, 0x65735546};
    struct statfs info {};
    if (::statfs(folder.c_str(), &info) != 0) {
        return status_from_errno(errno, "cannot look at " + folder);
    }
    const auto type = static_cast<std::uint32_t>(info.f_type);
    if (std::find(network.begin(), network.end(), type) != network.end()) {
        return {ErrorCode::unsupported_storage,
                folder + " is on a network file system, where locks and renames cannot be trusted; use a local disk"};
    }
    return {};
}

class TargetLock {
public:
    static Result<TargetLock> acquire(const std::string& path, std::int64_t timeout_us,
                                      const Environment& environment) {
        TargetLock lock;
        lock.file_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
        if (!lock.file_.ok()) {
            return status_from_errno(errno, "cannot create lock " + path);
        }
        const auto deadline = Deadline::after(*environment.clock, timeout_us);
        while (::flock(lock.file_.get(), LOCK_EX | LOCK_NB) != 0) {
            if (errno != EWOULDBLOCK && errno != EINTR) {
                return status_from_errno(errno, "cannot lock " + path);
            }
            if (deadline.left_us(*environment.clock) <= 0) {
                return Status(ErrorCode::busy, "another run holds " + path);
            }
            if (!sleep_interruptibly(*environment.clock, kLockPollUs, environment.interrupt)) {
                return Status(ErrorCode::interrupted, "interrupted while waiting for " + path);
            }
        }
        return lock;
    }

private:
    FileDescriptor file_;
};

Result<Footer> parse_footer(const std::map<std::string, std::string>& metadata, const Options& options) {
    const auto found = metadata.find(kFooterKey);
    if (found == metadata.end()) {
        return Status(ErrorCode::corrupt_data, options.target + " is not a headgate checkpoint");
    }
    try {
        const auto json = Json::parse(found->second);
        if (json.at("format").get<int>() > kFooterFormat) {
            return Status(
                ErrorCode::unsupported_version,
                options.target + " was written by a newer headgate (footer format " + json.at("format").dump() + ")");
        }
        if (json.at("schema").get<std::string>() != options.schema->name) {
            return Status(ErrorCode::invalid_input, options.target + " holds records of schema '" +
                                                        json.at("schema").get<std::string>() + "', not '" +
                                                        options.schema->name + "'");
        }
        return Footer{json.at("version").get<std::int64_t>(), json.at("write_id").get<std::string>(),
                      json.at("segments").get<std::vector<std::string>>(),
                      json.at("rejects").get<std::vector<std::string>>()};
    } catch (const Json::exception&) {
        return Status(ErrorCode::corrupt_data, "the footer of " + options.target + " cannot be read");
    }
}

std::string render_footer(const Footer& footer, const Options& options, std::int64_t rows) {
    return Json{{"format", kFooterFormat},
                {"schema", options.schema->name},
                {"version", footer.version},
                {"write_id", footer.write_id},
                {"segments", footer.segments},
                {"rejects", footer.rejects},
                {"rows", rows}}
        .dump();
}

class Run {
public:
    Run(const Options& options, const Environment& environment)
        : options_(options),
          env_(environment),
          ledger_folder_(options.target + ".ledger"),
          sort_(options.schema->index_of(options.schema->sort_by)) {}

    Result<Summary> execute() {
        HG_RETURN_IF_ERROR(make_folders(parent_folder(options_.target)));
        HG_RETURN_IF_ERROR(refuse_network_storage(parent_folder(options_.target)));
        HG_ASSIGN(const auto lock, TargetLock::acquire(options_.target + ".lock", options_.lock_timeout_us, env_));
        HG_RETURN_IF_ERROR(load());
        HG_ASSIGN(const auto files, choose());
        HG_ASSIGN(auto batches, read_files(options_, files, taken_, env_));
        HG_RETURN_IF_ERROR(count(files, batches));
        const bool nothing = entries_.empty() || (summary_.first_run && summary_.rows_added == 0);
        if (nothing || options_.dry_run) {
            summary_.rows_total = summary_.rows_before + (options_.dry_run ? summary_.rows_added : 0);
            return summary_;
        }
        HG_RETURN_IF_ERROR(commit());
        return summary_;
    }

private:
    Status load() {
        auto metadata = env_.table->metadata(options_.target);
        if (!metadata.ok()) {
            if (metadata.status().code() != ErrorCode::not_found) {
                return metadata.status();  // never taken for a first run: the old history stays untouched
            }
            summary_.first_run = true;
            old_ = schema::Columns::like(*options_.schema);
            return {};
        }
        HG_ASSIGN(footer_, parse_footer(metadata.value(), options_));
        for (const auto& name : footer_.segments) {
            auto bytes = read_file(ledger_folder_ + "/" + name);
            if (!bytes.ok()) {
                return {ErrorCode::corrupt_data, "a ledger segment of " + options_.target + " is missing: " + name};
            }
            HG_RETURN_IF_ERROR(read_segment(bytes.value(), name, taken_));
        }
        HG_ASSIGN(old_, env_.table->read(options_.target, *options_.schema));
        summary_.rows_before = static_cast<std::int64_t>(old_.rows);
        summary_.version = footer_.version;
        if (sort_ != SIZE_MAX && old_.rows > 0) {
            watermark_ = old_.columns[sort_].numbers.back();
            summary_.last_timestamp_us = watermark_;
        }
        return {};
    }

    Result<std::vector<Listed>> choose() {
        HG_ASSIGN(auto keys, list_files(options_.source));
        const FileDescriptor folder(::open(options_.source.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        SystemClock real;  // file times are the machine's, whatever clock the pipeline runs on
        const auto youngest_ns = (real.now_us() - options_.settle_us) * 1000;
        std::vector<Listed> out;
        summary_.listed = static_cast<std::int64_t>(keys.size());
        for (auto& key : keys) {
            const auto slash = key.rfind('/');
            const auto name =
                slash == std::string::npos ? std::string_view(key) : std::string_view(key).substr(slash + 1);
            if (!options_.schema->accepts_name(name)) {
                ++summary_.ignored;
                continue;
            }
            const auto digest = digest_key(key);
            const auto known = taken_.find(digest);
            if (options_.settle_us > 0 || known != taken_.end()) {
                struct stat info {};
                if (::fstatat(folder.get(), key.c_str(), &info, 0) != 0) {
                    ++summary_.vanished;
                    continue;
                }
                const auto mtime_ns = info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec;
                if (known != taken_.end() &&
                    known->second.tag == file_tag(static_cast<std::uint64_t>(info.st_size), mtime_ns)) {
                    ++summary_.known;
                    continue;
                }
                if (options_.settle_us > 0 && mtime_ns > youngest_ns) {
                    ++summary_.deferred;
                    continue;
                }
            }
            out.push_back({std::move(key), digest});
        }
        return out;
    }

    void note_reject(const Listed& file, const BadRecord& bad) {
        for (const auto& problem : bad.problems) {
            ++summary_.problems[problem.kind];
        }
        Json line{{"key", file.key}, {"offset", bad.offset}, {"problems", Json::array()}};
        for (const auto& problem : bad.problems) {
            line["problems"].push_back({{"field", problem.field}, {"kind", problem.kind}});
        }
        reject_lines_ += line.dump() + "\n";
        if (summary_.first_rejects.size() < kMostRejectsShown) {
            const auto slash = file.key.rfind('/');
            const auto name = slash == std::string::npos ? file.key : file.key.substr(slash + 1);
            summary_.first_rejects.push_back({options_.schema->redact_name(name),
                                              to_hex(file.digest.data(), file.digest.size()).substr(0, 12), bad.offset,
                                              bad.problems});
        }
    }

    Status count(const std::vector<Listed>& files, std::vector<Batch>& batches) {
        std::size_t at = 0;
        std::int64_t refused = 0;
        new_ = schema::Columns::like(*options_.schema);
        for (auto& batch : batches) {
            for (auto& file : batch.files) {
                const auto& listed = files[at++];
                if (file.outcome == FileOutcome::failed) {
                    return file.error;
                }
                if (file.outcome != FileOutcome::read) {
                    ++(file.outcome == FileOutcome::vanished ? summary_.vanished : summary_.unreadable);
                    refused += file.outcome == FileOutcome::unreadable ? 1 : 0;
                    continue;
                }
                ++summary_.taken_files;
                summary_.bytes_read += static_cast<std::int64_t>(file.bytes);
                if (file.same_content) {
                    ++summary_.touched;
                } else {
                    summary_.changed += taken_.contains(file.entry.key) ? 1 : 0;
                    summary_.rejected_files += static_cast<std::int64_t>(file.entry.flags & 1U);
                    summary_.records += file.records;
                    summary_.rejected_records += static_cast<std::int64_t>(file.bad.size());
                    for (const auto& bad : file.bad) {
                        note_reject(listed, bad);
                    }
                }
                entries_.push_back(file.entry);
            }
            new_.append_all(batch.columns);
            batch.columns = {};
        }
        if (!files.empty() && refused == static_cast<std::int64_t>(files.size())) {
            return {ErrorCode::permission_denied, "every one of the " + std::to_string(refused) + " new files in " +
                                                      options_.source + " was refused"};
        }
        order_.clear();
        for (std::size_t row = 0; row < new_.rows; ++row) {
            const auto when = sort_ == SIZE_MAX ? 0 : new_.columns[sort_].numbers[row];
            if (options_.mode == Mode::watermark && !summary_.first_run && when <= watermark_) {
                ++summary_.skipped_before_watermark;
                continue;
            }
            summary_.late_rows += !summary_.first_run && when < watermark_ ? 1 : 0;
            order_.push_back(row);
        }
        summary_.rows_added = static_cast<std::int64_t>(order_.size());
        return {};
    }

    Status go_on() const {
        return env_.interrupt && env_.interrupt() ? Status(ErrorCode::interrupted, "interrupted; nothing was written")
                                                  : Status();
    }

    schema::Columns appended() {
        for (const auto row : order_) {
            append_row(old_, new_, row);
        }
        return std::move(old_);
    }

    // Old rows are sorted already; new ones are sorted stably and merged in, old before new on a tie.
    Result<schema::Columns> merged() {
        if (sort_ == SIZE_MAX) {
            return appended();
        }
        const auto& fresh = new_.columns[sort_].numbers;
        std::stable_sort(order_.begin(), order_.end(),
                         [&](std::size_t a, std::size_t b) { return fresh[a] < fresh[b]; });
        const auto& aged = old_.columns[sort_].numbers;
        if (order_.empty() || old_.rows == 0 || fresh[order_.front()] >= aged.back()) {
            return appended();
        }
        auto out = schema::Columns::like(*options_.schema);
        std::size_t row = 0;
        for (const auto added : order_) {
            for (; row < old_.rows && aged[row] <= fresh[added]; ++row) {
                append_row(out, old_, row);
            }
            append_row(out, new_, added);
            if (out.rows % kRowsPerPoll == 0) {
                HG_RETURN_IF_ERROR(go_on());
            }
        }
        for (; row < old_.rows; ++row) {
            append_row(out, old_, row);
        }
        return out;
    }

    static void append_row(schema::Columns& to, const schema::Columns& from, std::size_t row) {
        for (std::size_t c = 0; c < to.columns.size(); ++c) {
            to.columns[c].append_from(from.columns[c], row);
        }
        ++to.rows;
    }

    // Segments first, then the table under a temporary name, then one rename: the commit. A crash before it leaves the
    // old checkpoint and orphans (swept by the next run), after it the new one.
    Status commit() {
        HG_RETURN_IF_ERROR(make_folders(ledger_folder_));
        Footer next = footer_;
        next.version = footer_.version + 1;
        next.write_id = env_.random->token_hex();
        const auto suffix = std::to_string(next.version) + "-" + next.write_id.substr(0, 12);
        if (next.segments.size() >= kMostSegments) {
            for (const auto& entry : entries_) {
                taken_[entry.key] = entry;
            }
            entries_.clear();
            for (const auto& [key, entry] : taken_) {
                entries_.push_back(entry);
            }
            next.segments.clear();
        }
        next.segments.push_back("seg-" + suffix + ".hgl");
        HG_RETURN_IF_ERROR(write_file_durably(ledger_folder_ + "/" + next.segments.back(), write_segment(entries_)));
        if (!reject_lines_.empty()) {
            next.rejects.push_back("rej-" + suffix + ".jsonl");
            HG_RETURN_IF_ERROR(write_file_durably(ledger_folder_ + "/" + next.rejects.back(), reject_lines_));
        }
        HG_RETURN_IF_ERROR(fault_point("checkpoint.after_segments"));
        HG_ASSIGN(const auto columns, merged());
        new_ = {};  // the rows are in `columns` now: one copy while the file is written
        const auto temporary = options_.target + ".tmp-" + next.write_id.substr(0, 12);
        const auto write = [&]() -> Status {
            const auto rows = static_cast<std::int64_t>(columns.rows);
            HG_RETURN_IF_ERROR(env_.table->write(temporary, *options_.schema, columns,
                                                 {{kFooterKey, render_footer(next, options_, rows)}}));
            HG_RETURN_IF_ERROR(fault_point("checkpoint.before_commit"));
            HG_RETURN_IF_ERROR(go_on());
            HG_RETURN_IF_ERROR(still_unchanged());
            if (::rename(temporary.c_str(), options_.target.c_str()) != 0) {
                return status_from_errno(errno, "cannot replace " + options_.target);
            }
            return sync_folder(parent_folder(options_.target));
        };
        if (auto status = write(); !status.ok()) {
            ::unlink(temporary.c_str());
            return status;
        }
        HG_RETURN_IF_ERROR(fault_point("checkpoint.after_commit"));
        summary_.committed = true;
        summary_.version = next.version;
        summary_.rows_total = static_cast<std::int64_t>(columns.rows);
        if (sort_ != SIZE_MAX && columns.rows > 0) {
            summary_.last_timestamp_us = columns.columns[sort_].numbers.back();
        }
        std::error_code ignored;
        summary_.file_size = static_cast<std::int64_t>(std::filesystem::file_size(options_.target, ignored));
        sweep(next);
        return {};
    }

    // The lock already keeps others out; this catches a writer that does not honour it.
    Status still_unchanged() const {
        auto metadata = env_.table->metadata(options_.target);
        const bool absent = !metadata.ok() && metadata.status().code() == ErrorCode::not_found;
        if (summary_.first_run && absent) {
            return {};
        }
        if (metadata.ok()) {
            HG_ASSIGN(const auto now, parse_footer(metadata.value(), options_));
            if (!summary_.first_run && now.write_id == footer_.write_id) {
                return {};
            }
        }
        return {ErrorCode::version_conflict, options_.target + " changed while this run was working; run again"};
    }

    // Files that no footer names, left by runs that died. Failing to remove one harms nothing.
    void sweep(const Footer& footer) const {
        std::set<std::string> named(footer.segments.begin(), footer.segments.end());
        named.insert(footer.rejects.begin(), footer.rejects.end());
        std::error_code error;
        for (const auto& entry : std::filesystem::directory_iterator(ledger_folder_, error)) {
            if (!named.contains(entry.path().filename().string())) {
                std::filesystem::remove(entry.path(), error);
            }
        }
        const auto prefix = std::filesystem::path(options_.target).filename().string() + ".tmp-";
        for (const auto& entry : std::filesystem::directory_iterator(parent_folder(options_.target), error)) {
            if (entry.path().filename().string().starts_with(prefix)) {
                std::filesystem::remove(entry.path(), error);
            }
        }
    }

    const Options& options_;
    const Environment& env_;
    std::string ledger_folder_;
    std::size_t sort_;
    Summary summary_;
    Footer footer_;
    Taken taken_;
    schema::Columns old_;
    schema::Columns new_;
    std::vector<std::size_t> order_;
    std::vector<Entry> entries_;
    std::string reject_lines_;
    std::int64_t watermark_ = INT64_MIN;
};

}  // namespace

Result<Summary> update(const Options& options, const Environment& environment) {
    return Run(options, environment).execute();
}

}  // namespace headgate::checkpoint
