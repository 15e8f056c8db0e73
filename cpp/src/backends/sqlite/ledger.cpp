#include "statement.hpp"

namespace headgate::backends {
namespace {

using ledger::Claim;
using ledger::ClaimRequest;
using ledger::ClaimStatus;

constexpr std::int64_t kInProgress = 0;
constexpr std::int64_t kDone = 1;

// Most keys are new. They need one plain INSERT only, without the statement journal of the upsert below.
const std::string kInsert =
    "INSERT INTO ledger (key, state, token, owner, until_us, attempts, payload) VALUES (?1, 0, ?2, ?3, ?4, 1, ?5)"
    " ON CONFLICT (key) DO NOTHING";
// One statement decides and writes. A key is free if it is new, if its lease has ended, or if it was completed and has
// expired.
const std::string kAcquire = R"sql(
INSERT INTO ledger (key, state, token, owner, until_us, attempts, payload) VALUES (?1, 0, ?2, ?3, ?4, 1, ?5)
ON CONFLICT (key) DO UPDATE SET
    attempts = CASE WHEN state = 1 THEN 1 ELSE attempts + 1 END, state = 0, token = ?2, owner = ?3, until_us = ?4,
    payload = ?5, result = NULL, expires_us = NULL,
    last_error = CASE WHEN state = 1 THEN NULL ELSE last_error END
WHERE (state = 0 AND until_us <= ?6 AND (payload = '' OR ?5 = '' OR payload = ?5)) OR (state = 1 AND expires_us <= ?6)
RETURNING attempts, last_error)sql";
const std::string kRead =
    "SELECT state, until_us, attempts, payload, result, last_error, owner, expires_us FROM ledger WHERE key = ?1";
const std::string kExpire = "UPDATE ledger SET until_us = 0 WHERE key = ?1 AND state = 0 AND owner = ?2";
// A released key has until_us = 0. Its last owner may release it again, but not renew or complete it.
const std::string kComplete =
    "UPDATE ledger SET state = 1, result = ?3, expires_us = ?4 "
    "WHERE key = ?1 AND token = ?2 AND state = 0 AND until_us > 0";
const std::string kCompleted = "SELECT 1 FROM ledger WHERE key = ?1 AND token = ?2 AND state = 1";
// ?4 is 1 if the attempt is counted. Only the first release of a claim finds an end of the lease, so that repeated ones
// do not subtract the attempt again.
const std::string kRelease =
    "UPDATE ledger SET attempts = attempts - (until_us > 0 AND ?4 = 0), until_us = 0,"
    " last_error = CASE WHEN ?4 = 0 AND ?3 = '' THEN last_error ELSE ?3 END"
    " WHERE key = ?1 AND token = ?2 AND state = 0";
// The counter of fencing tokens. There is one for all keys, because it has to be kept longer than any key.
const std::string kFence =
    "INSERT INTO state (name, doc) VALUES ('ledger.fence', '1')"
    " ON CONFLICT (name) DO UPDATE SET doc = CAST(doc AS INTEGER) + 1 RETURNING CAST(doc AS INTEGER)";
const std::string kRenew =
    "UPDATE ledger SET until_us = ?3 WHERE key = ?1 AND token = ?2 AND state = 0 AND until_us > 0";

std::string text(const SqlValue& value) {
    const auto* found = std::get_if<std::string>(&value);
    return found != nullptr ? *found : std::string();
}

std::int64_t number(const SqlValue& value) {
    const auto* found = std::get_if<std::int64_t>(&value);
    return found != nullptr ? *found : 0;
}

class SqliteLedger final : public ledger::Ledger {
public:
    SqliteLedger(std::shared_ptr<Database> database, ledger::LedgerOptions options, std::shared_ptr<Clock> clock,
                 std::shared_ptr<Random> random)
        : db_(std::move(database)),
          options_(options),
          clock_(std::move(clock)),
          random_(std::move(random)),
          owner_(process_identity()),
          generation_(fork_generation()) {}

