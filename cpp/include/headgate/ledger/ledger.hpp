// The idempotency ledger: it remembers which keys were handled, by whom and with which result.
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

// The answer to a ClaimRequest.
//
//     acquired     The caller owns the key until `until_us`, and may run the effect.
//     done         The effect was completed before; `result` is what complete() stored.
//     in_progress  Somebody else owns the key until `until_us`.
struct Claim {
    std::string key;
    ClaimStatus status = ClaimStatus::in_progress;
    std::string token;          // acquired: identifies this acquisition; complete, renew and release compare it
    std::int64_t until_us = 0;  // acquired, in_progress: the end of the lease, as Clock::now_us()
    int attempts = 0;           // how often the key was acquired, including this time
    std::string result;         // done: what complete() stored
    std::string last_error;     // the error text of the last release()
    Status error;               // not ok if this request of a batch failed, for instance with payload_mismatch
    std::int64_t fence = 0;     // acquired, with LedgerOptions::fence: the fencing token, above all earlier ones
    std::string legacy_token;   // acquired by claim_pair(): the token of the legacy key
};

struct ClaimRequest {
    std::string key;
    std::int64_t lease_us = 300'000'000;
    std::string payload;  // digest of the payload, or empty; another digest under the same key is payload_mismatch
};

// The storage of claims. Every method may be called from several threads and, if the backend stores on disk or on a
// server, from several processes. Methods block while they talk to the backend; they return unavailable or busy if it
// cannot be reached in time, and forked in a child of a process that has used the ledger.
class Ledger {
public:
    virtual ~Ledger() = default;
    // Claims each of the keys, and returns one answer for each request, in the same order.
    virtual Result<std::vector<Claim>> claim(const std::vector<ClaimRequest>& requests) = 0;
    // Claims a key that had another form, `legacy_key`, before an upgrade. In one atomic step both keys are acquired if
    // both are free. Otherwise nothing is written, and the answer is that of the key that is not free.
    virtual Result<Claim> claim_pair(const ClaimRequest& request, const std::string& legacy_key) = 0;
    // Marks claims as done and stores their results, one for each. If the lease of one has ended and somebody else has
    // acquired it, nothing is written and the result is stale_lease. Completing a claim again that was completed with
    // the same token succeeds without a change, because the first response may have been lost.
    virtual Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) = 0;
    // Gives the key back, so that it can be acquired again at once. `error` is remembered as the claim's last_error. If
    // `counted` is false, the attempt is not counted, and an empty `error` keeps the previous text. Returns stale_lease
    // as complete() does; releasing again what was released with the same token succeeds without a change.
    virtual Status release(const Claim& claim, const std::string& error, bool counted) = 0;
    // Extends the lease to `lease_us` from now and returns its new end, or stale_lease.
    virtual Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) = 0;
    // Removes keys that were completed longer than LedgerOptions::done_ttl_us ago. Returns how many.
    virtual Result<std::int64_t> prune() = 0;
    // Settings of the backend that weaken the guarantees, one sentence for each.
    virtual Result<std::vector<std::string>> warnings() { return std::vector<std::string>{}; }
};

// Prefix of stored keys: the version of the key scheme. Keys in this interface do not have it.
inline constexpr std::string_view kStoragePrefix = "v1:";

struct LedgerOptions {
    std::int64_t done_ttl_us = 14LL * 86'400 * 1'000'000;  // how long completed keys are remembered: 14 days
    bool fence = false;                                    // give every acquisition a fencing token
};

// A ledger in the memory of this process, for tests and for programs of one process.
std::shared_ptr<Ledger> make_memory_ledger(LedgerOptions options, std::shared_ptr<Clock> clock,
                                           std::shared_ptr<Random> random);

// For implementations of claim_pair(). At least one of the two answers is not `acquired`; returns the one to give to
// the caller: an error before done, and done before in_progress.
const Claim& deciding(const Claim& claim, const Claim& legacy);
// Adds to `claim`, after both keys were acquired, what the caller should know of the legacy key: its token, its
// attempts if they are more, and its last error if `claim` has none.
void join_pair(Claim& claim, const Claim& legacy);

// The errors stale_lease and payload_mismatch. Their messages do not contain the key, which may hold personal ids.
Status stale_lease(const std::string& key);
Status payload_mismatch(const std::string& key);

}  // namespace headgate::ledger
