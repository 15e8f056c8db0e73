// The value of a key: a line "state until attempts token payload-size error-size", then payload, error and result.
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

// Returns the record of a key that is claimed for the first time.
void new_record(std::string& into, std::string_view token, std::int64_t until_us, std::string_view payload);
Status not_a_record();
// The parts of a record, as views into its text.
Result<RedisRecord> parse_record(std::string_view text);

}  // namespace headgate::backends
