#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "client.hpp"
#include "headgate/base/text.hpp"
#include "record.hpp"

namespace headgate::backends {
namespace {

using ledger::Claim;
using ledger::ClaimRequest;
using ledger::ClaimStatus;

struct Script {
    explicit Script(std::string_view name) : body(redis_script(name)) {
        // Redis identifies a script by its SHA-1.
        std::array<std::uint8_t, 20> digest{};
        unsigned size = 0;
        EVP_Digest(body.data(), body.size(), digest.data(), &size, EVP_sha1(), nullptr);
        sha = to_hex(digest.data(), digest.size());
    }
    std::string_view body;
    std::string sha;
};

bool has_prefix(const redisReply& reply, std::string_view prefix) {
    return reply.type == REDIS_REPLY_ERROR && std::string_view(reply.str, reply.len).starts_with(prefix);
}

// A claim is one command, `SET key record NX GET PX ttl`. If it returns no old record, the key was new and is acquired.
// Only a key that exists and is free again, because it was released or its lease has ended, takes a second command, the
// claim script. The time comes from the caller's clock, so that tests can set it.
class RedisLedger final : public ledger::Ledger {
public:
    RedisLedger(RedisOptions options, ledger::LedgerOptions ledger_options, std::shared_ptr<Clock> clock,
                std::shared_ptr<Random> random)
        : prefix_(options.prefix),
          ledger_options_(ledger_options),
          clock_(clock),
          random_(random),
          client_(std::move(options), std::move(clock), std::move(random)) {}

    Result<std::vector<Claim>> claim(const std::vector<ClaimRequest>& requests) override {
        if (ledger_options_.fence) {
            return claim_more(requests, {});
        }
        std::vector<Claim> claims(requests.size());
        const auto now = clock_->now_us();
        std::string key;
        std::string record;
        std::string life;
        std::int64_t life_of = -1;
        for (std::size_t i = 0; i < requests.size(); ++i) {
            claims[i].key = requests[i].key;
            claims[i].until_us = now + requests[i].lease_us;
        }
        std::vector<std::size_t> second;
        if (old_server_) {
            second.resize(requests.size());
            for (std::size_t i = 0; i < second.size(); ++i) {
                claims[i].token = random_->token_hex();
                second[i] = i;
            }
        } else {
            const auto add = [&](Commands& commands, std::size_t i) {
                const auto& request = requests[i];
                if (request.lease_us != life_of) {
                    life_of = request.lease_us;
                    life = ttl(life_of);
                }
                claims[i].token = random_->token_hex();
                key.assign(prefix_).append(request.key);
                new_record(record, claims[i].token, claims[i].until_us, request.payload);
                commands.add({"SET", key, record, "NX", "GET", "PX", life});
            };
            HG_ASSIGN(const auto replies, client_.run(requests.size(), add));
            for (std::size_t i = 0; i < replies.size(); ++i) {
                HG_ASSIGN(const bool settled, first_answer(*replies[i], requests[i], now, claims[i]));
                if (!settled) {
                    second.push_back(i);
                }
            }
        }
        HG_RETURN_IF_ERROR(claim_by_script(requests, now, second, claims));
        return claims;
    }

    Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) override {
        return fenced(complete_, claims, [&](std::size_t i) { return Words{results[i], ttl(0)}; });
    }

    Result<Claim> claim_pair(const ClaimRequest& request, const std::string& legacy_key) override {
        HG_ASSIGN(auto claims, claim_more({request}, legacy_key));
        return std::move(claims[0]);
    }

    Status release(const Claim& claim, const std::string& error, bool counted) override {
        return fenced(release_, {claim}, [&](std::size_t) { return Words{error, counted ? "1" : "0"}; });
    }

    Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) override {
        const auto until = clock_->now_us() + lease_us;
        HG_RETURN_IF_ERROR(fenced(renew_, {claim}, [&](std::size_t) {
            return Words{std::to_string(until), ttl(lease_us)};
        }));
        return until;
    }

    Result<std::int64_t> prune() override { return std::int64_t{0}; }  // Redis expires keys itself

