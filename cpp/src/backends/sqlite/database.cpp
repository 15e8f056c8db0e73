#include <pthread.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <iterator>
#include <set>
#include <utility>

#include "headgate/backends/sqlite.hpp"
#include "headgate/base/mutex.hpp"
#include "schema.hpp"

namespace headgate::backends {
namespace {

constexpr std::int64_t kShortBusyStepUs = 1'000;
constexpr std::int64_t kLongBusyStepUs = 5'000;
constexpr int kBusyStepsPerPoll = 8;

static_assert(std::size(kMigrations) == kSchemaVersion);

ErrorCode to_code(int extended) {
    switch (extended & 0xFF) {
        case SQLITE_BUSY:
        case SQLITE_LOCKED:
            return ErrorCode::busy;
        case SQLITE_FULL:
            return ErrorCode::disk_full;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB:
            return ErrorCode::corrupt_data;
        case SQLITE_PERM:
        case SQLITE_READONLY:
        case SQLITE_AUTH:
        case SQLITE_CANTOPEN:
            return ErrorCode::permission_denied;
        case SQLITE_IOERR:
            return ErrorCode::io_error;
        case SQLITE_CONSTRAINT:
            return ErrorCode::already_exists;
        case SQLITE_TOOBIG:
            return ErrorCode::message_too_large;
        case SQLITE_INTERRUPT:
            return ErrorCode::interrupted;
        case SQLITE_ERROR:
        case SQLITE_MISMATCH:
        case SQLITE_RANGE:
            return ErrorCode::invalid_input;
        default:
            return ErrorCode::internal;
    }
}

int bind(sqlite3_stmt* statement, int index, const SqlValue& value) {
    const auto size = [](const std::string& s) { return static_cast<sqlite3_uint64>(s.size()); };
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
        return sqlite3_bind_int64(statement, index, *number);
    }
    if (const auto* real = std::get_if<double>(&value)) {
        return sqlite3_bind_double(statement, index, *real);
    }
    if (const auto* text = std::get_if<std::string>(&value)) {
        return sqlite3_bind_text64(statement, index, text->data(), size(*text), SQLITE_STATIC, SQLITE_UTF8);
    }
    if (const auto* blob = std::get_if<Blob>(&value)) {
        return sqlite3_bind_blob64(statement, index, blob->bytes.data(), size(blob->bytes), SQLITE_STATIC);
    }
    return sqlite3_bind_null(statement, index);
}

SqlValue column(sqlite3_stmt* statement, int index) {
    const auto bytes = [&](const void* data) {
        return std::string(static_cast<const char*>(data),
                           static_cast<std::size_t>(sqlite3_column_bytes(statement, index)));
    };
    switch (sqlite3_column_type(statement, index)) {
        case SQLITE_INTEGER:
            return static_cast<std::int64_t>(sqlite3_column_int64(statement, index));
        case SQLITE_FLOAT:
            return sqlite3_column_double(statement, index);
        case SQLITE_TEXT:
            return bytes(sqlite3_column_text(statement, index));
        case SQLITE_BLOB:
            return Blob{bytes(sqlite3_column_blob(statement, index))};
        default:
            return std::monostate{};
    }
}

using FileId = std::pair<std::uint64_t, std::uint64_t>;

// Returns the device and inode of a file; zeros if there is none.
FileId file_of(const std::string& path) {
    struct stat found {};
    return ::stat(path.c_str(), &found) == 0 ? FileId{found.st_dev, found.st_ino} : FileId{};
}

// Remembers to which files this process has connections, and to which ones its parent had connections at the fork.
class OpenFiles {
public:
    static OpenFiles& all() {
        static auto* const files = new OpenFiles;  // never destroyed, because connections may be closed after the
                                                   // destructors of static objects
        return *files;
    }
    void add(FileId file) {
        const MutexLock lock(mutex_);
        open_.insert(file);
    }
    void remove(FileId file) {
        const MutexLock lock(mutex_);
        if (const auto found = open_.find(file); found != open_.end()) {
            open_.erase(found);
        }
    }
    bool carried_over(FileId file) {
        const MutexLock lock(mutex_);
        return file != FileId{} && carried_.contains(file);
    }

private:
    OpenFiles() { pthread_atfork(lock_before_fork, unlock_in_parent, carry_over_in_child); }

