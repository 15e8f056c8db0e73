#include "choosing.hpp"

#include <algorithm>
#include <thread>

#include "headgate/base/text.hpp"

namespace headgate::checkpoint {
namespace {

constexpr std::size_t kMostLookers = 4;  // a file system does not gain from more
constexpr std::size_t kKeysPerLooker = 10'000;

enum class Verdict : std::uint8_t { take, known, deferred, vanished };

class Chooser {
public:
    Chooser(const Options& options, const Environment& environment, LedgerView& ledger, Summary& summary, KeyList& keys)
        : options_(options),
          env_(environment),
          source_(*environment.source),
          ledger_(ledger),
          summary_(summary),
          keys_(keys),
          settle_(source_.writes_are_atomic() ? 0 : options.settle_us) {
        SystemClock real;  // file times are the machine's, whatever clock the pipeline runs on
        now_ = real.now_us();
    }

    Status execute(const Window& window) {
        const auto each = [this](const Object& object) { note(object); };
        if (window.on) {
            for (const auto& prefix : options_.schema->listing_prefixes) {
                HG_RETURN_IF_ERROR(source_.list({prefix, prefix + window.stamp}, env_.interrupt, each));
            }
        } else {
            HG_RETURN_IF_ERROR(source_.list({}, env_.interrupt, each));
        }
        HG_RETURN_IF_ERROR(trouble_);
        look_at_pending();
        keys_.sort();
        return {};
    }

private:
    void note(const Object& object) {
        ++summary_.listed;
        if (!trouble_.ok()) {
            return;
        }
        const Entry* known = nullptr;
        if (!ledger_.empty()) {
            trouble_ = ledger_.reach(object.key);
            known = ledger_.find(object.key, digest_key(object.key));
        }
        // A known name was judged when it was taken.
        if (known == nullptr && !options_.schema->accepts_name(without_packing(base_name(object.key)))) {
            ++summary_.ignored;
        } else if (object.looked_at || (known == nullptr && settle_ == 0)) {
            settle(object.key, judge(object, known));
        } else {
            pending_.add(object.key);
            pending_known_.push_back(known);
        }
    }

    Verdict judge(const Object& object, const Entry* known) const {
        if (known != nullptr && known->tag == object.tag && !options_.rescan) {
            return Verdict::known;
        }
        return settle_ > 0 && object.modified_us > now_ - settle_ ? Verdict::deferred : Verdict::take;
    }

    void settle(std::string_view key, Verdict verdict) {
        switch (verdict) {
            case Verdict::take:
                keys_.add(key);
                break;
            case Verdict::known:
                ++summary_.known;
                break;
            case Verdict::deferred:
                ++summary_.deferred;
                break;
            case Verdict::vanished:
                ++summary_.vanished;
        }
    }

    // Asking for size and time of every known file is most of an incremental run: it is done on all cores.
    void look_at_pending() {
        std::vector<Verdict> verdicts(pending_.size());
        const auto work = [&](std::size_t begin, std::size_t end) {
            for (auto i = begin; i < end; ++i) {
                Object object;
                object.key = pending_[i];
                verdicts[i] = source_.look_at(object) ? judge(object, pending_known_[i]) : Verdict::vanished;
            }
        };
        const auto wanted = std::clamp<std::size_t>(pending_.size() / kKeysPerLooker, 1,
                                                    std::min<std::size_t>(kMostLookers, reading_threads(0, source_)));
        const auto share = (pending_.size() + wanted - 1) / wanted;
        std::vector<std::thread> threads;
        for (std::size_t t = 1; t < wanted; ++t) {
            threads.emplace_back(work, std::min(t * share, pending_.size()),
                                 std::min((t + 1) * share, pending_.size()));
        }
        work(0, std::min(share, pending_.size()));
        for (auto& thread : threads) {
            thread.join();
        }
        for (std::size_t i = 0; i < pending_.size(); ++i) {
            settle(pending_[i], verdicts[i]);
        }
    }

    const Options& options_;
    const Environment& env_;
    Source& source_;
    LedgerView& ledger_;
    Summary& summary_;
    KeyList& keys_;
    std::int64_t settle_;
    std::int64_t now_ = 0;
    KeyList pending_;
    std::vector<const Entry*> pending_known_;
    Status trouble_;
};

}  // namespace

Status choose(const Options& options, const Environment& environment, const Window& window, LedgerView& ledger,
              Summary& summary, KeyList& keys) {
    return Chooser(options, environment, ledger, summary, keys).execute(window);
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
