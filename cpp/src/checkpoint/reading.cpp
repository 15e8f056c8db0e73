#include "reading.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "exchange.hpp"
#include "headgate/base/limit.hpp"
#include "headgate/base/threads.hpp"
#include "headgate/checkpoint/records.hpp"
#include "history.hpp"
#include "record_selection.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kPieceBad = limit(16U << 10U, 2);  // bad records of a piece: a line of two bytes may be one
constexpr std::size_t kBadBytes = 128;                   // of memory, with its problem
constexpr auto kPoll = Exchange::kPoll;

// One per thread: its fetcher, its parser, and the piece it fills.
class Worker final : RecordSink {
public:
    Worker(const Options& options, ReadingList& list, const Known& known, const Environment& environment,
           const History* history, Exchange& exchange, std::atomic<std::size_t>& done, const std::atomic<bool>& stop)
        : options_(options),
          history_(history),
          list_(list),
          open_(list),
          known_(known),
          environment_(environment),
          exchange_(exchange),
          done_(done),
          stop_(stop),
          reader_(options.schema),
          piece_(empty()) {}

    void run() {
        if (!any_files()) {
            return;
        }
        auto fetcher = environment_.source->fetcher();
        if (!fetcher.ok()) {
            exchange_.stop(fetcher.status());
            return;
        }
        fetcher.value()->run([this](Wanted& out) { return open_.next(out); },
                             [this](const Fetched& fetched) { got(fetched); },
                             [this] { return stop_.load(std::memory_order_relaxed); });
    }

private:
    Piece empty() const {
        auto piece = exchange_.spare();
        return piece ? std::move(*piece) : Piece{{}, schema::Columns::like(*options_.schema), {}};
    }

    bool any_files() const {
        std::optional<bool> any;
        while (!any && !stop_.load(std::memory_order_relaxed)) {
            any = list_.any_within(kPoll);
        }
        return any.value_or(false);
    }

    void got(const Fetched& fetched) {
        begin(fetched);
        if (fetched.outcome == ReadOutcome::read) {
            file().bytes = fetched.bytes.size();
            read(fetched);
        }
        const auto& stretch = open_.oldest();
        const bool last = fetched.index + 1 == stretch.begin + stretch.keys->size();
        ++finished_;
        if (last || is_full()) {
            hand_over(last);
        }
        open_.close_before(fetched.index + 1);
    }

    FileResult& file() { return piece_.files.back(); }

    void begin(const Fetched& fetched) {
        auto& result = piece_.files.emplace_back();
        result.outcome = fetched.outcome;
        result.error = fetched.error;
        result.key = open_[fetched.index];
        result.entry.key = digest_key(result.key);
        result.entry.tag = fetched.tag;
    }

    bool is_full() const { return piece_.columns.memory_bytes() > kPieceBytes || bad_ > kPieceBad; }

    void hand_over(bool last) {
        const auto bytes = piece_.columns.memory_bytes() + std::exchange(bad_, 0) * kBadBytes;
        // Not file by file: the threads would wait for each other's counting.
        done_.fetch_add(std::exchange(finished_, 0), std::memory_order_relaxed);
        piece_.keys = open_.oldest().keys;
        exchange_.put(open_.oldest().number, std::exchange(piece_, empty()), bytes, last);
    }

    // What was read of the current file so far; its rest goes into a new piece.
    void hand_over_part(const Fetched& fetched) {
        auto entry = file().entry;
        const auto continuation = file().continuation;
        const auto bytes = file().bytes;
        file().goes_on = true;
        hand_over(false);
        begin(fetched);
        file().entry = entry;
        file().continuation = continuation;
        file().bytes = bytes;
    }

