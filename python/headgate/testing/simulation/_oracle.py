"""Conservation: what the world must look like, at every step and at the end."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends.local import LocalDatabase
from headgate.errors import HeadgateError, NotFoundError
from headgate.pipelines.uploads.contracts import FAILED, PROVISIONED, READY
from headgate.testing.simulation._components import LARGE_TOPIC, TABLE, TOPIC

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headgate.ports import Json
    from headgate.testing.simulation._world import Simulation

# What a workflow's history says of its stages, in its order.
_STAGES = [(f"TaskState{what}", state) for state in ("Read", "Double", "Sum") for what in ("Entered", "Exited")]


class Oracle:
    """Looks at the world as somebody who comes fresh; disturbs nothing.

    Args:
        world: what is judged; its report takes the violations.
    """

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self._seen: dict[str, set[str]] = {"disk": set(), "bucket": set()}  # rows that a checkpoint had
        self._tables: dict[str, bytes | None] = {}  # as they were judged last

    def judge(self, *, final: bool) -> None:
        """The store, its raw bodies and effects; at the end the workflows and checkpoints too."""
        world = self.world
        try:
            database = world.fresh_database()
            try:
                self._store(database, final=final)
            finally:
                database.close()
        except HeadgateError as error:
            if final or error.kind.value != "invalid_input":  # no table yet: nothing was accepted
                self.broken(f"the store cannot be read: {error.kind.value}")
            elif world.accepted:
                self.broken("the store lost its tables")
        finally:
            world.disk.kill("oracle")

    def table(self, place: str, *, final: bool = False) -> None:
        """A checkpoint: readable, no row twice, none lost, none made up."""
        world = self.world
        data = self._bytes(place)
        if data == self._tables.get(place) and not final:
            return
        self._tables[place] = data
        rows: Counter[str] = Counter()
        if data is not None:
            from pyarrow import ArrowException, parquet

            try:
                table = parquet.read_table(io.BytesIO(data), use_threads=False)
            except (ArrowException, OSError):
                self.broken(f"the checkpoint on {place} cannot be read")
                return
            rows = Counter(table["key"].to_pylist())
        for key, count in rows.items():
            if count > 1:
                self.broken(f"the event {key} is {count} times in the checkpoint on {place}")
        if not self._seen[place] <= set(rows):
            self.broken(f"the checkpoint on {place} lost rows that it had")
        if not set(rows) <= world.written[place]:
            self.broken(f"the checkpoint on {place} has events that nobody wrote")
        if final and not world.acknowledged[place] <= set(rows):
            self.broken(f"the checkpoint on {place} lacks events")
        self._seen[place] = set(rows)
        if final:
            world.report.checkpoint_rows += len(rows)

    def broken(self, what: str) -> None:
        """Note a violation, once."""
        if what not in self.world.report.violations:
            self.world.report.violations.append(what)

    # --- the store

    def _store(self, database: LocalDatabase, *, final: bool) -> None:
        world = self.world
        rows = database.execute("SELECT key, status, raw_key FROM items")
        items = {key: status for key, status, _ in rows}
        effects = Counter(key for (key,) in database.execute("SELECT key FROM effects"))
        mirrored = Counter(key for (key,) in database.execute("SELECT key FROM mirrored"))
        changes = Counter(key for (key,) in database.execute("SELECT key FROM changes"))
        dead_letters = Counter(
            json.loads(doc)["n"] for (doc,) in database.execute("SELECT doc FROM dead_letters WHERE stage = 'intake'")
        )
        announced = {key for (key,) in database.execute("SELECT key FROM outbox")}
        objects = core.file_store("objects", world.files("oracle"))
        for key in {raw_key for _, _, raw_key in rows}:
            if not objects.exists(key):
                self.broken("a record is stored whose raw body is not")
        raw = {objects.get(key) for key in objects.list("raw/simulated/push/") if not key.endswith(".meta.json")}
        records = [record for body in world.accepted for record in json.loads(body)]
        if any(body not in raw for body in world.accepted):
            self.broken("an accepted body is not in the object store")
        for record in records if not final else [*records, *world.feed]:
            self._record(record, items, dead_letters, announced)
        for name, found in (("effect", effects), ("mirror", mirrored), ("change", changes)):
            for key, count in found.items():
                if count > 1:
                    self.broken(f"the {name} of {key} happened {count} times")
                if key not in items:
                    self.broken(f"the {name} of {key} happened, but the record is not stored")
        for key, status in items.items():
            if (effects[key] > 0) != (status == "done"):
                self.broken(f"the effect of {key} happened {effects[key]} times, and the item is {status}")
        for key, count in database.execute(
            "SELECT key, count(*) FROM (SELECT key, body FROM outbox WHERE topic = ?1 AND sent_us IS NULL UNION ALL"
            " SELECT key, body FROM queue WHERE topic = ?1 AND grp = 'effects')"
            " WHERE json_extract(body, '$.event_type') IS NULL GROUP BY key HAVING count(*) > 1",
            (TOPIC,),
        ):
            self.broken(f"{key} is on its way {count} times: it was announced again while its message was there")
        for name in (key for key in items if key not in announced):
            self.broken(f"{name} is stored and was never announced")
        self._uploads(database, objects, final=final)
        if final:
            self._at_the_end(items, effects, mirrored, dead_letters)
            for key in self.world.changed:
                if changes[key] != 1:
                    self.broken(f"the change of {key} happened {changes[key]} times")
            self._outbox(database)
            self._workflows(database, objects)

    def _outbox(self, database: LocalDatabase) -> None:
        """Nothing waits forever: what can be sent is sent, what cannot is set aside, once."""
        if database.execute("SELECT count(*) FROM outbox WHERE sent_us IS NULL")[0][0]:
            self.broken("an announcement is still unsent after the faults ended")
        if not self.world.has_broker:
            return
        (large,) = database.execute("SELECT count(*) FROM outbox WHERE topic = ?", (LARGE_TOPIC,))[0]
        (aside,) = database.execute("SELECT count(*) FROM dead_letters WHERE stage = 'outbox'")[0]
        if aside != large:
            self.broken(f"{aside} announcements are set aside, and {large} are too large")

    def _record(self, record: Json, items: dict[str, str], dead_letters: Counter[Any], announced: set[str]) -> None:
        if isinstance(record["n"], str):
            if dead_letters[record["n"]] != 1:
                self.broken(f"a bad record has {dead_letters[record['n']]} dead letters")
            return
        key = f"k{record['n']}"
        if key not in items or key not in announced:
            self.broken(f"the accepted record {key} is not stored and announced")

    def _at_the_end(
        self, items: Iterable[str], effects: Counter[str], mirrored: Counter[str], dead_letters: Counter[Any]
    ) -> None:
        world, report = self.world, self.world.report
        for key in items:
            if effects[key] != 1 and key not in world.unreadable:
                self.broken(f"{key} is still pending after the faults ended")
            if world.has_broker and mirrored[key] != 1:
                self.broken(f"{key} did not reach the mirror")
            if world.has_broker and world.far_effects[key] < 1:
                self.broken(f"the effect of {key} far away is lost")
        repeated = sum(world.far_effects.values()) - len(world.far_effects)
        report.repeated = repeated
        # Outside a transaction an effect is repeated only where its mark was lost, or its lease outlived.
        if repeated > world.excuses():
            self.broken(f"{repeated} effects far away were repeated, with {world.excuses()} reasons to")
        report.accepted = sum(len(json.loads(body)) for body in world.accepted) + len(world.feed)
        report.stored, report.dead_letters = len(list(items)), len(dead_letters)

    # --- the other components

    def _uploads(self, database: LocalDatabase, objects: Any, *, final: bool) -> None:
        """Each file of an accepted request has one outcome, and its batch is announced once with all of them."""
        bodies = database.execute(
            "SELECT topic, body FROM outbox WHERE topic IN (?, ?, ?)", (PROVISIONED, FAILED, READY)
        )
        outcomes: Counter[str] = Counter()
        batches: Counter[str] = Counter()
        for topic, text in bodies:
            data = json.loads(text)["data"]
            if topic == READY:
                batches[data["batch_id"]] += 1
                if len(data["essays"]) + data["failed_count"] != data["expected_count"]:
                    self.broken(f"the batch {data['batch_id']} was announced before it was complete")
                continue
            outcomes[data["raw_file_storage_id"]] += 1
            if topic == PROVISIONED and not objects.exists(data["text_storage_id"]):
                self.broken("a text is announced and not stored")
        if any(count > 1 for count in (outcomes | batches).values()):
            self.broken("an upload's outcome was announced twice")
        for batch, files in self.world.uploaded:
            for file in files:
                key = f"content/raw_upload_blob/{hashlib.sha256(file.data).hexdigest()}"
                if not objects.exists(key):
                    self.broken("an upload was accepted and is not stored")
                if final and outcomes[key] != 1:
                    self.broken(f"an upload has {outcomes[key]} outcomes")
            if final and batches[batch] != 1:
                self.broken(f"the batch {batch} was announced {batches[batch]} times")
        if final:
            self.world.report.uploads = len(outcomes)

    def _workflows(self, database: LocalDatabase, objects: Any) -> None:
        found = {
            row[0]: row[1:]
            for row in database.execute("SELECT id, status, error FROM executions")
            if self.world.accepted
        }
        for body in self.world.accepted if "workflow" in self.world.components else ():
            run = self.world.execution_of(body)
            status, error = found.get(run, (None, None))
            if status == "FAILED" and error:
                continue
            if status != "SUCCEEDED":
                self.broken(f"a workflow has not ended: {status}")
                continue
            self.world.report.executions += 1
            happened = [
                tuple(row)
                for row in database.execute(
                    "SELECT type, coalesce(state, '') FROM execution_events WHERE execution = ? ORDER BY id", (run,)
                )
            ]
            stages = [(kind, state) for kind, state in happened if kind in ("TaskStateEntered", "TaskStateExited")]
            if stages != _STAGES:
                self.broken(f"a workflow's stages came in the order {stages}")
            if (happened[0][0], happened[-1][0]) != ("ExecutionStarted", "ExecutionSucceeded"):
                self.broken(f"a workflow's history begins with {happened[0][0]} and ends with {happened[-1][0]}")
            numbers = [record["n"] for record in json.loads(body) if isinstance(record["n"], int)]
            expected = {"Read": numbers, "Double": [2 * n for n in numbers], "Sum": 2 * sum(numbers)}
            for stage, data in expected.items():
                key = f"executions/{run}/{stage}/output.json"
                try:
                    kept = json.loads(objects.get(key))["data"]
                except (NotFoundError, ValueError):
                    kept = None
                if kept != data:
                    self.broken(f"the workflow's stage {stage} succeeded without its output")

    def _bytes(self, place: str) -> bytes | None:
        if place == "bucket":
            return self.world.bucket.objects.get("table.parquet")
        return bytes(self.world.disk.read(TABLE)) if TABLE in self.world.disk.list(TABLE) else None
