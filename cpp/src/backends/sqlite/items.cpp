// Stores batches of items with their labels and announcements. Statements are prepared once for a batch, and texts are
// bound without a copy.
#include "statement.hpp"

namespace headgate::backends {
namespace {

constexpr const char* kWhat = "cannot store an item";
constexpr const char* kInsertItem =
    "INSERT INTO items (key, pipeline, source, status, timestamp, ingested_us, story_key, raw_key, doc, due_us)"
    " VALUES (?1, ?2, ?3, 'pending', ?4, ?5, ?6, ?7, ?8, ?5) ON CONFLICT (key) DO NOTHING";
constexpr const char* kInsertLabel =
    "INSERT OR IGNORE INTO item_labels (pipeline, label, timestamp, item) VALUES (?, ?, ?, ?)";
constexpr const char* kInsertOutbox = "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)";

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
        Bound insert(database, statements.item);
        insert.text(item.key).text(item.pipeline).text(item.source).text(item.timestamp).number(now_us);
        HG_ASSIGN(added, insert.maybe(item.story_key).maybe(item.raw_key).text(item.doc).changes(kWhat, &row));
    }
    if (!added) {
        return false;
    }
    for (const auto& label : item.labels) {
        Bound insert(database, statements.label);
        insert.text(item.pipeline).text(label).text(item.timestamp).number(row);
        HG_ASSIGN(const bool inserted, insert.changes(kWhat));
        static_cast<void>(inserted);
    }
    Bound insert(database, statements.outbox);
    insert.text(topic).text(item.key).text(item.announcement).number(now_us);
    HG_ASSIGN(const bool inserted, insert.changes(kWhat));
    static_cast<void>(inserted);
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
