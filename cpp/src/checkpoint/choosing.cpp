#include "choosing.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "headgate/base/limit.hpp"
#include "headgate/base/text.hpp"
#include "headgate/base/threads.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kMostThreads = 4;  // a file system does not gain from more
constexpr std::size_t kKeysPerBatch = limit(4'096, 3);
constexpr std::size_t kMostWaiting = limit(16, 2);  // batches
constexpr std::size_t kKeysPerPoll = limit(256, 2);
constexpr std::size_t kKeysPerHandOver = limit(100, 2);
constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr std::size_t kKeysAhead = limit(32, 2);  // whose ledger entries are fetched from memory together

enum class Verdict : std::uint8_t { take, known, deferred, vanished, ignored };

using Counts = std::array<std::int64_t, 5>;

// Listed objects; once they are judged, the sorted keys of those to take.
struct Batch {
    KeyList keys;
    std::vector<Object> objects;  // of a listing that says more than names
    Object object(std::size_t i) const {
        auto out = i < objects.size() ? objects[i] : Object();
        out.key = keys[i];
        return out;
    }
    Counts verdicts{};  // how many of each
};

// Judging what was listed (for a known file in a folder that is asking for its size and time) takes longer than
// listing: other threads do it meanwhile. The listing one helps when they fall behind, and when it has listed
// everything.
class Judges {
public:
    // The second argument of `judge`: whether it is called by the listing thread.
    Judges(std::size_t threads, std::function<void(Batch&, bool)> judge)
        : others_(threads - 1), judge_(std::move(judge)) {}
    ~Judges() { close(); }
    Judges(const Judges&) = delete;
    Judges& operator=(const Judges&) = delete;

    void add(const Object& object) {
        if (batches_.empty() || batches_.back().keys.size() == kKeysPerBatch) {
            publish();
            const std::lock_guard lock(mutex_);
            batches_.emplace_back();
        }
        auto& batch = batches_.back();
        batch.keys.add(object.key);
        if (object.looked_at) {
            batch.objects.resize(batch.keys.size() - 1);
            batch.objects.push_back(object);
        }
    }

    std::deque<Batch>& finish() {
        publish();
        work(0);
        join();
        return batches_;
    }

private:
    // The last batch is full, or nothing comes any more.
    void publish() {
        {
            const std::lock_guard lock(mutex_);
            ready_ = batches_.size();
        }
        changed_.notify_one();
        if (ready_ > 0 && threads_.size() < others_) {
            threads_.start([this] { stay(); });
        }
        work(kMostWaiting);
    }

    // Takes batches until only so many are waiting.
    void work(std::size_t waiting) {
        std::unique_lock lock(mutex_);
        while (ready_ - next_ > waiting) {
            take(lock, true);
        }
    }

    void stay() {
        std::unique_lock lock(mutex_);
        while (!closed_) {
            if (next_ < ready_) {
                take(lock, false);
            } else {
                // wait_until, not wait: the latter needs a newer libstdc++ than Lambda's.
                changed_.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
            }
        }
    }

    void take(std::unique_lock<std::mutex>& lock, bool listing) {
        auto& batch = batches_[next_++];
        lock.unlock();
        judge_(batch, listing);
        lock.lock();
    }

    // Nothing is added any more, or a judge has thrown.
    void close() {
        const std::lock_guard lock(mutex_);
        closed_ = true;
        changed_.notify_all();
    }

    void join() {
        close();
        threads_.join();
    }

    std::size_t others_;
    std::function<void(Batch&, bool)> judge_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Batch> batches_;  // whose elements stay where they are
    std::size_t ready_ = 0;      // of them may be judged
    std::size_t next_ = 0;
    bool closed_ = false;
    Threads threads_{[this] { close(); }};  // last: they use the rest
};

}  // namespace

