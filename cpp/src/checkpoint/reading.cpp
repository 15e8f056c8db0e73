#include "reading.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "headgate/base/limit.hpp"
#include "headgate/base/text.hpp"
#include "headgate/hash/identity.hpp"
#include "history.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kPieceBytes = limit(8U << 20U, 64);    // a larger stretch is handed over in pieces
constexpr std::size_t kPieceBad = limit(16U << 10U, 2);      // so are its bad records: a line of two bytes may be one
constexpr std::size_t kBadBytes = 128;                       // of memory, with its problem
constexpr std::size_t kAheadBytes = limit(64U << 20U, 200);  // of pieces that nobody has taken yet
constexpr auto kPoll = std::chrono::milliseconds(50);

// Where workers put their pieces and the caller takes them, stretch by stretch in order. A worker that is far ahead
// waits, unless the caller waits for it.
class Exchange {
public:
    void put(std::size_t stretch, Piece piece, std::size_t bytes, bool last) {
        std::unique_lock lock(mutex_);
        while (held_ + bytes > kAheadBytes && held_ > 0 && (stretch != first_ || ready()) && !stopped_) {
            changed_.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
        }
        held_ += bytes;
        slots_.resize(std::max(slots_.size(), stretch - first_ + 1));
        auto& slot = slots_[stretch - first_];
        slot.pieces.emplace_back(std::move(piece), bytes);
        slot.done = last;
        changed_.notify_all();
    }

    // Nothing within the poll interval, or a worker has ended.
    std::optional<Piece> take() {
        std::unique_lock lock(mutex_);
        if (!ready() && !std::exchange(ended_, false)) {
            // wait_until, not wait: the latter needs a newer libstdc++ than Lambda's.
            changed_.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
        }
        if (!ready()) {
            return std::nullopt;
        }
        auto& slot = slots_.front();
        auto out = std::move(slot.pieces.front().first);
        held_ -= slot.pieces.front().second;
        slot.pieces.pop_front();
        if (slot.pieces.empty() && slot.done) {
            slots_.pop_front();
            ++first_;
        }
        changed_.notify_all();
        return out;
    }

    // A piece that was used up comes back to be filled again: its memory has been paid for.
    void give_back(Piece piece) {
        if (piece.columns.memory_bytes() > kPieceBytes) {
            return;
        }
        piece.files.clear();
        piece.columns.clear();
        piece.keys.reset();
        const std::lock_guard lock(mutex_);
        spare_.push_back(std::move(piece));
    }
    std::optional<Piece> spare() {
        const std::lock_guard lock(mutex_);
        if (spare_.empty()) {
            return std::nullopt;
        }
        auto out = std::move(spare_.back());
        spare_.pop_back();
        return out;
    }

    // How many stretches were taken whole.
    std::size_t taken() {
        const std::lock_guard lock(mutex_);
        return first_;
    }

    // A worker has: perhaps there is nothing to wait for.
    void end() {
        const std::lock_guard lock(mutex_);
        ended_ = true;
        changed_.notify_all();
    }

    void stop(Status why = {}) {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
        if (error_.ok()) {
            error_ = std::move(why);
        }
        changed_.notify_all();
    }
    Status error() {
        const std::lock_guard lock(mutex_);
        return error_;
    }

private:
    struct Slot {
        std::deque<std::pair<Piece, std::size_t>> pieces;
        bool done = false;
    };
    bool ready() const { return !slots_.empty() && !slots_.front().pieces.empty(); }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Slot> slots_;  // of stretches that were not taken yet
    std::size_t first_ = 0;   // the number of slots_.front()
    std::size_t held_ = 0;
    std::vector<Piece> spare_;
    bool ended_ = false;
    bool stopped_ = false;
    Status error_;
};

