// The tables of the store, as migrations. List number N migrates a file from version N to N + 1. A list that was
// released must not be edited; tests/golden contains a file of every version.
#pragma once

namespace headgate::backends {

inline constexpr const char* kMigrations[] = {
    // Version 0 to 1.
    R"sql(
CREATE TABLE ledger (
    key TEXT PRIMARY KEY, state INTEGER NOT NULL, token TEXT, owner TEXT, until_us INTEGER NOT NULL,
    attempts INTEGER NOT NULL, payload TEXT NOT NULL, result TEXT, last_error TEXT, expires_us INTEGER
) WITHOUT ROWID;
CREATE TABLE items (
    rowid INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, pipeline TEXT NOT NULL, source TEXT NOT NULL,
    status TEXT NOT NULL, timestamp TEXT NOT NULL, ingested_us INTEGER NOT NULL, story_key TEXT, raw_key TEXT,
    doc TEXT NOT NULL, sentiment TEXT, score REAL, model_version TEXT, analyses INTEGER NOT NULL DEFAULT 0,
    last_republished_us INTEGER, republish_attempts INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY, stage TEXT NOT NULL, pipeline TEXT NOT NULL, source TEXT NOT NULL, kind TEXT NOT NULL,
    reason TEXT NOT NULL, raw_key TEXT, doc TEXT NOT NULL, digest TEXT NOT NULL, created_us INTEGER NOT NULL,
    seen INTEGER NOT NULL DEFAULT 1, UNIQUE (stage, pipeline, digest)
);
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, created_us INTEGER NOT NULL,
    sent_us INTEGER
);
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_us IS NULL;
CREATE TABLE queue (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, grp TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL,
    visible_us INTEGER NOT NULL, deliveries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX queue_due ON queue (topic, grp, visible_us, id);
CREATE TABLE collection_events (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, pipeline TEXT NOT NULL, started_us INTEGER NOT NULL,
    doc TEXT NOT NULL
);
CREATE TABLE state (name TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE executions (
    id TEXT PRIMARY KEY, workflow TEXT NOT NULL, status TEXT NOT NULL, definition TEXT NOT NULL, input TEXT NOT NULL,
    output TEXT, error TEXT, cause TEXT, started_us INTEGER NOT NULL, ended_us INTEGER, cursor TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE execution_events (
    id INTEGER PRIMARY KEY, execution TEXT NOT NULL, at_us INTEGER NOT NULL, type TEXT NOT NULL, state TEXT,
    doc TEXT NOT NULL
);
CREATE INDEX execution_events_of ON execution_events (execution, id);
)sql",
    // Version 1 to 2. The healing sweep finds items by the time when they are due, not by their time of publication.
    R"sql(
ALTER TABLE items ADD COLUMN due_us INTEGER;
UPDATE items SET due_us = COALESCE(last_republished_us, ingested_us);
CREATE INDEX items_due ON items (pipeline, due_us) WHERE status = 'pending';
)sql",
    // Version 2 to 3. Stored keys of the ledger contain the version of the key scheme. The queue knows which worker has
    // a
    // message, so that the messages of a worker that has died are delivered again at once.
    R"sql(
UPDATE ledger SET key = 'v1:' || key;
ALTER TABLE queue ADD COLUMN owner TEXT;
)sql",
    // Version 3 to 4. Items are found by their labels and by their status, newest first. Dead letters of consumers are
    // sent
    // back to their queue, and each redrive has a claim of its own.
    R"sql(
CREATE TABLE item_labels (
    pipeline TEXT NOT NULL, label TEXT NOT NULL, timestamp TEXT NOT NULL, item INTEGER NOT NULL,
    PRIMARY KEY (pipeline, label, timestamp, item)
) WITHOUT ROWID;
INSERT OR IGNORE INTO item_labels (pipeline, label, timestamp, item)
    SELECT items.pipeline, tickers.value, items.timestamp, items.rowid
    FROM items, json_each(items.doc, '$.tickers') AS tickers WHERE tickers.type = 'text';
CREATE INDEX items_status ON items (pipeline, status, timestamp);
ALTER TABLE dead_letters ADD COLUMN redriven INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queue ADD COLUMN redrive INTEGER NOT NULL DEFAULT 0;
)sql",
    // Version 4 to 5. Dead letters keep the key, headers, attempts and id of their message. Claim keys of consumers
    // have a
    // new form; keys of the old form count as well until the last of them has expired. The queue uses an id only once
    // (AUTOINCREMENT), so that a late acknowledgement or the mark of a dead letter cannot apply to another message.
    R"sql(
DROP INDEX queue_due;
ALTER TABLE queue RENAME TO queue_v4;
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, grp TEXT NOT NULL, key TEXT NOT NULL,
    body TEXT NOT NULL, visible_us INTEGER NOT NULL, deliveries INTEGER NOT NULL DEFAULT 0, owner TEXT,
    redrive INTEGER NOT NULL DEFAULT 0
);
INSERT INTO queue (id, topic, grp, key, body, visible_us, deliveries, owner, redrive)
    SELECT id, topic, grp, key, body, visible_us, deliveries, owner, redrive FROM queue_v4;
DROP TABLE queue_v4;
CREATE INDEX queue_due ON queue (topic, grp, visible_us, id);
ALTER TABLE dead_letters ADD COLUMN key TEXT;
ALTER TABLE dead_letters ADD COLUMN headers TEXT;
ALTER TABLE dead_letters ADD COLUMN attempts INTEGER;
ALTER TABLE dead_letters ADD COLUMN message_id TEXT;
INSERT OR REPLACE INTO state (name, doc)
    SELECT 'ledger.legacy_keys', json_object('format', 1, 'until_us', until_us) FROM (
        SELECT max(CASE WHEN state = 1 THEN COALESCE(expires_us, 0)
                   ELSE max(until_us, CAST(strftime('%s', 'now') AS INTEGER) * 1000000) + 1209600000000 END) AS until_us
        FROM ledger)
    WHERE until_us IS NOT NULL;
)sql",
    // Version 5 to 6. An item records when and why it ended. The healing sweep looks whether an item's announcement is
    // still
    // in the outbox or in the queue.
    R"sql(
ALTER TABLE items ADD COLUMN ended_us INTEGER;
ALTER TABLE items ADD COLUMN reason TEXT;
CREATE INDEX outbox_unsent_of ON outbox (topic, key) WHERE sent_us IS NULL;
CREATE INDEX queue_of ON queue (topic, key);
)sql",
};

}  // namespace headgate::backends
