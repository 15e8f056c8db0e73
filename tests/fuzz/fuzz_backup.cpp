// Any bytes as a backup of the store: refused, or a database whose tables can be read.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>

#include "headgate/backends/sqlite.hpp"
#include "headgate/base/file.hpp"

namespace {

// In memory where the system has such a folder.
std::string scratch_file() {
    std::string folder = ::access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzz-XXXXXX" : "/tmp/fuzz-XXXXXX";
    if (::mkdtemp(folder.data()) == nullptr) {
        std::abort();
    }
    static const auto* const kept = new std::string(folder);  // it outlives other statics
    std::atexit([] {
        std::error_code ignored;
        std::filesystem::remove_all(*kept, ignored);
    });
    return folder + "/store.db";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace headgate;
    static const std::string path = scratch_file();
    for (const auto* suffix : {"", "-wal", "-shm", "-journal"}) {
        ::unlink((path + suffix).c_str());
    }
    if (!real_files()->write_new(path, {reinterpret_cast<const char*>(data), size}).ok()) {
        return 0;
    }
    const auto database = backends::Database::open(path, {backends::Durability::normal, 0, {}, {}, {}});
    if (!database.ok()) {
        return 0;
    }
    for (const auto* sql :
         {"PRAGMA integrity_check(1)", "SELECT * FROM items LIMIT 10", "SELECT * FROM outbox LIMIT 10",
          "SELECT * FROM queue LIMIT 10", "SELECT * FROM state LIMIT 10", "SELECT * FROM ledger LIMIT 10",
          "SELECT * FROM dead_letters LIMIT 10"}) {
        static_cast<void>(database.value()->execute(sql, {}));
    }
    return 0;
}