    // The mutex is held across fork(), so that the child does not find it locked by a thread that it does not have. The
    // analysis sees one function at a time, and these lock and unlock in different ones.
    static void lock_before_fork() HG_NO_THREAD_SAFETY_ANALYSIS { all().mutex_.lock(); }
    static void unlock_in_parent() HG_NO_THREAD_SAFETY_ANALYSIS { all().mutex_.unlock(); }
    static void carry_over_in_child() HG_NO_THREAD_SAFETY_ANALYSIS {
        auto& files = all();
        files.carried_.insert(files.open_.begin(), files.open_.end());
        files.open_.clear();
        files.mutex_.unlock();
    }

    Mutex mutex_;
    std::multiset<FileId> open_ HG_GUARDED_BY(mutex_);
    std::set<FileId> carried_ HG_GUARDED_BY(mutex_);
};

}  // namespace

Database::Database(std::string path, DatabaseOptions options)
    : path_(std::move(path)), options_(std::move(options)), generation_(fork_generation()) {}

Database::~Database() {
    static_cast<void>(close());
}

Status Database::close() {
    if (fork_generation() == generation_) {
        disconnect();
    }  // otherwise it is the parent's connection; closing it here would release the parent's locks
    closed_ = true;
    handle_ = nullptr;
    return {};
}

void Database::disconnect() {
    for (auto& [sql, statement] : statements_) {
        sqlite3_finalize(statement);
    }
    statements_.clear();
    if (handle_ != nullptr) {
        sqlite3_close_v2(handle_);
        handle_ = nullptr;
        OpenFiles::all().remove(file_);
    }
}

// Called by SQLite while somebody else holds the lock. If it returns 0, SQLite gives up and the statement returns busy.
int Database::on_busy(void* self, int count) {
    auto& database = *static_cast<Database*>(self);
    const auto now = database.waiting_.mono_us();
    if (count == 0) {
        database.busy_since_us_ = now;
    }
    if (now - database.busy_since_us_ >= database.options_.busy_timeout_us) {
        return 0;
    }
    if (count % kBusyStepsPerPoll == 0 && database.options_.interrupt && database.options_.interrupt()) {
        database.interrupted_ = true;
        return 0;
    }
    database.waiting_.sleep_us(count < 10 ? kShortBusyStepUs : kLongBusyStepUs);
    return 1;
}

Status Database::last_error(const std::string& what) {
    if (std::exchange(interrupted_, false)) {
        return {ErrorCode::interrupted, "interrupted while waiting for database " + path_};
    }
    const int code = handle_ != nullptr ? sqlite3_extended_errcode(handle_) : SQLITE_NOMEM;
    const std::string text = handle_ != nullptr ? sqlite3_errmsg(handle_) : "out of memory";
    return {to_code(code), "database " + path_ + ": " + what + ": " + text};
}

Status Database::forked() const {
    return {ErrorCode::forked, "database " + path_ +
                                   " was in use before fork(): fork before its first use, or start the child with "
                                   "multiprocessing's spawn method"};
}

Status Database::reconnect() {
    if (closed_) {
        return {ErrorCode::invalid_input, "database " + path_ + " is closed"};
    }
    if (fork_generation() != generation_) {
        if (handle_ != nullptr) {
            return forked();
        }
        generation_ = fork_generation();
    }
    HG_RETURN_IF_ERROR(connect());
    auto status = migrate();  // another version may have migrated the file meanwhile, or it is a new one
    if (!status.ok()) {
        disconnect();
    }
    return status;
}

Status Database::run(const char* sql) {
    if (sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
        return last_error("cannot run a statement");
    }
    return {};
}