// One per thread: its fetcher, its parser, and the piece it fills.
class Worker {
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
            refuse(0, {{"", status.code() == ErrorCode::message_too_large ? "too_large" : "packing"}});
            file().entry.flags = Entry::kRejected;
            return;
        }
        Selection selection;
        if (same) {
            file().continuation = {Continuation::Kind::grown, content.size(), entry.content};
        } else if (history_ != nullptr) {
            file().continuation = history_->continue_after(key, content, entry.content, found, stop_);
        } else if (found != nullptr) {
            file().continuation = grown_only(content, *found);
        }
        const auto& continuation = file().continuation;
        if (continuation.kind == Continuation::Kind::rewritten) {
            return;
        }
        selection.begin = continuation.begin;
        if (found != nullptr && continuation.kind == Continuation::Kind::grown) {
            file().entry.rows = found->rows;
            if (rejected != nullptr) {
                select_rejected(*rejected, *found, content, selection);
            }
        }
        if (same && !selection.any_again()) {
            keep(*found, fetched.tag);
            return;
        }
        read_records(fetched, content, selection);
    }

    // Which records of a file are to be taken: those from `begin` on, and those before it that were rejected.
    struct Selection {
        std::size_t begin = 0;
        std::vector<std::uint64_t> again;  // offsets, sorted
        bool all = false;                  // nothing of the file was taken
        bool any_again() const { return all || !again.empty(); }
        bool has(std::uint64_t offset) const {
            return all || offset >= begin || std::binary_search(again.begin(), again.end(), offset);
        }
    };

    void keep(const Entry& found, std::uint64_t tag) {
        file().entry = found;
        file().entry.tag = tag;
        file().continuation = {};
        file().same_content = true;
    }

    // For those who only look: whether whole lines follow what was taken.
    static Continuation grown_only(std::string_view content, const Entry& found) {
        const auto taken = find_taken_part(content, [&](std::uint64_t part) { return part == found.content; });
        return taken.end == 0 ? Continuation() : Continuation{Continuation::Kind::grown, taken.end, taken.content};
    }

    // Records of this content, or of a leading part of it, are where they were. What the first releases have rejected
    // says nothing of the content: it counts where nothing else of the file was taken.
    void select_rejected(const RejectedRecords::Records& records, const Entry& found, std::string_view content,
                         Selection& out) {
        std::set<std::uint64_t> wanted;
        for (const auto& record : records) {
            wanted.insert(record.content.value_or(found.content));
        }
        std::set<std::uint64_t> valid{found.content};
        find_taken_part(content, [&](std::uint64_t part) {
            if (wanted.contains(part)) {
                valid.insert(part);
            }
            return false;
        });
        const bool nothing_taken = (found.flags & Entry::kRejected) != 0;
        for (const auto& record : records) {
            if (record.content ? valid.contains(*record.content) : nothing_taken) {
                out.again.push_back(record.offset);
            }
        }
        std::sort(out.again.begin(), out.again.end());
        out.all = nothing_taken && !out.again.empty();
    }

    void read_records(const Fetched& fetched, std::string_view content, const Selection& selection) {
        bool any_bad = false;
        bool last_is_bad = false;
        std::uint64_t last = 0;
        std::uint64_t looked_at = 0;
        if (selection.all) {
            file().retried = selection.again;  // whether they are good now or are rejected once more
        }
        each_record(file().key, content, [&](std::string_view text, std::uint64_t offset) {
            if (!selection.has(offset)) {
                return;
            }
            if (bad_ > kPieceBad || offset - looked_at > kPieceBytes / 8) {
                looked_at = offset;
                if (is_full()) {
                    hand_over_part(fetched);
                }
            }
            ++file().records;
            const auto& problems = reader_.read(text, &piece_.columns);
            last = offset;
            last_is_bad = !problems.empty();
            if (problems.empty()) {
                ++file().entry.rows;
                file().drifted += reader_.drifted();
                if (!selection.all && offset < selection.begin) {
                    file().retried.push_back(offset);
                }
            } else {
                refuse(offset, problems);
                any_bad = true;
            }
        });
        auto& entry = file().entry;
        entry.flags = entry.rows == 0 && any_bad ? Entry::kRejected : 0U;
        if (!holds_lines(file().key, content)) {
            return;
        }
        entry.flags |= Entry::kLines;
        // Somebody is perhaps still writing the last line: it comes in once it has an end.
        const auto whole = whole_lines(content);
        const bool packed = content.data() != fetched.bytes.data();
        if (last_is_bad && !packed && whole.end > 0 && last >= whole.end) {
            entry.flags |= Entry::kOpenEnd;
            entry.content = whole.content;
        }
    }

    void refuse(std::uint64_t offset, const std::vector<schema::Problem>& problems) {
        file().bad.push_back({offset, problems});
        ++bad_;
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
    std::size_t bad_ = 0;       // records of the piece
    std::size_t finished_ = 0;  // files that are not in done_ yet
    std::string buffer_;
};

}  // namespace

Status unpacked(std::string_view key, std::string_view bytes, std::size_t limit, const Unpack& unpack,
                std::string& buffer, std::string_view& out) {
    if (bytes.size() > limit) {
        return {ErrorCode::message_too_large, "larger than the limit"};
    }
    if (schema::without_packing(key).size() == key.size()) {
        out = bytes;
        return {};
    }
    if (!unpack) {
        return {ErrorCode::invalid_record, "packed files are not supported here"};
    }
    HG_RETURN_IF_ERROR(unpack(key, bytes, limit, buffer));
    out = buffer;
    return {};
}

void each_record(std::string_view key, std::string_view content,
                 const std::function<void(std::string_view, std::uint64_t)>& each) {
    if (!schema::without_packing(key).ends_with(".jsonl")) {
        each(content, 0);
        return;
    }
    for (std::size_t at = 0; at < content.size();) {
        const auto end = std::min(content.find('\n', at), content.size());
        const auto line = content.substr(at, end - at);
        if (!trim_blanks(line).empty()) {
            each(line, at);
        }
        at = end + 1;
    }
}

unsigned reading_threads(unsigned wanted, const Source& source) {
    const auto threads = wanted != 0 ? wanted : source.threads();
    return threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
}

Status read_files(const Options& options, ReadingList& list, const Known& known, const Environment& environment,
                  const std::function<Status(Piece&)>& take, const History* history) {
    Exchange exchange;
    std::atomic<std::size_t> done{0};
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    for (std::size_t i = list.readers(); i > 0; --i) {
        threads.emplace_back([&] {
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
    for (auto& thread : threads) {
        thread.join();
    }
    if (status.ok()) {
        progress();
    }
    return status;
}

}  // namespace headgate::checkpoint
