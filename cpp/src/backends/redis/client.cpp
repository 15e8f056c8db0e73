#include "client.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>

namespace headgate::backends {
namespace {

constexpr std::int64_t kBackoffBaseUs = 20'000;
constexpr std::int64_t kBackoffCapUs = 2'000'000;
constexpr std::int64_t kLoadingPauseUs = 100'000;
constexpr auto kPoolSlice = std::chrono::milliseconds(50);
constexpr std::size_t kReadBlock = 16 * 1024;

// How many bytes of a pipeline are sent at once while it is being written.
constexpr std::size_t kPiece = 16 * 1024;

struct FreeReader {
    void operator()(redisReader* reader) const { redisReaderFree(reader); }
};

bool starts_with(const redisReply& reply, std::string_view word) {
    return std::string_view(reply.str, reply.len).starts_with(word);
}

// Whether the server is still reading its files after a restart. It accepts connections then, and answers LOADING to
// every command that needs data.
bool loading(const Replies& replies) {
    return std::any_of(replies.begin(), replies.end(), [](const Reply& reply) {
        return reply->type == REDIS_REPLY_ERROR && starts_with(*reply, "LOADING");
    });
}

auto send_all(const Commands& commands) {
    return [&commands](Stream& stream, const Patience& patience) { return stream.write(commands.wire(), patience); };
}

}  // namespace

struct RedisClient::Connection {
    std::unique_ptr<Stream> stream;
    std::unique_ptr<redisReader, FreeReader> reader{redisReaderCreate()};
};

void Commands::add(std::initializer_list<std::string_view> words) {
    const auto size = [this](char kind, std::size_t n) {
        std::array<char, 24> text{};
        text[0] = kind;
        const auto end = std::to_chars(text.data() + 1, text.data() + 22, n).ptr;
        end[0] = '\r';
        end[1] = '\n';
        wire_.append(text.data(), static_cast<std::size_t>(end + 2 - text.data()));
    };
    size('*', words.size());
    for (const auto word : words) {
        size('$', word.size());
        wire_.append(word);
        wire_.append("\r\n", 2);
    }
    ++count_;
}

Status status_of_error(const redisReply& reply) {
    const std::string text(reply.str, reply.len);
    if (starts_with(reply, "OOM")) {
        return {ErrorCode::backend_full, "Redis has reached its maxmemory and may evict nothing"};
    }
    if (starts_with(reply, "READONLY")) {
        return {ErrorCode::read_only, "this Redis is a read-only replica; name the primary's address"};
    }
    if (starts_with(reply, "MISCONF")) {
        return {ErrorCode::read_only, "Redis takes no writes because it cannot save its data (MISCONF)"};
    }
    if (starts_with(reply, "NOAUTH") || starts_with(reply, "WRONGPASS") || starts_with(reply, "NOPERM")) {
        return {ErrorCode::permission_denied, "Redis refused the credentials or the command"};
    }
    if (text.find("invalid bulk length") != std::string::npos) {
        return {ErrorCode::message_too_large, "a value is longer than this Redis takes (proto-max-bulk-len)"};
    }
    if (starts_with(reply, "MOVED") || starts_with(reply, "ASK ") || starts_with(reply, "CROSSSLOT")) {
        return {ErrorCode::config, "this Redis is a node of a cluster; use redis+cluster://host:port"};
    }
    return {ErrorCode::unavailable, "Redis answered: " + text.substr(0, 200)};
}

RedisClient::RedisClient(RedisOptions options, std::shared_ptr<Clock> clock, std::shared_ptr<Random> random)
    : options_(std::move(options)),
      clock_(std::move(clock)),
      random_(std::move(random)),
      generation_(fork_generation()) {}

RedisClient::~RedisClient() = default;

Result<Replies> RedisClient::exchange(Connection& connection, std::size_t count, const Send& send,
                                      const Patience& patience) {
    HG_RETURN_IF_ERROR(send(*connection.stream, patience));
    Replies replies;
    replies.reserve(count);
    std::array<char, kReadBlock> block;  // NOLINT(cppcoreguidelines-pro-type-member-init): filled by read()
    while (replies.size() < count) {
        void* reply = nullptr;
        if (redisReaderGetReply(connection.reader.get(), &reply) != REDIS_OK) {
            return Status(ErrorCode::unavailable, "Redis answered in another protocol");
        }
        if (reply != nullptr) {
            replies.emplace_back(static_cast<redisReply*>(reply));
            continue;
        }
        HG_ASSIGN(const auto size, connection.stream->read(block.data(), block.size(), patience));
        redisReaderFeed(connection.reader.get(), block.data(), size);
    }
    return replies;
}

Result<RedisClient::Held> RedisClient::connect_once(const Patience& patience) const {
    auto connection = std::make_unique<Connection>();
    HG_ASSIGN(connection->stream, connect_stream(options_, patience));
    Commands greeting;
    if (!options_.password.empty()) {
        if (options_.username.empty()) {
            greeting.add({"AUTH", options_.password});
        } else {
            greeting.add({"AUTH", options_.username, options_.password});
        }
    }
    if (options_.database != 0) {
        greeting.add({"SELECT", std::to_string(options_.database)});
    }
    if (greeting.size() == 0) {
        return connection;
    }
    HG_ASSIGN(const auto replies, exchange(*connection, greeting.size(), send_all(greeting), patience));
    for (const auto& reply : replies) {
        if (reply->type == REDIS_REPLY_ERROR) {
            const auto where = "Redis at " + options_.host + ":" + std::to_string(options_.port);
            const auto status = status_of_error(*reply);
            return Status(status.code() == ErrorCode::unavailable ? ErrorCode::permission_denied : status.code(),
                          where + " refused the credentials or the database");
        }
    }
    return connection;
}

// Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). Once
// a call has waited in vain, the server counts as away: one caller an interval tries, without waiting, and the others
// fail at once with the last reason.
Result<RedisClient::Held> RedisClient::connect(const Patience& patience) {
    SystemClock wall;
    const auto give_up = std::min(wall.mono_us() + options_.reconnect_us, patience.deadline.mono_us);
    while (true) {
        bool away = false;
        {
            const MutexLock lock(mutex_);
            away = away_;
            if (away && wall.mono_us() < next_try_us_) {
                return last_failure_;
            }
        }
        auto made = connect_once(patience);
        std::int64_t wait = 0;
        {
            const MutexLock lock(mutex_);
            if (made.ok()) {
                away_ = false;
                failures_ = 0;
                return made;
            }
            last_failure_ = made.status();
            const auto longest = std::min(kBackoffCapUs, kBackoffBaseUs << std::min(failures_++, 10));
            wait = 1'000 + static_cast<std::int64_t>(random_->uniform() * static_cast<double>(longest));
            next_try_us_ = wall.mono_us() + wait;
            const bool hopeless = made.status().code() != ErrorCode::unavailable;
            if (away || hopeless || next_try_us_ >= give_up) {
                away_ = !hopeless;
                return made;
            }
        }
        if (!sleep_interruptibly(wall, wait, patience.interrupt)) {
            return Status(ErrorCode::interrupted, "interrupted while waiting for Redis");
        }
    }
}

Result<RedisClient::Held> RedisClient::take(const Patience& patience, bool& fresh) {
    {
        MutexLock lock(mutex_);
        const SystemClock wall;
        while (idle_.empty() && open_ >= options_.pool_size) {
            returned_.wait_for(mutex_, kPoolSlice);
            if (patience.deadline.left_us(wall) <= 0) {
                return Status(ErrorCode::unavailable, "every connection to Redis is busy");
            }
            if (patience.interrupt) {
                lock.unlock();  // the interrupt may take Python's GIL
                const bool stop = patience.interrupt();
                lock.lock();
                if (stop) {
                    return Status(ErrorCode::interrupted, "interrupted while waiting for Redis");
                }
            }
        }
        if (!idle_.empty()) {
            auto connection = std::move(idle_.back());
            idle_.pop_back();
            fresh = false;
            return connection;
        }
        ++open_;
    }
    fresh = true;
    auto made = connect(patience);
    if (!made.ok()) {
        give_back(nullptr);
    }
    return made;
}

void RedisClient::give_back(Held connection) {
    {
        const MutexLock lock(mutex_);
        if (connection) {
            idle_.push_back(std::move(connection));
        } else {
            --open_;
        }
    }
    returned_.notify_one();
}

bool RedisClient::pause(std::int64_t longest_us) {
    std::int64_t wait = 1'000;
    {
        const MutexLock lock(mutex_);
        wait += static_cast<std::int64_t>(random_->uniform() * static_cast<double>(longest_us));
    }
    SystemClock sleeper;
    return sleep_interruptibly(sleeper, wait, options_.interrupt);
}

Result<Replies> RedisClient::run(const Commands& commands) {
    return until_answered(commands.size(), send_all(commands));
}

Result<Replies> RedisClient::run(std::size_t count, const Add& add) {
    Commands commands;
    std::size_t made = 0;
    return until_answered(count, [&, count](Stream& stream, const Patience& patience) -> Status {
        Status status;
        std::size_t sent = 0;
        const auto send = [&](std::size_t least) {
            if (status.ok() && commands.wire().size() - sent >= least) {
                status = stream.write(std::string_view(commands.wire()).substr(sent), patience);
                sent = commands.wire().size();
            }
        };
        // After a broken connection all commands are written already, and are sent at once.
        while (made < count) {
            add(commands, made++);
            send(kPiece);
        }
        send(1);
        return status;
    });
}

Result<Replies> RedisClient::until_answered(std::size_t count, const Send& send) {
    // A child of fork() may use a client that its parent has not used. Otherwise the connections belong to the parent,
    // and a thread that the child does not have may hold the mutex, so nothing is touched.
    if (const auto now = fork_generation(); generation_.load() != now) {
        if (used_.load()) {
            return Status(ErrorCode::forked, "a Redis ledger was in use before fork(); open a new one in the child");
        }
        generation_.store(now);
    }
    used_.store(true);
    const SystemClock wall;
    const Patience patience{Deadline::after(wall, options_.timeout_us), options_.interrupt};
    const auto give_up = wall.mono_us() + options_.reconnect_us;
    // If the server was restarted, all idle connections are broken. Each is tried once; after them new ones are opened,
    // until the time is used up.
    while (true) {
        bool fresh = false;
        HG_ASSIGN(auto connection, take(patience, fresh));
        auto replies = exchange(*connection, count, send, patience);
        if (replies.ok()) {
            give_back(std::move(connection));
            if (!loading(replies.value()) || wall.mono_us() >= give_up || patience.deadline.left_us(wall) <= 0) {
                return replies;
            }
            if (!pause(kLoadingPauseUs)) {
                return Status(ErrorCode::interrupted, "interrupted while waiting for Redis");
            }
            continue;
        }
        connection.reset();
        give_back(nullptr);
        if (replies.status().code() != ErrorCode::unavailable || patience.deadline.left_us(wall) <= 0 ||
            (fresh && wall.mono_us() >= give_up)) {
            return replies;
        }
        if (fresh && !pause(kBackoffBaseUs)) {
            return Status(ErrorCode::interrupted, "interrupted while waiting for Redis");
        }
    }
}

}  // namespace headgate::backends
