// Memory of the process.
#pragma once

namespace headgate {

// Returns freed memory to the operating system. Memory that worker threads have freed stays in their malloc arenas,
// where it is of no use to other threads or processes. A call takes about a millisecond, so it is worth it after much
// was freed.
void return_freed_memory() noexcept;

}  // namespace headgate
