// The idempotency ledger: who may run an effect, and what came of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/status.hpp"

namespace headgate::ledger {

enum class ClaimStatus : std::uint8_t { acquired, done, in_progress };
std::string_view claim_status_name(ClaimStatus status) noexcept;

struct Claim {
    std::string key;
    ClaimStatus status = ClaimStatus::in_progress;
    std::string token;          // acquired: what completing, renewing and releasing compare
    std::int64_t until_us = 0;  // acquired or in_progress: the end of the lease
    int attempts = 0;           // how often the key was acquired, this time included
    std::string result;         // done: what was stored
    std::string last_error;     // what the last release said
    Status error;               // payload_mismatch and the like, in a batch
    std::int64_t fence = 0;     // acquired, with LedgerOptions::fence: larger than of every earlier acquisition
    std::string legacy_token;   // acquired by claim_pair: the token of the legacy key
};

struct ClaimRequest {
    std::string key;
    std::int64_t lease_us = 300'000'000;
    std::string payload;  // optional digest; another payload under the same key is payload_mismatch
};

// Every method is safe to call from several threads and, for backends that persist, from several processes.
class Ledger {
public:
    virtual ~Ledger() = default;
    virtual Result<std::vector<Claim>> claim(const std::vector<ClaimRequest>& requests) = 0;
    // One key under two names, the second of them from before an upgrade: acquired only when both are free, and then
    // both are, in one step. Otherwise nothing is written, and the answer is that of the key that is not free.
    virtual Result<Claim> claim_pair(const ClaimRequest& request, const std::string& legacy_key) = 0;
    // These compare the token and fail with stale_lease for an owner that was overtaken. Completing again what one
    // completed, and releasing again what one released, changes nothing and succeeds: an answer may have been lost.
    virtual Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) = 0;
    // `counted` false gives the attempt back, once, however often the release is repeated; without an error text the
    // one from before then stays.
    virtual Status release(const Claim& claim, const std::string& error, bool counted) = 0;
    virtual Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) = 0;
    virtual Result<std::int64_t> prune() = 0;  // forgets done keys past their time to live; how many
    // What about the backend's set-up weakens the guarantees, one sentence each.
    virtual Result<std::vector<std::string>> warnings() { return std::vector<std::string>{}; }
};

// The version of the key scheme stands in storage keys only.
inline constexpr std::string_view kStoragePrefix = "v1:";

struct LedgerOptions {
    std::int64_t done_ttl_us = 14LL * 86'400 * 1'000'000;  // 14 days
    bool fence = false;                                    // give every acquisition a number that only grows
};

std::shared_ptr<Ledger> make_memory_ledger(LedgerOptions options, std::shared_ptr<Clock> clock,
                                           std::shared_ptr<Random> random);

// Of two keys' answers, neither or only one of which is free, the one that a claim of both gets.
const Claim& deciding(const Claim& claim, const Claim& legacy);
// What an owner of both keys is told: the attempts of the key that has more, the error of whichever has one.
void join_pair(Claim& claim, const Claim& legacy);

Status stale_lease(const std::string& key);
Status payload_mismatch(const std::string& key);

}  // namespace headgate::ledger
