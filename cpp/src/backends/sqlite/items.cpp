// Items with their labels and announcements, put in batches: statements are prepared once, texts are bound where they
// are.
#include <sqlite3.h>

#include "headgate/backends/sqlite.hpp"

namespace headgate::backends {
namespace {

constexpr const char* kInsertItem =
    "INSERT INTO items (key, pipeline, source, status, timestamp, ingested_us, story_key, raw_key, doc, due_us)"
    " VALUES (?1, ?2, ?3, 'pending', ?4, ?5, ?6, ?7, ?8, ?5) ON CONFLICT (key) DO NOTHING RETURNING rowid";
constexpr const char* kInsertLabel =
    "INSERT OR IGNORE INTO item_labels (pipeline, label, timestamp, item) VALUES (?, ?, ?, ?)";
constexpr const char* kInsertOutbox = "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)";

// Binds by position and runs; the texts outlive the call. The statement is reset on the way out.
class Run {
public:
    Run(Database& database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}
    ~Run() {
        sqlite3_reset(statement_);
        sqlite3_clear_bindings(statement_);
    }
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    Run& text(const std::string& value) {
        note(sqlite3_bind_text64(statement_, ++at_, value.data(), value.size(), SQLITE_STATIC, SQLITE_UTF8));
        return *this;
    }
    Run& number(std::int64_t value) {
        note(sqlite3_bind_int64(statement_, ++at_, value));
        return *this;
    }
    Run& maybe(const SqlValue& value) {
        if (const auto* found = std::get_if<std::string>(&value)) {
            return text(*found);
        }
        ++at_;  // NULL, as cleared bindings are
        return *this;
    }
    // Whether there is a row; its first column goes to `out`.
    Result<bool> go(std::int64_t* out = nullptr) {
        int code = failed_ ? SQLITE_ERROR : sqlite3_step(statement_);
        const bool row = code == SQLITE_ROW;
        if (row && out != nullptr) {
            *out = sqlite3_column_int64(statement_, 0);
        }
        while (code == SQLITE_ROW) {
            code = sqlite3_step(statement_);
        }
        if (code != SQLITE_DONE) {
            return database_.step_failed("cannot store an item");
        }
        return row;
    }

private:
    void note(int code) { failed_ = failed_ || code != SQLITE_OK; }

    Database& database_;
    sqlite3_stmt* statement_;
    int at_ = 0;
    bool failed_ = false;
};

struct Statements {
    sqlite3_stmt* item;
    sqlite3_stmt* label;
    sqlite3_stmt* outbox;
};

Result<bool> put(Database& database, const Statements& statements, const std::string& topic, const NewItem& item,
                 std::int64_t now_us) {
    std::int64_t row = 0;
    bool added = false;
    {
        Run run(database, statements.item);
        run.text(item.key).text(item.pipeline).text(item.source).text(item.timestamp).number(now_us);
        HG_ASSIGN(added, run.maybe(item.story_key).maybe(item.raw_key).text(item.doc).go(&row));
    }
    if (!added) {
        return false;
    }
    for (const auto& label : item.labels) {
        Run run(database, statements.label);
        HG_ASSIGN(const bool rows, run.text(item.pipeline).text(label).text(item.timestamp).number(row).go());
        static_cast<void>(rows);
    }
    Run run(database, statements.outbox);
    HG_ASSIGN(const bool rows, run.text(topic).text(item.key).text(item.announcement).number(now_us).go());
    static_cast<void>(rows);
    return true;
}

Result<std::vector<bool>> put_all(Database& database, const std::string& topic, const std::vector<NewItem>& items,
                                  std::int64_t now_us) {
    Statements statements{};
    HG_ASSIGN(statements.item, database.statement(kInsertItem));
    HG_ASSIGN(statements.label, database.statement(kInsertLabel));
    HG_ASSIGN(statements.outbox, database.statement(kInsertOutbox));
    std::vector<bool> added;
    added.reserve(items.size());
    for (const auto& item : items) {
        HG_ASSIGN(const bool is_new, put(database, statements, topic, item, now_us));
        added.push_back(is_new);
    }
    return added;
}

}  // namespace

Result<std::vector<bool>> put_items(Database& database, const std::string& topic, const std::vector<NewItem>& items,
                                    std::int64_t now_us) {
    const bool own = !database.in_transaction();
    if (own) {
        HG_RETURN_IF_ERROR(database.begin());
    }
    auto added = put_all(database, topic, items, now_us);
    if (own && !added.ok()) {
        static_cast<void>(database.rollback());
    } else if (own) {
        HG_RETURN_IF_ERROR(database.commit());
    }
    return added;
}

}  // namespace headgate::backends
