// What became of the files that a run has read.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "footer.hpp"
#include "headgate/checkpoint/checkpoint.hpp"
#include "history.hpp"
#include "parts.hpp"
#include "reading.hpp"
#include "taken.hpp"

namespace headgate::checkpoint {

// Counts files and records in the run's summary, hands the entries of files that were read to the new parts of the
// processed-files index, and keeps rejected records and unread files. By one thread only.
class FileOutcomes {
public:
    using Folder = std::function<Result<std::string>()>;
    // `folder` is asked for where to spill rejected records that need more memory than they may have.
    FileOutcomes(const Options& options, LedgerView& ledger, History& history, NewParts& parts, Summary& summary,
                 Footer& footer, Folder folder);

    // Notes files of a piece in their order. An error means that nothing of the run may be committed.
    Status add(const std::vector<FileResult>& files);

    // A file that does not begin with the lines that are known of it was begun anew if those have another name now:
    // it is returned, to be taken whole. Otherwise it may hold some of them: it is left out and noted as unread.
    Result<KeyList> begun_anew();
    // After all files: what is known of the old names of moved lines, unless something else was taken under them.
    void note_moved();

    // Whether not one of the `listed` files could be read; first_error() says why.
    bool none_was_read(std::size_t listed) const { return unread_->size() > left_out_ && unread_->size() == listed; }
    const Status& first_error() const { return first_error_; }
    std::shared_ptr<Refused> rejects() const { return rejects_; }
    std::shared_ptr<Refused> unread() const { return unread_; }
    // What is written to the reject log: records that were rejected by earlier runs and taken by this one come first.
    std::vector<const Refused*> reject_logs() const { return {&resolved_, rejects_.get()}; }

private:
    Status note_reject(const FileResult& file, const BadRecord& bad);
    Status note_unread(const FileResult& file);
    Status note_unread(std::string_view key, const std::string& kind);
    Status note_resolved(const FileResult& file, std::uint64_t offset);
    void note_read(const FileResult& file);

    LedgerView& ledger_;
    History& history_;
    NewParts& parts_;
    Summary& summary_;
    Footer& footer_;
    Folder folder_;
    std::shared_ptr<Refused> rejects_;
    std::shared_ptr<Refused> unread_;
    Refused resolved_;                    // rejected by earlier runs, and taken by this one
    std::uint64_t left_out_ = 0;          // of unread_, on purpose: trying again reads none of them
    std::vector<std::string> rewritten_;  // keys of files of lines that do not go on where they ended
    std::set<std::uint64_t> moved_;       // contents that are known under another name now
    std::set<KeyDigest> taken_lines_;     // files of lines that this run has taken
    Status first_error_;
};

}  // namespace headgate::checkpoint