class Choosing::Chooser {
public:
    Chooser(const Options& options, const Environment& environment, const Window& window, LedgerView& ledger,
            bool in_order, ReadingList& out)
        : options_(options),
          env_(environment),
          window_(window),
          source_(*environment.source),
          ledger_(ledger),
          out_(out),
          settle_(source_.writes_are_atomic() ? 0 : options.settle_us),
          threads_(std::clamp<std::size_t>(reading_threads(0, source_), 1, kMostThreads)),
          judges_(threads_, [this](Batch& batch, bool listing) { judge(batch, listing); }) {
        SystemClock real;  // file times are the machine's, whatever clock the pipeline runs on
        now_ = real.now_us();
        prefixes_ = window.on ? options.schema->listing_prefixes : std::vector<std::string>{""};
        std::sort(prefixes_.begin(), prefixes_.end());
        const auto nested = [](const auto& a, const auto& b) { return b.starts_with(a); };
        in_order_ = in_order && source_.lists_in_order() &&
                    std::adjacent_find(prefixes_.begin(), prefixes_.end(), nested) == prefixes_.end();
    }
    ~Chooser() { stopped_ = true; }
    Chooser(const Chooser&) = delete;
    Chooser& operator=(const Chooser&) = delete;

    Status begin() {
        if (!in_order_) {
            auto status = choose_from_all();
            note_listed();
            return status;
        }
        listing_.start([this] {
            status_ = choose_in_order();
            if (status_.ok()) {
                out_.close();
            } else {
                out_.cancel();
            }
            note_listed();
        });
        return {};
    }

    Status finish(Summary& summary) {
        listing_.join();
        summary.listed += listed_;
        summary.known += count(Verdict::known);
        summary.deferred += count(Verdict::deferred);
        summary.vanished += count(Verdict::vanished);
        summary.ignored += count(Verdict::ignored);
        return status_;
    }

    bool was_deceived() const { return deceived_; }

    void retry(const RejectedRecords& records) { retried_ = &records; }
    bool most_known_are_unchanged() const { return unchanged_ > changed_; }

    bool wait_until_listed(const std::atomic<bool>& stop) const {
        std::unique_lock lock(seen_mutex_);
        while (!is_listed_ && !stop) {
            // wait_until, not wait: the latter needs a newer libstdc++ than Lambda's.
            listed_all_.wait_until(lock, std::chrono::steady_clock::now() + kPoll);
        }
        return is_listed_;
    }

    bool has_unchanged(const KeyDigest& key) const {
        const std::lock_guard lock(seen_mutex_);
        return unchanged_lines_.contains(key);
    }

    std::optional<std::uint64_t> tag_ahead(const KeyDigest& key) const {
        const std::lock_guard lock(seen_mutex_);
        const auto found = ahead_.find(key);
        return found == ahead_.end() ? std::nullopt : std::optional(found->second);
    }

private:
    void note_listed() {
        const std::lock_guard lock(seen_mutex_);
        is_listed_ = true;
        listed_all_.notify_all();
    }

    Status list(const Interrupt& interrupt, const std::function<void(const Object&)>& each) {
        for (std::size_t i = 0; i < prefixes_.size(); ++i) {
            HG_RETURN_IF_ERROR(source_.list({prefixes_[i], after(i)}, interrupt, [&](const Object& object) {
                // Of prefixes that begin with each other, the first that lists a name does.
                for (std::size_t j = 0; j < i; ++j) {
                    if (object.key.starts_with(prefixes_[j]) && object.key > after(j)) {
                        return;
                    }
                }
                ++listed_;
                each(object);
            }));
        }
        return {};
    }

    std::string after(std::size_t prefix) const { return window_.on ? prefixes_[prefix] + window_.stamp : ""; }

    Status choose_from_all() {
        Status trouble;
        HG_RETURN_IF_ERROR(list(env_.interrupt, [&](const Object& object) {
            if (trouble.ok()) {
                trouble = ledger_.reach(object.key);
                judges_.add(object);
            }
        }));
        HG_RETURN_IF_ERROR(trouble);
        HG_RETURN_IF_ERROR(ledger_.ready());
        std::vector<KeyList> taken;
        auto& judged = judges_.finish();
        if (stopped_) {
            return {ErrorCode::interrupted, "interrupted while listing " + source_.name()};
        }
        for (auto& batch : judged) {
            for (std::size_t i = 0; i < verdicts_.size(); ++i) {
                verdicts_[i] += batch.verdicts[i];
            }
            taken.push_back(std::move(batch.keys));
        }
        out_.add(SortedKeys::merged(std::move(taken), threads_));
        out_.close();
        return {};
    }