    Result<std::vector<Claim>> claim(const std::vector<ClaimRequest>& requests) override {
        std::vector<Claim> claims;
        claims.reserve(requests.size());
        const auto claim_each = [&]() -> Status {
            for (const auto& request : requests) {
                HG_ASSIGN(auto claim, claim_one(request));
                HG_RETURN_IF_ERROR(number_it(claim));
                claims.push_back(std::move(claim));
            }
            return {};
        };
        HG_RETURN_IF_ERROR(in_one_commit(requests.size() + (options_.fence ? 1 : 0), claim_each));
        return claims;
    }

    Result<Claim> claim_pair(const ClaimRequest& request, const std::string& legacy_key) override {
        auto legacy_request = request;
        legacy_request.key = legacy_key;
        Claim decided;
        HG_RETURN_IF_ERROR(in_one_commit(2, [&]() -> Status {
            HG_ASSIGN(const auto seen, look(request));
            HG_ASSIGN(const auto legacy_seen, look(legacy_request));
            if (seen.status != ClaimStatus::acquired || legacy_seen.status != ClaimStatus::acquired) {
                decided = ledger::deciding(seen, legacy_seen);
                return {};
            }
            HG_ASSIGN(const auto legacy, claim_one(legacy_request));
            HG_ASSIGN(decided, claim_one(request));
            ledger::join_pair(decided, legacy);
            return number_it(decided);
        }));
        return decided;
    }

    Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) override {
        const auto expires = clock_->now_us() + options_.done_ttl_us;
        return in_one_commit(claims.size(), [&]() -> Status {
            for (std::size_t i = 0; i < claims.size(); ++i) {
                HG_RETURN_IF_ERROR(complete_one(claims[i], results[i], expires));
            }
            return {};
        });
    }

    Status release(const Claim& claim, const std::string& error, bool counted) override {
        return fenced(kRelease, claim, {stored(claim.key), claim.token, error, std::int64_t{counted ? 1 : 0}});
    }

    Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) override {
        const auto until = clock_->now_us() + lease_us;
        HG_RETURN_IF_ERROR(fenced(kRenew, claim, {stored(claim.key), claim.token, until}));
        return until;
    }

    Result<std::int64_t> prune() override {
        HG_ASSIGN(auto result,
                  db_->execute("DELETE FROM ledger WHERE state = 1 AND expires_us <= ?1", {clock_->now_us()}));
        return result.changes;
    }

