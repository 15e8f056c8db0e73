// The floor for a ledger on Redis: the same SET commands through blocking hiredis, nothing else.
// Usage: hiredis_peer PORT COUNT trips|pipeline   (prints seconds; trips: two round trips for each key)
#include <hiredis/hiredis.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

int main(int argc, char** argv) {
    if (argc != 4) {
        return 2;
    }
    const int count = std::atoi(argv[2]);
    redisContext* context = redisConnect("127.0.0.1", std::atoi(argv[1]));
    if (context == nullptr || context->err != 0) {
        return 1;
    }
    const std::string record = "o 1700000000000000 1 0123456789abcdef0123456789abcdef 0 0\n";
    const std::string space = "peer:" + std::to_string(getpid()) + ":";
    const auto started = std::chrono::steady_clock::now();
    const auto command = [&](int i, bool append) -> redisReply* {
        const std::string key = space + std::to_string(i);
        const char* words[] = {"SET", key.c_str(), record.c_str(), "NX", "GET", "PX", "86400001"};
        const std::size_t sizes[] = {3, key.size(), record.size(), 2, 3, 2, 8};
        if (append) {
            redisAppendCommandArgv(context, 7, words, sizes);
            return nullptr;
        }
        return static_cast<redisReply*>(redisCommandArgv(context, 7, words, sizes));
    };
    if (std::strcmp(argv[3], "trips") == 0) {
        for (int i = 0; i < count; ++i) {
            freeReplyObject(command(i, false));
            freeReplyObject(command(i, false));
        }
    } else {
        for (int i = 0; i < count; ++i) {
            command(i, true);
        }
        for (int i = 0; i < count; ++i) {
            void* reply = nullptr;
            redisGetReply(context, &reply);
            freeReplyObject(reply);
        }
    }
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - started;
    std::printf("%.9f\n", spent.count());
    redisFree(context);
    return 0;
}
