// Connections to one Redis server: a pool of limited size, pipelines of commands, and reconnection with back-off.
// hiredis is used to parse replies only.
#pragma once

#include <hiredis/hiredis.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "headgate/base/mutex.hpp"
#include "stream.hpp"

namespace headgate::backends {

struct FreeReply {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;
using Replies = std::vector<Reply>;

// A pipeline of commands in Redis's wire format (RESP arrays of bulk strings).
class Commands {
public:
    void add(std::initializer_list<std::string_view> words);
    void reserve(std::size_t bytes) { wire_.reserve(bytes); }
    std::size_t size() const { return count_; }
    const std::string& wire() const { return wire_; }

private:
    std::string wire_;
    std::size_t count_ = 0;
};

class RedisClient {
public:
    RedisClient(RedisOptions options, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random);
    ~RedisClient();
    RedisClient(const RedisClient&) = delete;
    RedisClient& operator=(const RedisClient&) = delete;

    // Sends the commands in one round trip and returns one reply for each. They are sent again on another connection if
    // this one breaks, and while the server is still loading its data; so they must be safe to repeat.
    Result<Replies> run(const Commands& commands);
    // The same for `count` commands, which `add` writes one by one. The first ones are sent while the others are being
    // written, so that the server works meanwhile.
    using Add = std::function<void(Commands&, std::size_t)>;
    Result<Replies> run(std::size_t count, const Add& add);

private:
    struct Connection;
    using Held = std::unique_ptr<Connection>;

    Result<Held> take(const Patience& patience, bool& fresh);
    void give_back(Held connection);
    bool pause(std::int64_t longest_us);  // waits a random time up to that; returns false if it was interrupted
    Result<Held> connect(const Patience& patience);
    Result<Held> connect_once(const Patience& patience) const;
    using Send = std::function<Status(Stream&, const Patience&)>;
    Result<Replies> until_answered(std::size_t count, const Send& send);
    static Result<Replies> exchange(Connection& connection, std::size_t count, const Send& send,
                                    const Patience& patience);

    RedisOptions options_;
    std::shared_ptr<Clock> clock_;
    std::shared_ptr<Random> random_;
    std::atomic<unsigned> generation_;
    std::atomic<bool> used_{false};
    Mutex mutex_;
    ConditionVariable returned_;
    std::vector<Held> idle_ HG_GUARDED_BY(mutex_);
    int open_ HG_GUARDED_BY(mutex_) = 0;
    // True if the last call that needed a connection waited in vain.
    bool away_ HG_GUARDED_BY(mutex_) = false;
    // How many connects in a row have failed.
    int failures_ HG_GUARDED_BY(mutex_) = 0;
    // While away_: no connect is tried before this moment of the monotonic clock.
    std::int64_t next_try_us_ HG_GUARDED_BY(mutex_) = 0;
    Status last_failure_ HG_GUARDED_BY(mutex_);
};

// Converts an error reply to the Status that a caller can act on.
Status status_of_error(const redisReply& reply);

}  // namespace headgate::backends