private:
    // Runs several statements in one transaction, with one fsync. If the caller has a transaction open, they become
    // part of it.
    template <class Work>
    Status in_one_commit(std::size_t count, Work work) {
        if (count <= 1 || db_->in_transaction()) {
            return work();
        }
        HG_RETURN_IF_ERROR(db_->begin());
        if (auto status = work(); !status.ok()) {
            static_cast<void>(db_->rollback());
            return status;
        }
        return db_->commit();
    }

    static std::string stored(const std::string& key) { return std::string(ledger::kStoragePrefix) + key; }

    Status complete_one(const Claim& claim, const std::string& result, std::int64_t expires) {
        const auto key = stored(claim.key);
        HG_ASSIGN(const auto changed, db_->execute(kComplete, {key, claim.token, result, expires}));
        if (changed.changes == 1) {
            return {};
        }
        HG_ASSIGN(const auto before, db_->execute(kCompleted, {key, claim.token}));
        return before.rows.empty() ? ledger::stale_lease(claim.key) : Status();
    }

    Status fenced(const std::string& sql, const Claim& claim, const SqlRow& parameters) {
        HG_ASSIGN(auto result, db_->execute(sql, parameters));
        return result.changes == 1 ? Status() : ledger::stale_lease(claim.key);
    }

    Status number_it(Claim& claim) {
        if (options_.fence && claim.status == ClaimStatus::acquired && claim.error.ok()) {
            HG_ASSIGN(const auto counted, db_->execute(kFence, {}));
            claim.fence = number(counted.rows.at(0).at(0));
        }
        return {};
    }

    // Returns the answer that a claim of this key would get, within a transaction. It writes nothing, except that it
    // ends the lease of an owner that has died.
    Result<Claim> look(const ClaimRequest& request) {
        const auto key = stored(request.key);
        const auto now = clock_->now_us();
        Claim claim;
        claim.key = request.key;
        claim.status = ClaimStatus::acquired;
        HG_ASSIGN(const auto read, db_->execute(kRead, {key}));
        if (read.rows.empty()) {
            return claim;
        }
        const auto& row = read.rows[0];
        const bool done = number(row[0]) == kDone;
        if (done && number(row[7]) <= now) {
            return claim;  // it has expired, so the key is free
        }
        describe(row, request, claim);
        if (!claim.error.ok() || done) {
            return claim;
        }
        if (number(row[1]) > now && process_is_dead(text(row[6]))) {
            HG_ASSIGN(const auto freed, db_->execute(kExpire, {key, text(row[6])}));
            static_cast<void>(freed);
            claim.until_us = 0;
        }
        claim.status = claim.until_us <= now ? ClaimStatus::acquired : ClaimStatus::in_progress;
        return claim;
    }

    static void describe(const SqlRow& row, const ClaimRequest& request, Claim& claim) {
        claim.status = number(row[0]) == kDone ? ClaimStatus::done : ClaimStatus::in_progress;
        claim.until_us = number(row[1]);
        claim.attempts = static_cast<int>(number(row[2]));
        const auto payload = text(row[3]);
        claim.result = text(row[4]);
        claim.last_error = text(row[5]);
        if (!payload.empty() && !request.payload.empty() && payload != request.payload) {
            claim.error = ledger::payload_mismatch(request.key);
        }
    }

    // A child of fork() is another owner.
    const std::string& owner() {
        if (generation_ != fork_generation()) {
            owner_ = process_identity();
            generation_ = fork_generation();
        }
        return owner_;
    }

    Result<Claim> claim_one(const ClaimRequest& request) {
        const auto now = clock_->now_us();
        const auto until = now + request.lease_us;
        const auto key = stored(request.key);
        Claim claim;
        claim.key = request.key;
        claim.token = random_->token_hex();
        HG_ASSIGN(auto* statement, db_->statement(kInsert));
        Bound insert(*db_, statement);
        insert.text(key).text(claim.token).text(owner()).number(until).text(request.payload);
        HG_ASSIGN(const bool is_new, insert.changes("cannot claim a key"));
        if (is_new) {
            claim.status = ClaimStatus::acquired;
            claim.until_us = until;
            claim.attempts = 1;
            return claim;
        }
        claim.token.clear();
        return take_over(request, key, now, std::move(claim));
    }

    // Claims a key that is in the table already.
    Result<Claim> take_over(const ClaimRequest& request, const std::string& key, std::int64_t now, Claim claim) {
        for (int round = 0; round < 2; ++round) {
            const auto token = random_->token_hex();
            const auto until = now + request.lease_us;
            HG_ASSIGN(auto won, db_->execute(kAcquire, {key, token, owner(), until, request.payload, now}));
            if (!won.rows.empty()) {
                claim.status = ClaimStatus::acquired;
                claim.token = token;
                claim.until_us = until;
                claim.attempts = static_cast<int>(number(won.rows[0][0]));
                claim.last_error = text(won.rows[0][1]);
                return claim;
            }
            HG_ASSIGN(auto read, db_->execute(kRead, {key}));
            if (read.rows.empty()) {
                continue;  // the key was pruned meanwhile
            }
            const auto& row = read.rows[0];
            describe(row, request, claim);
            if (!claim.error.ok()) {
                return claim;
            }
            // The owner is known to have died on this machine, so the end of its lease is not awaited.
            if (number(row[0]) == kInProgress && process_is_dead(text(row[6]))) {
                HG_ASSIGN(auto freed, db_->execute(kExpire, {key, text(row[6])}));
                static_cast<void>(freed);
                continue;
            }
            return claim;
        }
        return claim;
    }

    std::shared_ptr<Database> db_;
    ledger::LedgerOptions options_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    std::string owner_;
    unsigned generation_;
};

}  // namespace

std::shared_ptr<ledger::Ledger> make_sqlite_ledger(std::shared_ptr<Database> database, ledger::LedgerOptions options,
                                                   std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
    return std::make_shared<SqliteLedger>(std::move(database), options, std::move(clock), std::move(random));
}

}  // namespace headgate::backends