    Result<std::vector<std::string>> warnings() override {
        Commands commands;
        commands.add({"INFO", "everything"});
        HG_ASSIGN(const auto replies, client_.run(commands));
        if (replies[0]->type == REDIS_REPLY_ERROR) {
            return status_of_error(*replies[0]);
        }
        const std::string_view info(replies[0]->str, replies[0]->len);
        const auto field = [info](std::string_view name) {
            const auto at = info.find(name);
            const auto begin = at == std::string_view::npos ? info.size() : at + name.size();
            return std::string(info.substr(begin, info.find('\r', begin) - begin));
        };
        std::vector<std::string> out;
        if (const auto policy = field("\nmaxmemory_policy:");
            policy.starts_with("allkeys") && field("\nmaxmemory:") != "0") {
            out.push_back("Redis may evict ledger keys (maxmemory-policy " + policy +
                          "): an evicted done key lets its message run again; use noeviction or volatile-ttl");
        }
        if (field("\naof_enabled:") != "1") {
            out.emplace_back(
                "Redis loses its newest keys in a restart (appendonly is off): effects outside a transaction may then "
                "run again");
        }
        if (field("\nrole:") == "slave") {
            out.emplace_back("this Redis is a replica: it takes no claims");
        }
        return out;
    }

private:
    using Words = std::array<std::string, 2>;

    std::string ttl(std::int64_t lease_us) const {
        return std::to_string(std::max<std::int64_t>({1, ledger_options_.done_ttl_us, lease_us * 2}) / 1000 + 1);
    }

    // Returns false if the claim script has to decide.
    Result<bool> first_answer(const redisReply& reply, const ClaimRequest& request, std::int64_t now, Claim& claim) {
        if (reply.type == REDIS_REPLY_NIL) {
            claim.status = ClaimStatus::acquired;
            claim.attempts = 1;
            return true;
        }
        if (has_prefix(reply, "ERR syntax error")) {
            old_server_ = true;  // SET with both NX and GET needs Redis 7.0
            return false;
        }
        return read(reply, request, now, claim);
    }

    // Reads a record into a claim. Returns false if the key is free, so that the claim script may acquire it.
    static Result<bool> read(const redisReply& reply, const ClaimRequest& request, std::int64_t now, Claim& claim) {
        if (reply.type != REDIS_REPLY_STRING) {
            return reply.type == REDIS_REPLY_ERROR ? status_of_error(reply)
                                                   : Status(ErrorCode::unavailable, "Redis answered with another type");
        }
        HG_ASSIGN(const auto record, parse_record({reply.str, reply.len}));
        const bool other = !record.payload.empty() && !request.payload.empty() && record.payload != request.payload;
        const bool ours = record.state == RedisRecord::State::open && record.token == claim.token;
        if (!ours && !other && record.state != RedisRecord::State::done && record.until_us <= now) {
            return false;
        }
        claim.until_us = record.until_us;
        claim.attempts = record.attempts;
        claim.last_error = record.error;
        if (ours) {
            claim.status = ClaimStatus::acquired;
            return true;
        }
        claim.token.clear();
        claim.status = record.state == RedisRecord::State::done ? ClaimStatus::done : ClaimStatus::in_progress;
        if (other) {
            claim.error = ledger::payload_mismatch(claim.key);
        } else {
            claim.result = record.result;
        }
        return true;
    }

    Status claim_by_script(const std::vector<ClaimRequest>& requests, std::int64_t now,
                           const std::vector<std::size_t>& which, std::vector<Claim>& claims) {
        if (which.empty()) {
            return {};
        }
        const auto add = [&](Commands& commands, std::size_t n) {
            const auto& request = requests[which[n]];
            const auto& claim = claims[which[n]];
            commands.add({"EVALSHA", claim_.sha, "1", prefix_ + request.key, claim.token,
                          std::to_string(now + request.lease_us), std::to_string(now), request.payload,
                          ttl(request.lease_us)});
        };
        HG_ASSIGN(const auto replies, run_script(claim_, which.size(), add));
        for (std::size_t n = 0; n < which.size(); ++n) {
            auto& claim = claims[which[n]];
            HG_ASSIGN(const bool settled, read(*replies[n], requests[which[n]], now, claim));
            if (!settled) {
                claim.token.clear();  // a lease of zero length has no owner
            }
        }
        return {};
    }

