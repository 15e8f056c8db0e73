// Items with their labels and announcements, put in batches. Three prepared statements a new item, one a known one.
#include "headgate/backends/sqlite.hpp"

namespace headgate::backends {
namespace {

constexpr const char* kInsertItem =
    "INSERT INTO items (key, pipeline, source, status, timestamp, ingested_us, story_key, raw_key, doc, due_us)"
    " VALUES (?1, ?2, ?3, 'pending', ?4, ?5, ?6, ?7, ?8, ?5) ON CONFLICT (key) DO NOTHING RETURNING rowid";
constexpr const char* kInsertLabel =
    "INSERT OR IGNORE INTO item_labels (pipeline, label, timestamp, item) VALUES (?, ?, ?, ?)";
constexpr const char* kInsertOutbox = "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)";

Result<bool> put(Database& database, const std::string& topic, const NewItem& item, std::int64_t now_us) {
    HG_ASSIGN(const auto inserted, database.execute(kInsertItem, {item.key, item.pipeline, item.source, item.timestamp,
                                                                  now_us, item.story_key, item.raw_key, item.doc}));
    if (inserted.rows.empty()) {
        return false;
    }
    const auto& row = inserted.rows.front().front();
    for (const auto& label : item.labels) {
        HG_ASSIGN(const auto labelled, database.execute(kInsertLabel, {item.pipeline, label, item.timestamp, row}));
        static_cast<void>(labelled);
    }
    HG_ASSIGN(const auto announced, database.execute(kInsertOutbox, {topic, item.key, item.announcement, now_us}));
    static_cast<void>(announced);
    return true;
}

}  // namespace

Result<std::vector<bool>> put_items(Database& database, const std::string& topic, const std::vector<NewItem>& items,
                                    std::int64_t now_us) {
    const bool own = !database.in_transaction();
    if (own) {
        HG_RETURN_IF_ERROR(database.begin());
    }
    std::vector<bool> added;
    added.reserve(items.size());
    for (const auto& item : items) {
        auto one = put(database, topic, item, now_us);
        if (!one.ok()) {
            if (own) {
                static_cast<void>(database.rollback());
            }
            return one.status();
        }
        added.push_back(one.value());
    }
    if (own) {
        HG_RETURN_IF_ERROR(database.commit());
    }
    return added;
}

}  // namespace headgate::backends
