// A prepared statement for code that runs often. Texts are bound without a copy, so they have to live until run()
// returns.
#pragma once

#include <sqlite3.h>

#include <string>

#include "headgate/backends/sqlite.hpp"

namespace headgate::backends {

// Binds parameters in their order and runs the statement once. The destructor resets it.
class Bound {
public:
    Bound(Database& database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}
    ~Bound() {
        sqlite3_reset(statement_);
        sqlite3_clear_bindings(statement_);
    }
    Bound(const Bound&) = delete;
    Bound& operator=(const Bound&) = delete;

    Bound& text(const std::string& value) {
        note(sqlite3_bind_text64(statement_, ++at_, value.data(), value.size(), SQLITE_STATIC, SQLITE_UTF8));
        return *this;
    }
    Bound& number(std::int64_t value) {
        note(sqlite3_bind_int64(statement_, ++at_, value));
        return *this;
    }
    Bound& maybe(const SqlValue& value) {
        if (const auto* found = std::get_if<std::string>(&value)) {
            return text(*found);
        }
        ++at_;  // cleared bindings are NULL
        return *this;
    }
    // Runs the statement. Returns whether a row was changed, and sets `rowid` to the last inserted one. A RETURNING
    // clause would tell that too, but with it SQLite keeps a statement journal and writes every changed page once more.
    Result<bool> changes(const char* what, std::int64_t* rowid = nullptr) {
        if (failed_ || sqlite3_step(statement_) != SQLITE_DONE) {
            return database_.step_failed(what);
        }
        auto* handle = sqlite3_db_handle(statement_);
        if (sqlite3_changes64(handle) == 0) {
            return false;
        }
        if (rowid != nullptr) {
            *rowid = sqlite3_last_insert_rowid(handle);
        }
        return true;
    }

private:
    void note(int code) { failed_ = failed_ || code != SQLITE_OK; }

    Database& database_;
    sqlite3_stmt* statement_;
    int at_ = 0;
    bool failed_ = false;
};

}  // namespace headgate::backends
