#include <algorithm>
#include <atomic>
#include <map>

#include "headgate/base/mutex.hpp"
#include "headgate/ledger/ledger.hpp"

namespace headgate::ledger {
namespace {

enum class State : std::uint8_t { open, released, done };

struct Entry {
    State state = State::released;
    std::string token;
    std::int64_t until_us = 0;
    int attempts = 0;
    std::string payload;
    std::string result;
    std::string last_error;
    std::int64_t expires_us = 0;
};

class MemoryLedger final : public Ledger {
public:
    MemoryLedger(LedgerOptions options, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random)
        : options_(options), clock_(std::move(clock)), random_(std::move(random)) {}

    Result<std::vector<Claim>> claim(const std::vector<ClaimRequest>& requests) override {
        HG_RETURN_IF_ERROR(use());
        const MutexLock lock(mutex_);
        std::vector<Claim> claims;
        claims.reserve(requests.size());
        for (const auto& request : requests) {
            claims.push_back(claim_one(request));
        }
        return claims;
    }

    Result<Claim> claim_pair(const ClaimRequest& request, const std::string& legacy_key) override {
        HG_RETURN_IF_ERROR(use());
        const MutexLock lock(mutex_);
        auto legacy_request = request;
        legacy_request.key = legacy_key;
        const auto seen = answer(request);
        const auto legacy_seen = answer(legacy_request);
        if (seen.status != ClaimStatus::acquired || legacy_seen.status != ClaimStatus::acquired) {
            return deciding(seen, legacy_seen);
        }
        const auto legacy = claim_one(legacy_request);
        auto claim = claim_one(request);
        join_pair(claim, legacy);
        return claim;
    }

    Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) override {
        HG_RETURN_IF_ERROR(use());
        const MutexLock lock(mutex_);
        for (const auto& claim : claims) {
            if (!owned(claim) && !is(claim, State::done)) {
                return stale_lease(claim.key);
            }
        }
        for (std::size_t i = 0; i < claims.size(); ++i) {
            auto& entry = entries_[claims[i].key];
            if (entry.state == State::done) {
                continue;
            }
            entry.state = State::done;
            entry.result = results[i];
            entry.expires_us = clock_->now_us() + options_.done_ttl_us;
        }
        return {};
    }

    Status release(const Claim& claim, const std::string& error, bool counted) override {
        HG_RETURN_IF_ERROR(use());
        const MutexLock lock(mutex_);
        if (!owned(claim) && !is(claim, State::released)) {
            return stale_lease(claim.key);
        }
        auto& entry = entries_[claim.key];
        if (!counted && entry.state == State::open) {
            --entry.attempts;
        }
        entry.state = State::released;
        entry.until_us = 0;
        if (counted || !error.empty()) {
            entry.last_error = error;
        }
        return {};
    }

    Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) override {
        HG_RETURN_IF_ERROR(use());
        const MutexLock lock(mutex_);
        if (!owned(claim)) {
            return stale_lease(claim.key);
        }
        return entries_[claim.key].until_us = clock_->now_us() + lease_us;
    }

    Result<std::int64_t> prune() override {
        HG_RETURN_IF_ERROR(use());
        const MutexLock lock(mutex_);
        const auto now = clock_->now_us();
        return static_cast<std::int64_t>(std::erase_if(entries_, [now](const auto& item) {
            return item.second.state == State::done && item.second.expires_us <= now;
        }));
    }

private:
    // A child of fork() has a copy of the ledger. It may use one that was not used yet; otherwise the copy would miss
    // what the parent writes after the fork, and a thread that the child does not have might hold the mutex.
    Status use() {
        auto mine = generation_.load();
        const auto now = fork_generation();
        while (mine != now) {
            if (mine != 0) {
                return {ErrorCode::forked,
                        "a memory:// ledger was in use before fork(): its claims hold in one process only; share a "
                        "sqlite:// or redis:// ledger, or open it in the child"};
            }
            if (generation_.compare_exchange_weak(mine, now)) {
                break;
            }
        }
        return {};
    }
    bool is(const Claim& claim, State state) const HG_REQUIRES(mutex_) {
        const auto found = entries_.find(claim.key);
        return found != entries_.end() && found->second.state == state && !claim.token.empty() &&
               found->second.token == claim.token;
    }
    bool owned(const Claim& claim) const HG_REQUIRES(mutex_) { return is(claim, State::open); }

