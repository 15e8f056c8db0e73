#include "file_selection.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <set>

#include "headgate/base/limit.hpp"
#include "headgate/base/mutex.hpp"
#include "headgate/base/text.hpp"
#include "headgate/base/threads.hpp"
#include "listed_batches.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kMostThreads = 4;  // a file system does not gain from more
constexpr std::size_t kKeysPerPoll = limit(256, 2);
constexpr std::size_t kKeysPerHandOver = limit(100, 2);
constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr std::size_t kKeysAhead = limit(32, 2);  // whose ledger entries are fetched from memory together

}  // namespace

class FileSelection::Impl {
public:
    Impl(const Options& options, const Environment& environment, const Window& window, LedgerView& ledger,
         bool in_order, ReadingList& out)
        : options_(options),
          env_(environment),
          window_(window),
          source_(*environment.source),
          ledger_(ledger),
          out_(out),
          settle_(source_.writes_are_atomic() ? 0 : options.settle_us),
          threads_(std::clamp<std::size_t>(reading_threads(0, source_), 1, kMostThreads)),
          workers_(threads_, [this](ListedBatch& batch, bool listing) { decide(batch, listing); }) {
        SystemClock real;  // file times are the machine's, whatever clock the pipeline runs on
        now_ = real.now_us();
        prefixes_ = window.on ? options.schema->listing_prefixes : std::vector<std::string>{""};
        std::sort(prefixes_.begin(), prefixes_.end());
        const auto nested = [](const auto& a, const auto& b) { return b.starts_with(a); };
        in_order_ = in_order && source_.lists_in_order() &&
                    std::adjacent_find(prefixes_.begin(), prefixes_.end(), nested) == prefixes_.end();
    }
    ~Impl() { stopped_ = true; }
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    Status begin() {
        if (!in_order_) {
            auto status = select_from_all();
            note_listed();
            return status;
        }
        listing_.start([this] {
            status_ = select_in_order();
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
        summary.known += count(Decision::known);
        summary.deferred += count(Decision::deferred);
        summary.vanished += count(Decision::vanished);
        summary.ignored += count(Decision::ignored);
        return status_;
    }

    bool listing_was_out_of_order() const { return out_of_order_; }

    void retry(const RejectedRecords& records) { retried_ = &records; }
    bool most_known_are_unchanged() const { return unchanged_ > changed_; }

    bool wait_until_listed(const std::atomic<bool>& stop) const {
        const MutexLock lock(seen_mutex_);
        while (!is_listed_ && !stop) {
            listed_all_.wait_until(seen_mutex_, std::chrono::steady_clock::now() + kPoll);
        }
        return is_listed_;
    }

    bool has_unchanged(const KeyDigest& key) const {
        const MutexLock lock(seen_mutex_);
        return unchanged_lines_.contains(key);
    }

    std::optional<std::uint64_t> tag_ahead(const KeyDigest& key) const {
        const MutexLock lock(seen_mutex_);
        const auto found = ahead_.find(key);
        return found == ahead_.end() ? std::nullopt : std::optional(found->second);
    }

private:
    void note_listed() {
        const MutexLock lock(seen_mutex_);
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

    Status select_from_all() {
        Status trouble;
        HG_RETURN_IF_ERROR(list(env_.interrupt, [&](const Object& object) {
            if (trouble.ok()) {
                trouble = ledger_.reach(object.key);
                workers_.add(object);
            }
        }));
        HG_RETURN_IF_ERROR(trouble);
        HG_RETURN_IF_ERROR(ledger_.ready());
        std::vector<KeyList> taken;
        auto& decided = workers_.finish();
        if (stopped_) {
            return {ErrorCode::interrupted, "interrupted while listing " + source_.name()};
        }
        for (auto& batch : decided) {
            for (std::size_t i = 0; i < counts_.size(); ++i) {
                counts_[i] += batch.counts[i];
            }
            taken.push_back(std::move(batch.keys));
        }
        out_.add(SortedKeys::merged(std::move(taken), threads_));
        out_.close();
        return {};
    }

    // Listings that are in order also hold sizes and times: files are decided about on the listing thread, as more
    // threads would not help.
    Status select_in_order() {
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
            auto looked_at = object;
            const auto decision = decide(looked_at, digest_key(object.key));
            ++counts_[static_cast<std::size_t>(decision)];
            if (decision == Decision::take) {
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
        out_of_order_ = key <= before;
        return out_of_order_ ? Status(ErrorCode::malformed_response, source_.name() + " is not listed in order")
                             : Status();
    }

    std::int64_t count(Decision decision) const { return counts_[static_cast<std::size_t>(decision)]; }

    void decide(ListedBatch& batch, bool listing) {
        if (!ledger_.ready().ok()) {
            return;  // select_from_all() says so
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
            const auto decision = decide(object, digests[i % kKeysAhead]);
            ++batch.counts[static_cast<std::size_t>(decision)];
            if (decision == Decision::take) {
                taken.push_back(object.key);
            }
        }
        // Sorted before copying, so that the merge reads memory sequentially.
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

    Decision decide(Object& object, const KeyDigest& digest) {
        if (object.is_outside) {
            return Decision::take;  // to be refused by name
        }
        const Entry* known = ledger_.empty() ? nullptr : ledger_.find(object.key, digest);
        // A known name was accepted when it was taken.
        if (belongs_to_target(object.key, options_.target_key) ||
            (known == nullptr && !options_.schema->accepts_name(object.key))) {
            return Decision::ignored;
        }
        if (!object.looked_at && (known != nullptr || settle_ > 0) && !source_.look_at(object)) {
            return Decision::vanished;
        }
        if (known != nullptr) {
            ++(known->tag == object.tag ? unchanged_ : changed_);
        }
        if (known != nullptr && known->tag == object.tag) {
            if ((known->flags & Entry::kLines) != 0) {
                const MutexLock lock(seen_mutex_);
                unchanged_lines_.insert(digest);
            }
            const bool again = options_.rescan || (retried_ != nullptr && retried_->find(digest) != nullptr);
            if (!again) {
                return Decision::known;
            }
        }
        if (settle_ > 0 && object.modified_us > now_ + settle_ &&
            object.modified_us > SystemClock().now_us() + settle_) {
            // A time ahead of the clock says nothing about being young: whoever reads the file compares its tag.
            const MutexLock lock(seen_mutex_);
            ahead_[digest_key(object.key)] = object.tag;
            return Decision::take;
        }
        return settle_ > 0 && object.modified_us > now_ - settle_ ? Decision::deferred : Decision::take;
    }

    const Options& options_;
    const Environment& env_;
    const Window window_;
    Source& source_;
    LedgerView& ledger_;
    ReadingList& out_;
    std::vector<std::string> prefixes_;  // sorted
    bool in_order_ = false;
    bool out_of_order_ = false;
    std::int64_t settle_;
    std::int64_t now_ = 0;
    std::size_t threads_;
    std::int64_t listed_ = 0;
    DecisionCounts counts_{};
    std::atomic<bool> stopped_{false};
    const RejectedRecords* retried_ = nullptr;
    std::atomic<std::int64_t> unchanged_{0};  // known files
    std::atomic<std::int64_t> changed_{0};    // files of known names
    mutable Mutex seen_mutex_;
    mutable ConditionVariable listed_all_;
    bool is_listed_ HG_GUARDED_BY(seen_mutex_) = false;
    std::set<KeyDigest> unchanged_lines_ HG_GUARDED_BY(seen_mutex_);
    std::map<KeyDigest, std::uint64_t> ahead_ HG_GUARDED_BY(seen_mutex_);  // the tags of files of the future
    Status status_;
    BatchWorkers workers_;     // its threads use the rest
    Threads listing_{[this] {  // last: it uses the rest
        stopped_ = true;
        out_.cancel();  // nobody waits for more files
        note_listed();
    }};
};

FileSelection::FileSelection(const Options& options, const Environment& environment, const Window& window,
                             LedgerView& ledger, bool in_order, ReadingList& out)
    : impl_(std::make_unique<Impl>(options, environment, window, ledger, in_order, out)) {}

FileSelection::~FileSelection() = default;

Status FileSelection::begin() {
    return impl_->begin();
}

Status FileSelection::finish(Summary& summary) {
    return impl_->finish(summary);
}

bool FileSelection::most_known_are_unchanged() const {
    return impl_->most_known_are_unchanged();
}

void FileSelection::retry(const RejectedRecords& records) {
    impl_->retry(records);
}

bool FileSelection::wait_until_listed(const std::atomic<bool>& stop) const {
    return impl_->wait_until_listed(stop);
}

bool FileSelection::has_unchanged(const KeyDigest& key) const {
    return impl_->has_unchanged(key);
}

std::optional<std::uint64_t> FileSelection::tag_ahead(const KeyDigest& key) const {
    return impl_->tag_ahead(key);
}

bool FileSelection::listing_was_out_of_order() const {
    return impl_->listing_was_out_of_order();
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