    // Judging what a listing said everything of costs nothing beside the listing.
    Status choose_in_order() {
        Status trouble;
        std::string last;
        KeyList taken;
        const auto hand_over = [&] {
            out_.add(taken);
            taken = {};
        };
        const auto stop = [&] { return stopped_ || !trouble.ok(); };
        const auto listed = list(stop, [&](const Object& object) {
            if (!trouble.ok()) {
                return;
            }
            trouble = listed_ == 1 ? ledger_.ready() : in_order_after(last, object.key);
            if (trouble.ok()) {
                trouble = ledger_.reach(object.key);
            }
            last = object.key;
            auto judged = object;
            const auto verdict = judge(judged, digest_key(object.key));
            ++verdicts_[static_cast<std::size_t>(verdict)];
            if (verdict == Verdict::take) {
                taken.add(object.key);
            }
            if (taken.size() == kKeysPerHandOver) {
                hand_over();
            }
        });
        HG_RETURN_IF_ERROR(trouble);
        HG_RETURN_IF_ERROR(listed);
        hand_over();
        return ledger_.ready();
    }

    Status in_order_after(std::string_view before, std::string_view key) {
        deceived_ = key <= before;
        return deceived_ ? Status(ErrorCode::malformed_response, source_.name() + " is not listed in order") : Status();
    }

    std::int64_t count(Verdict verdict) const { return verdicts_[static_cast<std::size_t>(verdict)]; }

    void judge(Batch& batch, bool listing) {
        if (!ledger_.ready().ok()) {
            return;  // choose_from_all() says so
        }
        std::vector<std::string_view> taken;
        std::array<KeyDigest, kKeysAhead> digests;
        for (std::size_t i = 0; i < batch.keys.size(); ++i) {
            if (i % kKeysAhead == 0 && !ledger_.empty()) {
                digest(batch.keys, i, digests);
            }
            // A look may be a round trip to a file server.
            if (listing && (i + 1) % kKeysPerPoll == 0 && env_.interrupt && env_.interrupt()) {
                stopped_ = true;
            }
            if (stopped_) {
                return;
            }
            auto object = batch.object(i);
            const auto verdict = judge(object, digests[i % kKeysAhead]);
            ++batch.verdicts[static_cast<std::size_t>(verdict)];
            if (verdict == Verdict::take) {
                taken.push_back(object.key);
            }
        }
        // In their order in memory too: they are merged with others, and memory likes to be read on.
        std::sort(taken.begin(), taken.end());
        KeyList keys;
        for (const auto& key : taken) {
            keys.add(key);
        }
        batch.keys = std::move(keys);
        batch.objects = std::vector<Object>();  // `= {}` would keep its room
    }

    void digest(const KeyList& keys, std::size_t from, std::array<KeyDigest, kKeysAhead>& out) const {
        for (std::size_t i = 0; i < std::min(keys.size() - from, out.size()); ++i) {
            out[i] = digest_key(keys[from + i]);
            ledger_.expect(out[i]);
        }
    }

