// What one key holds: a line "state until attempts token payload-size error-size", then payload, error and result.
#pragma once

#include <string>
#include <string_view>

#include "headgate/ledger/ledger.hpp"

namespace headgate::backends {

struct RedisRecord {
    enum class State : char { open = 'o', released = 'r', done = 'd' };
    State state = State::open;
    std::int64_t until_us = 0;
    int attempts = 0;
    std::string_view token;
    std::string_view payload;
    std::string_view error;
    std::string_view result;
};

// The record of a first claim.
void new_record(std::string& into, std::string_view token, std::int64_t until_us, std::string_view payload);
Status not_a_record();
// Views into `text`.
Result<RedisRecord> parse_record(std::string_view text);

}  // namespace headgate::backends
