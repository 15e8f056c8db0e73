#include <hiredis/hiredis.h>
#include <poll.h>
#include <sys/time.h>
#include <unistd.h>

#include <charconv>
#include <mutex>

#include "headgate/backends/redis.hpp"

namespace headgate::backends {
namespace {

using ledger::Claim;
using ledger::ClaimRequest;
using ledger::ClaimStatus;

constexpr int kPollMs = 50;

struct FreeContext {
    void operator()(redisContext* context) const { redisFree(context); }
};
struct FreeReply {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;
using Words = std::vector<std::string>;

// One key is a hash {state, token, until, attempts, payload, result, error}. Each script decides and writes at once;
// time comes from the caller's clock, so that tests own it. A record outlives its lease (the attempt count survives a
// crash) and, once done, lives for the time to live.
constexpr const char* kClaim = R"lua(
local r = redis.call('HMGET', KEYS[1], 'state', 'until', 'attempts', 'payload', 'result', 'error')
local now, free = tonumber(ARGV[3]), false
if not r[1] then free = true
elseif r[4] ~= '' and ARGV[4] ~= '' and r[4] ~= ARGV[4] then return {'mismatch', r[2], r[3], '', r[6] or ''}
elseif r[1] == 'done' then return {'done', r[2], r[3], r[5] or '', r[6] or ''}
elseif tonumber(r[2]) <= now then free = true end
if not free then return {'in_progress', r[2], r[3], '', r[6] or ''} end
local n = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSET', KEYS[1], 'state', 'open', 'token', ARGV[1], 'until', ARGV[2], 'payload', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'acquired', ARGV[2], tostring(n), '', r[6] or ''})lua";
constexpr const char* kComplete = R"lua(
local r = redis.call('HMGET', KEYS[1], 'state', 'token')
if r[1] ~= 'open' or r[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'done', 'result', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1)lua";
constexpr const char* kRelease = R"lua(
local r = redis.call('HMGET', KEYS[1], 'state', 'token')
if r[1] ~= 'open' or r[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until', '0', 'token', '', 'error', ARGV[2])
return 1)lua";
constexpr const char* kRenew = R"lua(
local r = redis.call('HMGET', KEYS[1], 'state', 'token')
if r[1] ~= 'open' or r[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until', ARGV[2])
return 1)lua";

std::int64_t to_number(const redisReply* reply) {
    std::int64_t value = 0;
    std::from_chars(reply->str, reply->str + reply->len, value);
    return value;
}

class RedisLedger final : public ledger::Ledger {
public:
    RedisLedger(RedisOptions options, ledger::LedgerOptions ledger_options, std::shared_ptr<Clock> clock,
                std::shared_ptr<Random> random)
        : options_(std::move(options)),
          ledger_options_(ledger_options),
          clock_(std::move(clock)),
          random_(std::move(random)),
          pid_(getpid()) {}

    Result<std::vector<Claim>> claim(const std::vector<ClaimRequest>& requests) override {
        std::vector<Claim> claims(requests.size());
        std::vector<Words> commands;
        const auto now = clock_->now_us();
        for (std::size_t i = 0; i < requests.size(); ++i) {
            claims[i].key = requests[i].key;
            claims[i].token = random_->token_hex();
            commands.push_back(script(kClaim, requests[i].key,
                                      {claims[i].token, std::to_string(now + requests[i].lease_us), std::to_string(now),
                                       requests[i].payload, ttl()}));
        }
        HG_ASSIGN(auto replies, pipeline(commands));
        for (std::size_t i = 0; i < replies.size(); ++i) {
            HG_RETURN_IF_ERROR(read_claim(*replies[i], claims[i]));
        }
        return claims;
    }

    Status complete(const std::vector<Claim>& claims, const std::vector<std::string>& results) override {
        std::vector<Words> commands;
        for (std::size_t i = 0; i < claims.size(); ++i) {
            commands.push_back(script(kComplete, claims[i].key, {claims[i].token, results[i], ttl()}));
        }
        return fenced(commands, claims);
    }

    Status release(const Claim& claim, const std::string& error) override {
        return fenced({script(kRelease, claim.key, {claim.token, error})}, {claim});
    }

    Result<std::int64_t> renew(const Claim& claim, std::int64_t lease_us) override {
        const auto until = clock_->now_us() + lease_us;
        HG_RETURN_IF_ERROR(fenced({script(kRenew, claim.key, {claim.token, std::to_string(until)})}, {claim}));
        return until;
    }

    Result<std::int64_t> prune() override { return std::int64_t{0}; }  // Redis expires keys itself

private:
    std::string ttl() const { return std::to_string(std::max<std::int64_t>(1, ledger_options_.done_ttl_us / 1000)); }

    Words script(const char* body, const std::string& key, const Words& arguments) const {
        Words words = {"EVAL", body, "1", options_.prefix + key};
        words.insert(words.end(), arguments.begin(), arguments.end());
        return words;
    }

    static Status read_claim(const redisReply& reply, Claim& claim) {
        if (reply.type != REDIS_REPLY_ARRAY || reply.elements != 5) {
            return {ErrorCode::unavailable,
                    std::string("Redis answered a claim with ") + (reply.str != nullptr ? reply.str : "another type")};
        }
        const std::string status(reply.element[0]->str, reply.element[0]->len);
        claim.until_us = to_number(reply.element[1]);
        claim.attempts = static_cast<int>(to_number(reply.element[2]));
        claim.result.assign(reply.element[3]->str, reply.element[3]->len);
        claim.last_error.assign(reply.element[4]->str, reply.element[4]->len);
        if (status == "acquired") {
            claim.status = ClaimStatus::acquired;
            return {};
        }
        claim.token.clear();
        claim.status = status == "done" ? ClaimStatus::done : ClaimStatus::in_progress;
        if (status == "mismatch") {
            claim.error = ledger::payload_mismatch(claim.key);
        }
        return {};
    }

