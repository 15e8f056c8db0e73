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
    // These compare the token and fail with stale_lease for an owner that was overtaken. Completing again what one
    // completed, and releasing again what one released, changes nothing and succeeds: an answer may have been lost.
    virtual Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) = 0;
    virtual Status release(const Claim& claim, const std::string& error) = 0;
    virtual Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) = 0;
    virtual Result<std::int64_t> prune() = 0;  // forgets done keys past their time to live; how many
    // What about the backend's set-up weakens the guarantees, one sentence each.
    virtual Result<std::vector<std::string>> warnings() { return std::vector<std::string>{}; }
};

// The version of the key scheme stands in storage keys only.
inline constexpr std::string_view kStoragePrefix = "v1:";

struct LedgerOptions {
    std::int64_t done_ttl_us = 14LL * 86'400 * 1'000'000;  // 14 days
};

std::shared_ptr<Ledger> make_memory_ledger(LedgerOptions options, std::shared_ptr<Clock> clock,
                                           std::shared_ptr<Random> random);

Status stale_lease(const std::string& key);
Status payload_mismatch(const std::string& key);

}  // namespace headgate::ledger
