// SQLite, the embedded backend. One copy of the library per process may open our files (two break file locks),
// so Python reaches them through this class only.
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

enum class Durability : std::uint8_t { normal, full };  // normal survives a process, full survives power

struct DatabaseOptions {
    Durability durability = Durability::full;
    std::int64_t busy_timeout_us = 5'000'000;
    Interrupt interrupt = {};                    // polled while another process holds the lock
    std::string vfs = {};                        // empty: the system's files
    std::shared_ptr<const void> vfs_owner = {};  // lives as long as the connection
};

// The schema version this build writes (PRAGMA user_version) and the application id ("HGat").
inline constexpr int kSchemaVersion = 6;
inline constexpr int kApplicationId = 0x48476174;

// A connection in WAL mode. Calls are serialised by the caller holding `lock()` across a transaction.
class Database {
public:
    // Creates the file and its schema, or migrates an older one. A newer one is unsupported_version. The connection is
    // closed again and made on first use, in each process anew: a child of fork() may use what its parent opened and
    // did not use yet. A file that was in use at a fork cannot be used by the child (forked): SQLite's record of its
    // locks is copied, the locks are not.
    static Result<std::shared_ptr<Database>> open(const std::string& path, DatabaseOptions options);
    ~Database();
    Database(const Database&) = delete;
    Database& operator=(const Database&) = delete;

    // `with_names`: fill `columns` too.
    Result<SqlResult> execute(const std::string& sql, const SqlRow& parameters, bool with_names = false);
    // Runs `sql` once per row inside the transaction that is open, or in one of its own.
    Result<std::int64_t> execute_many(const std::string& sql, const std::vector<SqlRow>& rows);
    Status begin();  // BEGIN IMMEDIATE
    Status commit();
    Status rollback();
    bool in_transaction() const;
    // For this backend's own hot paths: a prepared statement that stays the connection's, to bind, step and reset.
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

// A record that was accepted, with the body of its announcement. `labels`: what it can be looked up by (its tickers).
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

// Stores what is absent: item, labels and outbox row of each are one commit, in the transaction that is open or in one
// of its own. Says for each whether it was new; of equal keys within `items` the first.
Result<std::vector<bool>> put_items(Database& database, const std::string& topic, const std::vector<NewItem>& items,
                                    std::int64_t now_us);

std::shared_ptr<ledger::Ledger> make_sqlite_ledger(std::shared_ptr<Database> database, ledger::LedgerOptions options,
                                                   std::shared_ptr<Clock> clock, std::shared_ptr<Random> random);

}  // namespace headgate::backends
