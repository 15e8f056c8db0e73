// A connection to a server, plain or TLS, whose reads and writes have deadlines and can be interrupted.
#pragma once

#include <memory>
#include <string_view>

#include "headgate/backends/redis.hpp"

namespace headgate::backends {

// How long a call may still take.
struct Patience {
    Deadline deadline;
    const Interrupt& interrupt;
};

class Stream {
public:
    virtual ~Stream() = default;
    virtual Status write(std::string_view bytes, const Patience& patience) = 0;
    // Blocks until there is at least one byte.
    virtual Result<std::size_t> read(char* into, std::size_t size, const Patience& patience) = 0;
};

Result<std::unique_ptr<Stream>> connect_stream(const RedisOptions& options, const Patience& patience);

}  // namespace headgate::backends
