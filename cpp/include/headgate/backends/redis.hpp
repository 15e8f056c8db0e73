// The idempotency ledger on Redis. hiredis formats commands and parses replies; connections, plain or TLS, are our own,
// so that deadlines and interrupts apply to them.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "headgate/ledger/ledger.hpp"

namespace headgate::backends {

struct RedisOptions {
    std::string host = "127.0.0.1";
    int port = 6379;
    std::string username = {};
    std::string password = {};
    int database = 0;
    std::string prefix = "headgate:v1:";
    bool tls = false;
    bool verify = true;                     // TLS: check the certificate and the host name
    std::string ca_file = {};               // TLS: trusted certificates; empty: the system's
    int pool_size = 8;                      // the largest number of connections; further callers wait for a free one
    std::int64_t timeout_us = 5'000'000;    // the time limit of one call, including the wait for a connection
    std::int64_t reconnect_us = 1'000'000;  // how long a call tries to reconnect, with back-off, before it fails
    Interrupt interrupt = {};               // asked while waiting
};

// Connects on first use. If a connection breaks, the commands are sent again on another one. That is safe because the
// owner of a claim may repeat every command without a further effect.
std::shared_ptr<ledger::Ledger> make_redis_ledger(RedisOptions options, ledger::LedgerOptions ledger_options,
                                                  std::shared_ptr<Clock> clock, std::shared_ptr<Random> random);

// The Lua scripts that run on the server, for other clients of the same keys. The names are "claim", "claim_more",
// "complete", "release" and "renew".
std::string_view redis_script(std::string_view name);

// The key of the counter from which the fencing tokens of a stored key are taken. In a Redis cluster a script may use
// keys of one hash slot only, so there is one counter for each slot. Counters have no time to live.
std::string redis_fence_key(std::string_view stored_key);

}  // namespace headgate::backends
