// The idempotency ledger on Redis, through hiredis.
#pragma once

#include <memory>
#include <string>

#include "headgate/ledger/ledger.hpp"

namespace headgate::backends {

struct RedisOptions {
    std::string host = "127.0.0.1";
    int port = 6379;
    std::string username;
    std::string password;
    int database = 0;
    std::string prefix = "headgate:v1:";
    std::int64_t timeout_us = 5'000'000;
    Interrupt interrupt = {};  // polled while waiting for an answer
};

// Connects on first use and again, once, when the connection broke.
std::shared_ptr<ledger::Ledger> make_redis_ledger(RedisOptions options, ledger::LedgerOptions ledger_options,
                                                  std::shared_ptr<Clock> clock, std::shared_ptr<Random> random);

}  // namespace headgate::backends
