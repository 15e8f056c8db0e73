// SQLite, the embedded backend. Only one copy of the SQLite library in a process may open a database file, because two
// copies break each other's file locks. Python therefore opens our files through this class, never with its own
// sqlite3.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "headgate/base/clock.hpp"
#include "headgate/base/status.hpp"
#include "headgate/ledger/ledger.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace headgate::backends {

struct Blob {
    std::string bytes;
};
using SqlValue = std::variant<std::monostate, std::int64_t, double, std::string, Blob>;
using SqlRow = std::vector<SqlValue>;

struct SqlResult {
    std::vector<std::string> columns;
    std::vector<SqlRow> rows;
    std::int64_t changes = 0;
};

// What a commit survives. `normal`: the end of the process, however it ends. `full`: also a loss of power.
enum class Durability : std::uint8_t { normal, full };

struct DatabaseOptions {
    Durability durability = Durability::full;
    std::int64_t busy_timeout_us = 5'000'000;
    Interrupt interrupt = {};                    // asked while another process holds the lock
    std::string vfs = {};                        // the SQLite VFS; empty: the machine's own files
    std::shared_ptr<const void> vfs_owner = {};  // kept alive as long as the connection
};

// The version of the database schema that this build writes (PRAGMA user_version), and the application id ("HGat").
inline constexpr int kSchemaVersion = 6;
inline constexpr int kApplicationId = 0x48476174;

// A connection to a database file in WAL mode. For one thread at a time: callers hold a lock of their own for as long
// as a transaction lasts. Methods block on the disk, and on other processes for up to `busy_timeout_us`; then they
// return busy.
class Database {
public:
    // Creates the file with its schema, or migrates the schema of an older version; unsupported_version if it is from a
    // newer one. The connection is then closed, and opened again on first use, so that a child of fork() may use an
    // object that its parent has opened and not used. If the parent has used it, methods return forked in the child:
    // fork() copies SQLite's records of its file locks, but not the locks.
    static Result<std::shared_ptr<Database>> open(const std::string& path, DatabaseOptions options);
    ~Database();
    Database(const Database&) = delete;
    Database& operator=(const Database&) = delete;

    // Runs one statement and returns its rows; with `with_names` also the names of the columns.
    Result<SqlResult> execute(const std::string& sql, const SqlRow& parameters, bool with_names = false);
    // Runs `sql` once for each row, inside the open transaction, or in one of its own if none is open. Returns the
    // number of changed rows.
    Result<std::int64_t> execute_many(const std::string& sql, const std::vector<SqlRow>& rows);
    Status begin();  // BEGIN IMMEDIATE
    Status commit();
    Status rollback();
    bool in_transaction() const;
    // For the code of this backend: a prepared statement, which the caller binds, steps and resets. The connection owns
    // it and reuses it for the same text.
    Result<sqlite3_stmt*> statement(const std::string& sql);
    Status step_failed(const std::string& what) { return last_error(what); }
    Status close();
    const std::string& path() const { return path_; }

private:
    Database(std::string path, DatabaseOptions options);
    Status connect();
    Status set_up();
    Status migrate();
    void disconnect();
    Status check() { return handle_ != nullptr && generation_ == fork_generation() ? Status() : reconnect(); }
    Status reconnect();
    Status forked() const;
    Result<sqlite3_stmt*> prepare(const std::string& sql);
    Status step_all(sqlite3_stmt* statement, const SqlRow& parameters, SqlResult* out);
    Status run(const char* sql);
    Status last_error(const std::string& what);
    static int on_busy(void* self, int count);

    std::string path_;
    DatabaseOptions options_;
    unsigned generation_;
    sqlite3* handle_ = nullptr;
    bool closed_ = false;
    std::pair<std::uint64_t, std::uint64_t> file_{};  // device and inode, while connected
    SystemClock waiting_;
    std::int64_t busy_since_us_ = 0;
    bool interrupted_ = false;
    std::unordered_map<std::string, sqlite3_stmt*> statements_;
};

// An accepted record, with the body of its announcement. `labels` are words by which it can be looked up.
struct NewItem {
    std::string key;
    std::string pipeline;
    std::string source;
    std::string timestamp;
    std::string doc;
    std::string announcement;
    std::vector<std::string> labels;
    SqlValue story_key = {};
    SqlValue raw_key = {};
};

// Stores the items whose keys are not stored yet, with their labels and outbox rows, in the open transaction, or in one
// of its own if none is open. Returns for each item whether it was new. Of several items with the same key only the
// first can be new.
Result<std::vector<bool>> put_items(Database& database, const std::string& topic, const std::vector<NewItem>& items,
                                    std::int64_t now_us);

// A ledger in a table of `database`. It may be used by several threads and processes.
std::shared_ptr<ledger::Ledger> make_sqlite_ledger(std::shared_ptr<Database> database, ledger::LedgerOptions options,
                                                   std::shared_ptr<Clock> clock, std::shared_ptr<Random> random);

}  // namespace headgate::backends