    void read(const Fetched& fetched) {
        const auto key = file().key;
        auto entry = file().entry;
        entry.content = content_of(fetched.bytes);
        file().entry = entry;
        if (history_ != nullptr && history_->is_unsettled(entry.key, fetched.tag)) {
            file().unsettled = true;
            return;
        }
        const auto* found = known_(key, entry.key);
        const bool same = found != nullptr && found->content == entry.content;
        const auto* rejected = found == nullptr || history_ == nullptr ? nullptr : history_->rejected(entry.key);
        if (same && rejected == nullptr) {
            keep(*found, fetched.tag);
            return;
        }
        std::string_view content;
        if (const auto status =
                unpacked(key, fetched.bytes, options_.max_file_bytes, environment_.unpack, buffer_, content);
            !status.ok()) {
            file().records = 1;
            note_bad(0, {{"", status.code() == ErrorCode::message_too_large ? "too_large" : "packing"}});
            file().entry.flags = Entry::kRejected;
            return;
        }
        if (same) {
            file().continuation = {Continuation::Kind::grown, content.size(), entry.content};
        } else if (history_ != nullptr) {
            file().continuation = history_->continue_after(key, content, entry.content, found, stop_);
        } else if (found != nullptr && goes_on_after(*found)) {
            file().continuation = grown_only(content, *found);
        }
        const auto& continuation = file().continuation;
        if (continuation.kind == Continuation::Kind::rewritten) {
            return;
        }
        selection_ = RecordSelection(continuation.begin);
        if (found != nullptr && continuation.kind == Continuation::Kind::grown) {
            file().entry.rows = found->rows;
            if (rejected != nullptr) {
                selection_.retry(*rejected, *found, content);
            }
        }
        if (same && !selection_.any_again()) {
            keep(*found, fetched.tag);
            return;
        }
        read_records(fetched, content);
    }

    void keep(const Entry& found, std::uint64_t tag) {
        file().entry = found;
        file().entry.tag = tag;
        file().continuation = {};
        file().same_content = true;
    }

    // For those who only look: whether whole lines follow what was taken.
    static Continuation grown_only(std::string_view content, const Entry& found) {
        const auto taken =
            find_taken_part(content, [&](std::uint64_t part, std::size_t) { return part == found.content; });
        return taken.end == 0 ? Continuation() : Continuation{Continuation::Kind::grown, taken.end, taken.content};
    }

    void read_records(const Fetched& fetched, std::string_view content) {
        fetched_ = &fetched;
        looked_at_ = 0;
        document_end_ = 0;
        good_end_ = 0;
        torn_.reset();
        any_bad_ = false;
        if (selection_.takes_all()) {
            file().retried = selection_.again();  // whether they are good now or are rejected once more
        }
        const auto key = file().key;
        reader_.begin_file(key);
        split_records(key, content, options_.schema->records, *this);
        auto& entry = file().entry;
        entry.flags = entry.rows == 0 && any_bad_ ? Entry::kRejected : 0U;
        if (!holds_lines(key, content)) {
            return;
        }
        entry.flags |= Entry::kLines;
        // Somebody is perhaps still writing the last line: it comes in once it has an end. If a record of it was taken,
        // it does not come in again.
        const auto whole = whole_lines(content);
        const bool packed = content.data() != fetched.bytes.data();
        const bool has_open_record = torn_ && *torn_ >= whole.end && good_end_ <= whole.end;
        if (has_open_record && !packed && whole.end > 0) {
            entry.flags |= Entry::kOpenEnd;
            entry.content = whole.content;
        }
    }

    bool is_selected(std::string_view text, std::uint64_t offset) {
        record_end_ = std::max<std::uint64_t>(document_end_, offset + end_of_text(text));
        return selection_.has(offset, record_end_);
    }

    // A file larger than a piece goes into several.
    void make_room(std::uint64_t offset) {
        if (bad_ > kPieceBad || offset - looked_at_ > kPieceBytes / 8) {
            looked_at_ = offset;
            if (is_full()) {
                hand_over_part(*fetched_);
            }
        }
    }

    void begin_document(std::uint64_t end) override { document_end_ = end; }
    void end_document() override { document_end_ = 0; }

    bool take_object(std::string_view text, std::uint64_t offset) override {
        if (!is_selected(text, offset)) {
            return is_whole_object(text);
        }
        make_room(offset);
        const auto& problems = reader_.read(text, &piece_.columns);
        if (reader_.was_object()) {
            note(offset, problems);
        }
        return reader_.was_object();
    }