    Verdict judge(Object& object, const KeyDigest& digest) {
        if (object.is_outside) {
            return Verdict::take;  // to be refused by name
        }
        const Entry* known = ledger_.empty() ? nullptr : ledger_.find(object.key, digest);
        // A known name was judged when it was taken.
        if (belongs_to_target(object.key, options_.target_key) ||
            (known == nullptr && !options_.schema->accepts_name(object.key))) {
            return Verdict::ignored;
        }
        if (!object.looked_at && (known != nullptr || settle_ > 0) && !source_.look_at(object)) {
            return Verdict::vanished;
        }
        if (known != nullptr) {
            ++(known->tag == object.tag ? unchanged_ : changed_);
        }
        if (known != nullptr && known->tag == object.tag) {
            if ((known->flags & Entry::kLines) != 0) {
                const std::lock_guard lock(seen_mutex_);
                unchanged_lines_.insert(digest);
            }
            const bool again = options_.rescan || (retried_ != nullptr && retried_->find(digest) != nullptr);
            if (!again) {
                return Verdict::known;
            }
        }
        if (settle_ > 0 && object.modified_us > now_ + settle_ &&
            object.modified_us > SystemClock().now_us() + settle_) {
            // A time ahead of the clock says nothing about being young: whoever reads the file compares its tag.
            const std::lock_guard lock(seen_mutex_);
            ahead_[digest_key(object.key)] = object.tag;
            return Verdict::take;
        }
        return settle_ > 0 && object.modified_us > now_ - settle_ ? Verdict::deferred : Verdict::take;
    }

    const Options& options_;
    const Environment& env_;
    const Window window_;
    Source& source_;
    LedgerView& ledger_;
    ReadingList& out_;
    std::vector<std::string> prefixes_;  // sorted
    bool in_order_ = false;
    bool deceived_ = false;
    std::int64_t settle_;
    std::int64_t now_ = 0;
    std::size_t threads_;
    std::int64_t listed_ = 0;
    Counts verdicts_{};
    std::atomic<bool> stopped_{false};
    const RejectedRecords* retried_ = nullptr;
    std::atomic<std::int64_t> unchanged_{0};  // known files
    std::atomic<std::int64_t> changed_{0};    // files of known names
    mutable std::mutex seen_mutex_;
    mutable std::condition_variable listed_all_;
    bool is_listed_ = false;
    std::set<KeyDigest> unchanged_lines_;
    std::map<KeyDigest, std::uint64_t> ahead_;  // files of the future, and their tags
    Status status_;
    Judges judges_;            // its threads use the rest
    Threads listing_{[this] {  // last: it uses the rest
        stopped_ = true;
        out_.cancel();  // nobody waits for more files
        note_listed();
    }};
};

Choosing::Choosing(const Options& options, const Environment& environment, const Window& window, LedgerView& ledger,
                   bool in_order, ReadingList& out)
    : chooser_(std::make_unique<Chooser>(options, environment, window, ledger, in_order, out)) {}

Choosing::~Choosing() = default;

Status Choosing::begin() {
    return chooser_->begin();
}

Status Choosing::finish(Summary& summary) {
    return chooser_->finish(summary);
}

bool Choosing::most_known_are_unchanged() const {
    return chooser_->most_known_are_unchanged();
}

void Choosing::retry(const RejectedRecords& records) {
    chooser_->retry(records);
}

bool Choosing::wait_until_listed(const std::atomic<bool>& stop) const {
    return chooser_->wait_until_listed(stop);
}

bool Choosing::has_unchanged(const KeyDigest& key) const {
    return chooser_->has_unchanged(key);
}

std::optional<std::uint64_t> Choosing::tag_ahead(const KeyDigest& key) const {
    return chooser_->tag_ahead(key);
}

bool Choosing::was_deceived() const {
    return chooser_->was_deceived();
}

bool belongs_to_target(std::string_view key, std::string_view target) {
    if (target.empty() || !key.starts_with(target)) {
        return false;
    }
    const auto rest = key.substr(target.size());
    return rest.empty() || rest.front() == '/' || rest == ".lock" || rest.starts_with(".ledger/") ||
           rest.starts_with(".tmp-");
}

std::string compact_stamp(std::int64_t us) {
    const auto text = format_timestamp(us - ((us % 1'000'000) + 1'000'000) % 1'000'000);
    std::string out;
    for (const char c : text) {
        if (c == 'T') {
            out += '-';
        } else if (c >= '0' && c <= '9') {
            out += c;
        }
    }
    return out;
}

}  // namespace headgate::checkpoint