    Status fenced(const std::vector<Words>& commands, const std::vector<Claim>& claims) {
        HG_ASSIGN(auto replies, pipeline(commands));
        for (std::size_t i = 0; i < replies.size(); ++i) {
            if (replies[i]->type != REDIS_REPLY_INTEGER) {
                return {ErrorCode::unavailable,
                        std::string("Redis refused: ") + (replies[i]->str != nullptr ? replies[i]->str : "")};
            }
            if (replies[i]->integer != 1) {
                return ledger::stale_lease(claims[i].key);
            }
        }
        return {};
    }

    Status connect() {
        const timeval timeout{options_.timeout_us / 1'000'000, options_.timeout_us % 1'000'000};
        context_.reset(redisConnectWithTimeout(options_.host.c_str(), options_.port, timeout));
        const auto where = "Redis at " + options_.host + ":" + std::to_string(options_.port);
        if (!context_ || context_->err != 0) {
            const std::string why = context_ ? context_->errstr : "out of memory";
            context_.reset();
            return {ErrorCode::unavailable, where + " cannot be reached: " + why};
        }
        redisSetTimeout(context_.get(), timeout);
        std::vector<Words> greeting;
        if (!options_.password.empty()) {
            greeting.push_back(options_.username.empty() ? Words{"AUTH", options_.password}
                                                         : Words{"AUTH", options_.username, options_.password});
        }
        if (options_.database != 0) {
            greeting.push_back({"SELECT", std::to_string(options_.database)});
        }
        for (const auto& words : greeting) {
            HG_ASSIGN(auto replies, exchange({words}));
            if (replies[0]->type == REDIS_REPLY_ERROR) {
                context_.reset();
                return {ErrorCode::permission_denied, where + " refused the credentials or the database"};
            }
        }
        return {};
    }

    Result<std::vector<Reply>> exchange(const std::vector<Words>& commands) {
        for (const auto& words : commands) {
            std::vector<const char*> data;
            std::vector<std::size_t> sizes;
            for (const auto& word : words) {
                data.push_back(word.data());
                sizes.push_back(word.size());
            }
            redisAppendCommandArgv(context_.get(), static_cast<int>(words.size()), data.data(), sizes.data());
        }
        std::vector<Reply> replies;
        SystemClock clock;
        const auto deadline = Deadline::after(clock, options_.timeout_us);
        int sent = 0;
        while (sent == 0) {
            if (redisBufferWrite(context_.get(), &sent) != REDIS_OK) {
                return broken();
            }
        }
        while (replies.size() < commands.size()) {
            void* reply = nullptr;
            if (redisGetReplyFromReader(context_.get(), &reply) != REDIS_OK) {
                return broken();
            }
            if (reply != nullptr) {
                replies.emplace_back(static_cast<redisReply*>(reply));
                continue;
            }
            HG_RETURN_IF_ERROR(wait_readable(clock, deadline));
            if (redisBufferRead(context_.get()) != REDIS_OK) {
                return broken();
            }
        }
        return replies;
    }

    Status broken() {
        const std::string why(&context_->errstr[0]);
        context_.reset();
        return {ErrorCode::unavailable, "the connection to Redis broke: " + why};
    }

    // hiredis would block for its whole timeout; this looks up every 50 ms.
    Status wait_readable(const Clock& clock, Deadline deadline) {
        while (true) {
            pollfd waiting{context_->fd, POLLIN, 0};
            if (poll(&waiting, 1, kPollMs) > 0) {
                return {};
            }
            const bool interrupted = options_.interrupt && options_.interrupt();
            if (interrupted || deadline.left_us(clock) <= 0) {
                context_.reset();  // its answer may still come: the connection is of no use any more
                return interrupted ? Status(ErrorCode::interrupted, "interrupted while waiting for Redis")
                                   : Status(ErrorCode::unavailable, "Redis did not answer in time");
            }
        }
    }

    // A lost answer is sent again once: a claim that had gone through then reads as in progress (its own token is gone,
    // so the lease must end), a completion as stale. Both are safe: nothing runs twice.
    Result<std::vector<Reply>> pipeline(const std::vector<Words>& commands) {
        if (getpid() != pid_) {
            return Status(ErrorCode::forked, "a Redis ledger was used after fork(); open a new one in the child");
        }
        const std::lock_guard lock(mutex_);
        const bool fresh = !context_;
        if (fresh) {
            HG_RETURN_IF_ERROR(connect());
        }
        auto replies = exchange(commands);
        if (replies.ok() || fresh || replies.status().code() == ErrorCode::interrupted) {
            return replies;
        }
        HG_RETURN_IF_ERROR(connect());
        return exchange(commands);
    }

    RedisOptions options_;
    ledger::LedgerOptions ledger_options_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    int pid_;
    std::mutex mutex_;
    std::unique_ptr<redisContext, FreeContext> context_;
};

}  // namespace

std::shared_ptr<ledger::Ledger> make_redis_ledger(RedisOptions options, ledger::LedgerOptions ledger_options,
                                                  std::shared_ptr<Clock> clock, std::shared_ptr<Random> random) {
    return std::make_shared<RedisLedger>(std::move(options), ledger_options, std::move(clock), std::move(random));
}

}  // namespace headgate::backends