    void take(std::string_view text, std::uint64_t offset) override {
        if (is_selected(text, offset)) {
            make_room(offset);
            note(offset, reader_.read(text, &piece_.columns));
        }
    }

    void refuse(std::uint64_t offset, std::string_view kind) override {
        if (is_selected({}, offset)) {
            make_room(offset);
            note(offset, {{"", std::string(kind)}});
        }
    }

    void note(std::uint64_t offset, const std::vector<schema::Problem>& problems) {
        ++file().records;
        torn_.reset();
        if (!problems.empty()) {
            if (document_end_ == 0) {
                torn_ = offset;  // a bad element of a document with an end is not torn
            }
            return note_bad(offset, problems);
        }
        good_end_ = record_end_;
        ++file().entry.rows;
        file().drifted += reader_.drifted();
        if (const auto was_at = selection_.rejected_at(offset); was_at && !selection_.takes_all()) {
            file().retried.push_back(*was_at);
        }
    }

    void note_bad(std::uint64_t offset, const std::vector<schema::Problem>& problems) {
        file().bad.push_back({offset, problems});
        ++bad_;
        any_bad_ = true;
    }

    const Options& options_;
    const History* history_;
    ReadingList& list_;
    OpenStretches open_;
    const Known& known_;
    const Environment& environment_;
    Exchange& exchange_;
    std::atomic<std::size_t>& done_;
    const std::atomic<bool>& stop_;
    schema::RecordReader reader_;
    Piece piece_;
    const Fetched* fetched_ = nullptr;   // the file that is split
    RecordSelection selection_;          // of its records
    std::uint64_t document_end_ = 0;     // of the document that its records are in, if they are a part of one
    std::uint64_t looked_at_ = 0;        // where in it the size of the piece was looked at
    std::uint64_t record_end_ = 0;       // of the current record, or of the document that it is in
    std::uint64_t good_end_ = 0;         // of its last good record, likewise
    std::optional<std::uint64_t> torn_;  // where its last record begins if that is bad and perhaps torn
    bool any_bad_ = false;
    std::size_t bad_ = 0;       // records of the piece
    std::size_t finished_ = 0;  // files that are not in done_ yet
    std::string buffer_;
};

}  // namespace

unsigned reading_threads(unsigned wanted, const Source& source) {
    const auto threads = wanted != 0 ? wanted : source.threads();
    return threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
}

Status read_files(const Options& options, ReadingList& list, const Known& known, const Environment& environment,
                  const std::function<Status(Piece&)>& take, const History* history) {
    Exchange exchange;
    std::atomic<std::size_t> done{0};
    std::atomic<bool> stop{false};
    const auto give_up = [&] {
        stop = true;
        exchange.stop({ErrorCode::internal, "a thread that reads files has failed"});
    };
    Threads threads(give_up);
    for (std::size_t i = list.readers(); i > 0; --i) {
        threads.start([&] {
            Worker(options, list, known, environment, history, exchange, done, stop).run();
            exchange.end();
        });
    }
    const auto progress = [&] {
        if (environment.progress) {
            environment.progress(static_cast<std::int64_t>(done.load()), static_cast<std::int64_t>(list.size()));
        }
    };
    Status status;
    auto polled = std::chrono::steady_clock::now();
    while (status.ok() && list.finished() != exchange.taken()) {
        if (auto piece = exchange.take()) {
            status = take(*piece);
            exchange.give_back(std::move(*piece));
        }
        if (status.ok()) {
            status = exchange.error();
        }
        if (const auto now = std::chrono::steady_clock::now(); now - polled >= kPoll) {
            polled = now;
            progress();
        }
        if (status.ok() && environment.interrupt && environment.interrupt()) {
            status = Status(ErrorCode::interrupted, "interrupted while reading; nothing was written");
        }
    }
    stop = true;
    exchange.stop();
    threads.join();
    if (status.ok()) {
        progress();
    }
    return status;
}

}  // namespace headgate::checkpoint