Result<std::shared_ptr<Database>> Database::open(const std::string& path, DatabaseOptions options) {
    std::shared_ptr<Database> database(new Database(path, std::move(options)));
    HG_RETURN_IF_ERROR(database->connect());
    HG_RETURN_IF_ERROR(database->migrate());
    // A database in memory ends with its connection, so it stays open. So does one on a simulated disk, which has no
    // forks and counts operations.
    if (!path.empty() && path != ":memory:" && database->options_.vfs.empty()) {
        database->disconnect();
    }
    return database;
}

Status Database::connect() {
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX | SQLITE_OPEN_EXRESCODE;
    const char* vfs = options_.vfs.empty() ? nullptr : options_.vfs.c_str();
    if (vfs == nullptr && OpenFiles::all().carried_over(file_of(path_))) {
        return forked();
    }
    const bool opened = sqlite3_open_v2(path_.c_str(), &handle_, flags, vfs) == SQLITE_OK;
    file_ = vfs == nullptr ? file_of(path_) : FileId{};
    OpenFiles::all().add(file_);
    auto status = opened ? set_up() : last_error("cannot open");
    if (!status.ok()) {
        disconnect();
    }
    return status;
}

Status Database::set_up() {
    sqlite3_busy_handler(handle_, &Database::on_busy, this);
    HG_RETURN_IF_ERROR(run("PRAGMA journal_mode = WAL"));
    HG_RETURN_IF_ERROR(
        run(options_.durability == Durability::full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL"));
    // Keys are hashes, so inserts change pages everywhere in the indexes. With the default cache of 2 MiB they would be
    // read again and again.
    HG_RETURN_IF_ERROR(run("PRAGMA cache_size = -65536"));
    if (options_.durability == Durability::normal) {
        // With this durability only SQLite's checkpoints sync the file, and each writes every changed page once more. A
        // longer log than the default of 1000 pages means fewer of them. With full durability a longer log would be
        // slower, because syncing a growing file takes longer.
        HG_RETURN_IF_ERROR(run("PRAGMA wal_autocheckpoint = 4000"));
    }
    return run("PRAGMA foreign_keys = ON");
}

Status Database::migrate() {
    const auto pragma = [this](const char* name) -> Result<std::int64_t> {
        HG_ASSIGN(auto result, execute(std::string("PRAGMA ") + name, {}));
        return std::get<std::int64_t>(result.rows.at(0).at(0));
    };
    HG_ASSIGN(auto version, pragma("user_version"));
    if (version == kSchemaVersion) {
        return {};
    }
    HG_RETURN_IF_ERROR(
        begin());  // the version is read again with the write lock held, because another process may migrate too
    const auto upgrade = [&]() -> Status {
        HG_ASSIGN(auto from, pragma("user_version"));
        if (from > kSchemaVersion) {
            return {ErrorCode::unsupported_version, "database " + path_ + " has schema version " +
                                                        std::to_string(from) + ", this headgate knows up to " +
                                                        std::to_string(kSchemaVersion)};
        }
        if (from < 0) {
            return {ErrorCode::corrupt_data, "database " + path_ + " has the schema version " + std::to_string(from)};
        }
        HG_ASSIGN(auto application, pragma("application_id"));
        HG_ASSIGN(auto tables, execute("SELECT count(*) FROM sqlite_master", {}));
        const bool empty = std::get<std::int64_t>(tables.rows[0][0]) == 0;
        if (!empty && application != kApplicationId) {
            return {ErrorCode::corrupt_data, "database " + path_ + " is not a headgate database"};
        }
        for (auto v = from; v < kSchemaVersion; ++v) {
            HG_RETURN_IF_ERROR(run(kMigrations[v]));
        }
        const auto stamp = "PRAGMA application_id = " + std::to_string(kApplicationId) +
                           "; PRAGMA user_version = " + std::to_string(kSchemaVersion);
        return run(stamp.c_str());
    };
    if (auto status = upgrade(); !status.ok()) {
        static_cast<void>(rollback());
        return status;
    }
    return commit();
}

Result<sqlite3_stmt*> Database::prepare(const std::string& sql) {
    if (const auto found = statements_.find(sql); found != statements_.end()) {
        return found->second;
    }
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT, &statement,
                           nullptr) != SQLITE_OK) {
        return last_error("cannot prepare a statement");
    }
    statements_.emplace(sql, statement);
    return statement;
}

