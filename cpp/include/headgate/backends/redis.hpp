// The idempotency ledger on Redis: hiredis as codec over a transport of our own (plain or TLS).
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
    bool verify = true;                     // TLS: the certificate and the host name
    std::string ca_file = {};               // TLS: empty takes the system's
    int pool_size = 8;                      // connections at most; further callers wait for one
    std::int64_t timeout_us = 5'000'000;    // of one call, waiting for a connection included
    std::int64_t reconnect_us = 1'000'000;  // a call tries to reconnect for this long, with back-off, before it fails
    Interrupt interrupt = {};               // polled while waiting
};

// Connects on first use. A broken connection is replaced and the commands are sent again: every one of them may be
// repeated by its owner without harm.
std::shared_ptr<ledger::Ledger> make_redis_ledger(RedisOptions options, ledger::LedgerOptions ledger_options,
                                                  std::shared_ptr<Clock> clock, std::shared_ptr<Random> random);

// The Lua that decides on the server ("claim", "claim_more", "complete", "release", "renew"), for other clients of the
// same keys.
std::string_view redis_script(std::string_view name);

// Where the acquisitions of a stored key are counted. A cluster lets a script touch one hash slot only: there is one
// counter for each, which has no time to live.
std::string redis_fence_key(std::string_view stored_key);

}  // namespace headgate::backends