    // Claims that one SET cannot decide: two keys together, and acquisitions with a fencing token.
    Result<std::vector<Claim>> claim_more(const std::vector<ClaimRequest>& requests, const std::string& legacy_key) {
        const auto now = clock_->now_us();
        std::vector<Claim> claims(requests.size());
        for (std::size_t i = 0; i < requests.size(); ++i) {
            claims[i].key = requests[i].key;
            claims[i].token = random_->token_hex();
        }
        const auto add = [&](Commands& commands, std::size_t i) {
            const auto& request = requests[i];
            const auto key = prefix_ + request.key;
            const auto until = std::to_string(now + request.lease_us);
            const auto fence = ledger_options_.fence ? redis_fence_key(key) : std::string();
            if (legacy_key.empty()) {
                commands.add({"EVALSHA", claim_more_.sha, "1", key, claims[i].token, until, std::to_string(now),
                              request.payload, ttl(request.lease_us), fence});
            } else {
                commands.add({"EVALSHA", claim_more_.sha, "2", key, prefix_ + legacy_key, claims[i].token, until,
                              std::to_string(now), request.payload, ttl(request.lease_us), fence});
            }
        };
        HG_ASSIGN(const auto replies, run_script(claim_more_, requests.size(), add));
        for (std::size_t i = 0; i < replies.size(); ++i) {
            const auto& reply = *replies[i];
            if (reply.type != REDIS_REPLY_ARRAY || reply.elements != 3 ||
                reply.element[1]->type != REDIS_REPLY_STRING || reply.element[2]->type != REDIS_REPLY_INTEGER) {
                if (reply.type == REDIS_REPLY_ERROR &&
                    std::string_view(reply.str, reply.len).find("not a headgate") != std::string_view::npos) {
                    return not_a_record();
                }
                return reply.type == REDIS_REPLY_ERROR
                           ? status_of_error(reply)
                           : Status(ErrorCode::unavailable, "Redis answered with another type");
            }
            const auto token = claims[i].token;
            HG_ASSIGN(const bool settled, read(*reply.element[0], requests[i], now, claims[i]));
            if (!settled || claims[i].status != ClaimStatus::acquired) {
                claims[i].token.clear();
                continue;
            }
            claims[i].fence = reply.element[2]->integer;
            if (!legacy_key.empty()) {
                Claim legacy;
                legacy.token = token;
                HG_ASSIGN(const bool ours, read(*reply.element[1], requests[i], now, legacy));
                static_cast<void>(ours);
                ledger::join_pair(claims[i], legacy);
            }
        }
        return claims;
    }

    template <class Arguments>
    Status fenced(const Script& script, const std::vector<Claim>& claims, Arguments arguments) {
        const auto add = [&](Commands& commands, std::size_t i) {
            const auto words = arguments(i);
            commands.add({"EVALSHA", script.sha, "1", prefix_ + claims[i].key, claims[i].token, words[0], words[1]});
        };
        HG_ASSIGN(const auto replies, run_script(script, claims.size(), add));
        for (std::size_t i = 0; i < replies.size(); ++i) {
            if (replies[i]->type != REDIS_REPLY_INTEGER) {
                return status_of_error(*replies[i]);
            }
            if (replies[i]->integer != 1) {
                return ledger::stale_lease(claims[i].key);
            }
        }
        return {};
    }

    // Runs a script with EVALSHA. A server that was restarted, flushed or failed over does not know the script and has
    // run nothing; then the script is loaded and the command repeated.
    template <class Add>
    Result<Replies> run_script(const Script& script, std::size_t count, Add add) {
        HG_ASSIGN(auto replies, client_.run(count, add));
        std::vector<std::size_t> again;
        Commands repeated;
        repeated.add({"SCRIPT", "LOAD", script.body});
        for (std::size_t i = 0; i < count; ++i) {
            if (has_prefix(*replies[i], "NOSCRIPT")) {
                again.push_back(i);
                add(repeated, i);
            }
        }
        if (!again.empty()) {
            HG_ASSIGN(auto more, client_.run(repeated));
            for (std::size_t n = 0; n < again.size(); ++n) {
                replies[again[n]] = std::move(more[n + 1]);
            }
        }
        return replies;
    }

    std::string prefix_;
    ledger::LedgerOptions ledger_options_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    RedisClient client_;
    std::atomic<bool> old_server_{false};
    const Script claim_{"claim"};
    const Script claim_more_{"claim_more"};
    const Script complete_{"complete"};
    const Script release_{"release"};
    const Script renew_{"renew"};
};

}  // namespace

std::shared_ptr<ledger::Ledger> make_redis_ledger(RedisOptions options, ledger::LedgerOptions ledger_options,
                                                  std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
    return std::make_shared<RedisLedger>(std::move(options), ledger_options, std::move(clock), std::move(random));
}

}  // namespace headgate::backends