Status Database::step_all(sqlite3_stmt* statement, const SqlRow& parameters, SqlResult* out) {
    if (sqlite3_bind_parameter_count(statement) != static_cast<int>(parameters.size())) {
        return {ErrorCode::invalid_input, "a statement takes " +
                                              std::to_string(sqlite3_bind_parameter_count(statement)) +
                                              " parameters, got " + std::to_string(parameters.size())};
    }
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (bind(statement, static_cast<int>(i) + 1, parameters[i]) != SQLITE_OK) {
            return last_error("cannot bind a parameter");
        }
    }
    Status status;
    while (true) {
        const int code = sqlite3_step(statement);
        if (code == SQLITE_DONE) {
            break;
        }
        if (code != SQLITE_ROW) {
            status = last_error("cannot run a statement");
            break;
        }
        if (out != nullptr) {
            SqlRow row;
            const int count = sqlite3_column_count(statement);
            for (int i = 0; i < count; ++i) {
                row.push_back(column(statement, i));
            }
            out->rows.push_back(std::move(row));
        }
    }
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return status;
}

Result<SqlResult> Database::execute(const std::string& sql, const SqlRow& parameters, bool with_names) {
    HG_RETURN_IF_ERROR(check());
    HG_ASSIGN(auto* statement, prepare(sql));
    SqlResult result;
    for (int i = 0; with_names && i < sqlite3_column_count(statement); ++i) {
        result.columns.emplace_back(sqlite3_column_name(statement, i));
    }
    const auto before = sqlite3_total_changes64(handle_);
    HG_RETURN_IF_ERROR(step_all(statement, parameters, &result));
    result.changes = sqlite3_total_changes64(handle_) - before;
    return result;
}

Result<std::int64_t> Database::execute_many(const std::string& sql, const std::vector<SqlRow>& rows) {
    HG_RETURN_IF_ERROR(check());
    const bool own = !in_transaction();
    if (own) {
        HG_RETURN_IF_ERROR(begin());
    }
    const auto before = sqlite3_total_changes64(handle_);
    const auto work = [&]() -> Status {
        HG_ASSIGN(auto* statement, prepare(sql));
        for (const auto& row : rows) {
            HG_RETURN_IF_ERROR(step_all(statement, row, nullptr));
        }
        return {};
    };
    auto status = work();
    const auto changes = static_cast<std::int64_t>(sqlite3_total_changes64(handle_) - before);
    if (own) {
        if (!status.ok()) {
            static_cast<void>(rollback());
            return status;
        }
        HG_RETURN_IF_ERROR(commit());
    }
    if (!status.ok()) {
        return status;
    }
    return changes;
}

Result<sqlite3_stmt*> Database::statement(const std::string& sql) {
    HG_RETURN_IF_ERROR(check());
    return prepare(sql);
}

Status Database::begin() {
    HG_RETURN_IF_ERROR(check());
    auto result = execute("BEGIN IMMEDIATE", {});
    return result.ok() ? Status() : result.status();
}

Status Database::commit() {
    HG_RETURN_IF_ERROR(check());
    auto result = execute("COMMIT", {});
    if (result.ok()) {
        return {};
    }
    static_cast<void>(rollback());  // if the disk is full, COMMIT fails and leaves the transaction open
    return result.status();
}

Status Database::rollback() {
    HG_RETURN_IF_ERROR(check());
    if (!in_transaction()) {
        return {};
    }
    auto result = execute("ROLLBACK", {});
    return result.ok() ? Status() : result.status();
}

bool Database::in_transaction() const {
    return handle_ != nullptr && sqlite3_get_autocommit(handle_) == 0;
}

}  // namespace headgate::backends
