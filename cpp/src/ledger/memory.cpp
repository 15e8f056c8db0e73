#include <algorithm>
#include <map>
#include <mutex>

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
        const std::lock_guard lock(mutex_);
        std::vector<Claim> claims;
        claims.reserve(requests.size());
        for (const auto& request : requests) {
            claims.push_back(claim_one(request));
        }
        return claims;
    }

    Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) override {
        const std::lock_guard lock(mutex_);
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

    Status release(const Claim& claim, const std::string& error) override {
        const std::lock_guard lock(mutex_);
        if (!owned(claim) && !is(claim, State::released)) {
            return stale_lease(claim.key);
        }
        auto& entry = entries_[claim.key];
        entry.state = State::released;
        entry.until_us = 0;
        entry.last_error = error;
        return {};
    }

    Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) override {
        const std::lock_guard lock(mutex_);
        if (!owned(claim)) {
            return stale_lease(claim.key);
        }
        return entries_[claim.key].until_us = clock_->now_us() + lease_us;
    }

    Result<std::int64_t> prune() override {
        const std::lock_guard lock(mutex_);
        const auto now = clock_->now_us();
        return static_cast<std::int64_t>(std::erase_if(entries_, [now](const auto& item) {
            return item.second.state == State::done && item.second.expires_us <= now;
        }));
    }

private:
    bool is(const Claim& claim, State state) const {
        const auto found = entries_.find(claim.key);
        return found != entries_.end() && found->second.state == state && !claim.token.empty() &&
               found->second.token == claim.token;
    }
    bool owned(const Claim& claim) const { return is(claim, State::open); }

    Claim claim_one(const ClaimRequest& request) {
        const auto now = clock_->now_us();
        auto& entry = entries_[request.key];
        if (entry.state == State::done && entry.expires_us <= now) {
            entry = Entry{};
        }
        Claim claim;
        claim.key = request.key;
        if (entry.attempts > 0 && !entry.payload.empty() && !request.payload.empty() &&
            entry.payload != request.payload) {
            claim.error = payload_mismatch(request.key);
        } else if (entry.state == State::done) {
            claim.status = ClaimStatus::done;
            claim.result = entry.result;
        } else if (entry.until_us <= now) {
            entry.state = State::open;
            entry.token = random_->token_hex();
            entry.until_us = now + request.lease_us;
            entry.payload = request.payload;
            ++entry.attempts;
            claim.status = ClaimStatus::acquired;
            claim.token = entry.token;
        }
        claim.until_us = entry.until_us;
        claim.attempts = entry.attempts;
        claim.last_error = entry.last_error;
        return claim;
    }

    LedgerOptions options_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    std::mutex mutex_;
    std::map<std::string, Entry> entries_;
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

// Keys may hold personal ids, so the messages name none; the exception carries the key as an attribute.
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
