#include "file_outcomes.hpp"

#include <utility>

namespace headgate::checkpoint {

FileOutcomes::FileOutcomes(const Options& options, LedgerView& ledger, History& history, NewParts& parts,
                           Summary& summary, Footer& footer, Folder folder)
    : ledger_(ledger),
      history_(history),
      parts_(parts),
      summary_(summary),
      footer_(footer),
      folder_(std::move(folder)),
      rejects_(std::make_shared<Refused>(options.schema)),
      unread_(std::make_shared<Refused>(options.schema)),
      resolved_(options.schema) {}

Status FileOutcomes::add(const std::vector<FileResult>& files) {
    for (const auto& file : files) {
        if (file.outcome != ReadOutcome::read) {
            HG_RETURN_IF_ERROR(note_unread(file));
            continue;
        }
        if (file.unsettled) {
            ++summary_.deferred;
            continue;
        }
        if (file.continuation.kind == Continuation::Kind::rewritten) {
            rewritten_.emplace_back(file.key);
            continue;
        }
        for (const auto offset : file.retried) {
            HG_RETURN_IF_ERROR(note_resolved(file, offset));
        }
        summary_.records += file.records;
        summary_.drifted += file.drifted;
        summary_.rejected_records += static_cast<std::int64_t>(file.bad.size());
        for (const auto& bad : file.bad) {
            HG_RETURN_IF_ERROR(note_reject(file, bad));
        }
        if (!file.goes_on) {
            note_read(file);
        }
    }
    return {};
}

Result<KeyList> FileOutcomes::begun_anew() {
    KeyList again;
    for (const auto& key : std::exchange(rewritten_, {})) {
        const auto* known = ledger_.find(key, digest_key(key));
        if (moved_.contains(known->content)) {
            again.add(key);
            continue;
        }
        ++left_out_;
        HG_RETURN_IF_ERROR(note_unread(key, "rewritten"));
    }
    return again;
}

void FileOutcomes::note_moved() {
    for (const auto& content : moved_) {
        auto found = history_.moved(content);
        if (found && !taken_lines_.contains(found->second.key)) {
            found->second.flags |= Entry::kMoved;
            parts_.add(found->first, found->second);
        }
    }
}

Status FileOutcomes::note_reject(const FileResult& file, const BadRecord& bad) {
    for (const auto& problem : bad.problems) {
        ++summary_.problems[problem.kind];
    }
    return rejects_->add(file.key, bad.offset, bad.problems, folder_, file.entry.content);
}

Status FileOutcomes::note_unread(const FileResult& file) {
    if (file.outcome == ReadOutcome::vanished) {
        ++summary_.vanished;
        return {};
    }
    summary_.archived += file.outcome == ReadOutcome::archived ? 1 : 0;
    if (first_error_.ok() && file.outcome != ReadOutcome::outside) {
        first_error_ = file.error;
    }
    switch (file.outcome) {
        case ReadOutcome::archived:
            return note_unread(file.key, "archived");
        case ReadOutcome::outside:
            ++left_out_;
            return note_unread(file.key, "outside_source");
        default:
            return note_unread(file.key, std::string(error_kind(file.error.code())));
    }
}

Status FileOutcomes::note_unread(std::string_view key, const std::string& kind) {
    ++summary_.unreadable;
    summary_.complete = false;
    ++summary_.read_problems[kind];
    return unread_->add(key, 0, {{"", kind}}, folder_);
}

// A record that was rejected before is not any more; if it was rejected again, what comes later counts.
Status FileOutcomes::note_resolved(const FileResult& file, std::uint64_t offset) {
    const auto* known = ledger_.find(file.key, file.entry.key);
    for (const auto& record : *history_.rejected(file.entry.key)) {
        if (record.offset == offset && known != nullptr) {
            HG_RETURN_IF_ERROR(resolved_.add(file.key, offset, {}, folder_, record.content));
        }
    }
    return {};
}

void FileOutcomes::note_read(const FileResult& file) {
    ++summary_.taken_files;
    summary_.bytes_read += static_cast<std::int64_t>(file.bytes);
    using Kind = Continuation::Kind;
    const auto* known = ledger_.find(file.key, file.entry.key);
    const bool is_retry = known != nullptr && known->content == file.entry.content;
    if (file.same_content) {
        ++summary_.touched;
    } else {
        if (file.continuation.kind == Kind::grown) {
            ++(is_retry ? summary_.retried : summary_.grown);
        } else if (known != nullptr) {
            ++summary_.changed;
            footer_.superseded += known->rows;
        }
        summary_.rejected_files += (file.entry.flags & Entry::kRejected) != 0 ? 1 : 0;
    }
    if (file.continuation.kind == Kind::moved) {
        ++summary_.moved;
        moved_.insert(file.continuation.content);
    }
    if ((file.entry.flags & Entry::kLines) != 0) {
        taken_lines_.insert(file.entry.key);
    }
    parts_.add(ledger_.partition_of(file.key), file.entry);
}

}  // namespace headgate::checkpoint