    // Returns the answer that a claim of this key would get. Nothing is acquired; an expired entry of a completed key
    // is cleared.
    Claim answer(const ClaimRequest& request) HG_REQUIRES(mutex_) {
        const auto now = clock_->now_us();
        static const Entry kNew;
        Claim claim;
        claim.key = request.key;
        const auto found = entries_.find(request.key);
        if (found != entries_.end() && found->second.state == State::done && found->second.expires_us <= now) {
            found->second = Entry{};
        }
        const auto& entry = found != entries_.end() ? found->second : kNew;
        if (!entry.payload.empty() && !request.payload.empty() && entry.payload != request.payload) {
            claim.error = payload_mismatch(request.key);
        } else if (entry.state == State::done) {
            claim.status = ClaimStatus::done;
            claim.result = entry.result;
        } else if (entry.until_us <= now) {
            claim.status = ClaimStatus::acquired;
        }
        claim.until_us = entry.until_us;
        claim.attempts = entry.attempts;
        claim.last_error = entry.last_error;
        return claim;
    }

    Claim claim_one(const ClaimRequest& request) HG_REQUIRES(mutex_) {
        auto claim = answer(request);
        if (claim.status == ClaimStatus::acquired) {
            auto& entry = entries_[request.key];
            entry.state = State::open;
            entry.token = random_->token_hex();
            entry.until_us = clock_->now_us() + request.lease_us;
            entry.payload = request.payload;
            ++entry.attempts;
            claim.token = entry.token;
            claim.until_us = entry.until_us;
            claim.attempts = entry.attempts;
            claim.fence = options_.fence ? ++last_fence_ : 0;
        }
        return claim;
    }

    LedgerOptions options_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    Mutex mutex_;
    std::map<std::string, Entry> entries_ HG_GUARDED_BY(mutex_);
    std::int64_t last_fence_ HG_GUARDED_BY(mutex_) = 0;
    std::atomic<unsigned> generation_{0};  // fork_generation() at the first use; 0 before it
};

}  // namespace

std::string_view claim_status_name(ClaimStatus status) noexcept {
    switch (status) {
        case ClaimStatus::acquired:
            return "acquired";
        case ClaimStatus::done:
            return "done";
        default:
            return "in_progress";
    }
}

const Claim& deciding(const Claim& claim, const Claim& legacy) {
    if (!claim.error.ok() || !legacy.error.ok()) {
        return claim.error.ok() ? legacy : claim;
    }
    for (const auto status : {ClaimStatus::done, ClaimStatus::in_progress}) {
        if (claim.status == status) {
            return claim;
        }
        if (legacy.status == status) {
            return legacy;
        }
    }
    return claim;
}

void join_pair(Claim& claim, const Claim& legacy) {
    claim.legacy_token = legacy.token;
    claim.attempts = std::max(claim.attempts, legacy.attempts);
    if (claim.last_error.empty()) {
        claim.last_error = legacy.last_error;
    }
}

// The exceptions in Python have the key as an attribute.
Status stale_lease(const std::string&) {
    return {ErrorCode::stale_lease, "the lease was overtaken by another owner, or the key is already done"};
}

Status payload_mismatch(const std::string&) {
    return {ErrorCode::payload_mismatch, "this idempotency key was used before with another payload"};
}

std::shared_ptr<Ledger> make_memory_ledger(LedgerOptions options, std::shared_ptr<Clock> clock,
                                           std::shared_ptr<Random> random) {
    return std::make_shared<MemoryLedger>(options, std::move(clock), std::move(random));
}

}  // namespace headgate::ledger
