#pragma once

namespace headgate {

// Gives what was freed back to the machine. Worth its millisecond where much was, by other threads above all: it would
// else stay in their arenas, unused.
void return_freed_memory() noexcept;

}  // namespace headgate
