"""Conservation holds on every seed, and each of these bugs breaks it within two hundred."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os

import pytest

from headgate.backends.local import LocalDatabase, dumps
from headgate.consume import DeliveryResult, Outcome
from headgate.idempotency import Ledger
from headgate.testing.simulation import first_failure, simulate
from headgate.workflow._tasks import TaskTable

SEEDS = int(os.environ.get("HEADGATE_SIMULATION_SEEDS", "100"))  # `make chaos` runs a thousand
CHUNK = 5
pytestmark = pytest.mark.timeout(900)  # a seed takes one to five seconds, and a mutant may need many


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_no_seed_loses_or_doubles_a_record(start):
    found = first_failure(min(CHUNK, SEEDS - start), start=start)
    assert found is None, found


def test_the_same_seed_is_the_same_run():
    for seed in range(10):
        assert simulate(seed).trace == simulate(seed).trace
    assert len({simulate(seed).trace for seed in range(10)}) == 10


def test_the_faults_happen():
    reports = [simulate(seed) for seed in range(40)]
    assert sum(r.crashes for r in reports) > 800
    assert sum(r.power_losses for r in reports) > 60
    assert sum(r.lost_answers for r in reports) > 2000
    assert sum(r.stored for r in reports) > 600
    assert sum(r.dead_letters for r in reports) > 60
    assert sum(r.repeated for r in reports) > 5
    assert sum(r.executions for r in reports) > 200
    assert sum(r.uploads for r in reports) > 100
    assert sum(r.checkpoint_rows for r in reports) > 1000


# --- mutants: one part of every process is broken


class Broken:
    """Another object with some attributes replaced."""

    def __init__(self, real, **replaced):
        self._real = real
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(self._real, name)


def give(processor, **parts):
    """A processor with another consumer or ledger."""
    for name, value in parts.items():
        setattr(processor, name, value)
        setattr(processor._effect, f"_{name}", value)


def drop_the_token_check(sim, parts):
    def complete(keys, tokens, results):
        for key in keys:
            parts.database.execute("UPDATE ledger SET state = 1, expires_us = 1 << 60 WHERE key = ?", (f"v1:{key}",))

    parts.ledger.native = Broken(parts.ledger.native, complete=complete)


def end_item(parts, body, tx=None):
    if "event_type" not in body:  # another event about the record is no announcement of it
        parts.store.end_item(body["key"], "done", tx=tx)


def mark_before_the_effect(sim, parts):
    def run(delivery, body, claim, acknowledge):
        given = parts.worker.consumer.prepare(body)
        parts.ledger.complete(claim)
        with parts.database.transaction() as tx:
            parts.worker.consumer.handler(given, tx)
            end_item(parts, body, tx)
            acknowledge(tx)
        return Outcome.HANDLED

    parts.worker._processor._effect.run = run


def effect_outside_the_commit(sim, parts):
    def run(delivery, body, claim, acknowledge):
        given = parts.worker.consumer.prepare(body)
        with parts.database.transaction() as tx:
            parts.worker.consumer.handler(given, tx)
        with parts.database.transaction() as tx:
            end_item(parts, body, tx)
            acknowledge(tx)
            parts.ledger.complete(claim)
        return Outcome.HANDLED

    parts.worker._processor._effect.run = run


def heals_without_evidence(sim, parts):
    real = parts.store.full_items
    parts.store.full_items = lambda keys, group="": [{**item, "held_up": ""} for item in real(keys, group)]


def identity_with_the_mark(sim, parts):
    from headgate import event_id

    for worker in (parts.worker, parts.mirror, parts.far):
        object.__setattr__(worker.consumer, "key", event_id)


def item_ends_outside_the_commit(sim, parts):
    def run(delivery, body, claim, acknowledge):
        given = parts.worker.consumer.prepare(body)
        with parts.database.transaction() as tx:
            parts.worker.consumer.handler(given, tx)
            acknowledge(tx)
            parts.ledger.complete(claim)
        end_item(parts, body)
        return Outcome.HANDLED

    parts.worker._processor._effect.run = run


def sweep_that_stops_at_a_failing_item(sim, parts):
    """What cannot be announced ends the sweep, and what is behind it never has its turn."""
    real = parts.store.full_items

    def full_items(keys, group=""):
        found = real(keys, group)
        unreadable = [at for at, item in enumerate(found) if item["key"] in sim.unreadable]
        return found[: unreadable[0]] if unreadable else found

    parts.store.full_items = full_items
    sim.message_loss = 0.5


def rename_without_fsync(sim, parts):
    parts.files.sync = lambda path: None


def raw_after_the_items(sim, parts):
    real = parts.intake.keep_raw
    later = []

    def keep_raw(source, body, meta=None):
        import hashlib

        later.append((source, body, meta))
        digest = hashlib.sha256(body).hexdigest()
        return f"raw/simulated/{source}/{digest[:2]}/{digest}"

    accept = parts.intake.accept

    def accept_then_keep(source, body, context=None):
        taken = accept(source, body, context)
        while later:
            real(*later.pop())
        return taken

    parts.intake.keep_raw, parts.intake.accept = keep_raw, accept_then_keep


def announce_in_a_commit_of_its_own(sim, parts):
    real = parts.store.put_items

    def put_items(items, topic, bodies):
        parts.database.native.commit()  # what the intake's transaction has so far
        stored = real(items, topic, bodies)
        parts.database.execute(
            "DELETE FROM outbox WHERE key IN (SELECT value FROM json_each(?))", (dumps(list(stored.new_keys)),)
        )
        parts.database.native.begin()
        for key in stored.new_keys:
            parts.store.publish(topic, key, bodies[key])
        return stored

    parts.store.put_items = put_items


def forget_done_keys(sim, parts):
    parts.ledger = Ledger.on_database(parts.database, done_ttl=0.5, clock=sim.clock, random=sim.tokens)
    # The embedded queue removes a message with its effect, and an item's end is known: messages come twice from SQS.
    for worker in (parts.worker, parts.mirror):
        worker.ledger = parts.ledger
        give(worker._processor, ledger=parts.ledger)


def lose_dead_letters(sim, parts):
    parts.store.add_dead_letters = lambda letters: None


def double_dead_letters(sim, parts):
    def add(letters):
        for letter in letters:
            parts.database.execute(
                "INSERT INTO dead_letters (stage, pipeline, source, kind, reason, doc, digest, created_us)"
                " VALUES ('intake', 'p', 's', 'k', 'r', ?, hex(randomblob(8)) || (SELECT count(*) FROM dead_letters), 0)",
                (letter.doc,),
            )

    parts.store.add_dead_letters = add


def commit_what_failed(sim, parts):
    @contextlib.contextmanager
    def transaction():
        if parts.database.native.in_transaction:
            yield parts.database
            return
        parts.database.native.begin()
        try:
            yield parts.database
        finally:
            parts.database.native.commit()

    parts.database.transaction = transaction


def acknowledge_what_failed(sim, parts):
    """The claim of a failed message is completed, as a template does that commits in `finally`."""
    processor = parts.worker._processor

    def failed(delivery, claim, error, acknowledge):
        parts.ledger.complete(claim)
        acknowledge(parts.database)
        return DeliveryResult(Outcome.HANDLED)

    processor._failed = failed


def announced_whatever_the_service_says(sim, parts):
    """The outbox row is marked although nobody took the announcement."""
    real = parts.publisher
    parts.publisher = Broken(real, publish=lambda rows: (real.publish(rows) and []) or [row.row for row in rows])


def deleted_on_receipt(sim, parts):
    """The message goes before its effect happened, as with auto-acknowledgement."""
    client = parts.mirror._client

    def receive_message(**options):
        answer = client.receive_message(**options)
        for message in answer["Messages"]:
            client.delete_message(QueueUrl="q", ReceiptHandle=message["ReceiptHandle"])
        return answer

    parts.mirror._client = Broken(client, receive_message=receive_message)


def in_progress_taken_for_done(sim, parts):
    """A duplicate is acknowledged while the one who has it may still die."""
    ledger = parts.far._processor.ledger
    real = ledger.claim

    def claim(key, lease, **more):
        found = real(key, lease, **more)
        found.status = "done" if found.status == "in_progress" else found.status
        return found

    give(parts.far._processor, ledger=Broken(ledger, claim=claim))


def among_messages(mutant):
    """Run it with the components that messages pass through: the others only take time."""
    mutant.components = ("intake", "queue", "healing", "broker")
    return mutant


@among_messages
def event_type_dropped_from_the_key(sim, parts):
    """Two kinds of events about one record are one event."""
    processor = parts.worker._processor
    give(processor, consumer=dataclasses.replace(processor.consumer, event_type="event"))


@among_messages
def result_refused_after_the_effect(sim, parts):
    """What JSON cannot hold is found out when the effect has happened, and counts as a failure."""
    ledger = parts.far._processor.ledger

    def complete(claim, result=None, **options):
        json.dumps(result)
        return ledger.complete(claim, result, **options)

    give(parts.far._processor, ledger=Broken(ledger, complete=complete))


@among_messages
def letter_redriven_taken_for_a_duplicate(sim, parts):
    """A dead letter's claim is done, and nothing tells the letter that comes back from a second delivery."""
    processor = parts.far._processor
    ledger, process = processor.ledger, processor.process

    def complete(claim, result=None, **options):
        marked = isinstance(result, dict) and "dead_letter" in result
        return ledger.complete(claim, {} if marked else result, **options)

    give(processor, ledger=Broken(ledger, complete=complete))
    processor.process = lambda delivery, *more: process(dataclasses.replace(delivery, redrive=0), *more)


@among_messages
def outbox_head_too_large(sim, parts):
    """What cannot be sent is not set aside, and nothing behind it is sent."""
    real = parts.publisher

    def publish(rows):
        large = next((i for i, row in enumerate(rows) if len(row.body) > 4_000), len(rows))
        return list(real.publish(rows[:large]))

    parts.publisher = Broken(real, publish=publish)


def stages_that_never_fail(sim, parts):
    """A stage's failure is swallowed: the next one starts without its input."""

    def swallow(function):
        def run(payload):
            try:
                return function(payload)
            except Exception:
                return {"status": "SUCCESS"}

        return run

    functions = {name: swallow(function) for name, function in parts.runner.functions.items()}
    parts.runner.tasks = TaskTable(functions, {})


def bodies_that_are_not_kept(sim, parts):
    """Collected items are stored, the response that they came in is not."""
    real = parts.intake.keep_raw

    def keep_raw(source, body, meta=None):
        import hashlib

        digest = hashlib.sha256(body).hexdigest()
        key = f"raw/simulated/{source}/{digest[:2]}/{digest}"
        return key if source.startswith("feed") else real(source, body, meta)

    parts.intake.keep_raw = keep_raw


def uploads_that_are_not_stored(sim, parts):
    """The answer comes before the raw file is durable: it is stored with the next request."""
    content = parts.files_service.content
    later = []

    def store_content(data, content_type):
        if content_type != "raw_upload_blob":
            return content.store_content(data, content_type)
        import hashlib

        later.append((data, content_type))
        return f"content/{content_type}/{hashlib.sha256(data).hexdigest()}"

    accept = parts.files_service.accept

    def accept_then_store(*arguments, **options):
        while later:
            content.store_content(*later.pop())
        return accept(*arguments, **options)

    parts.files_service.content = Broken(content, store_content=store_content)
    parts.files_service.accept = accept_then_store


def outcomes_in_a_commit_of_their_own(sim, parts):
    """The event is announced before the job is completed; a crash in between works on the file again."""
    service, worker = parts.files_service, parts.upload_workers[0]
    real = worker.consumer

    def work(body):
        worked = service.work(body)
        with parts.store.transaction():
            service.conclude(worked)
        return worked

    give(
        worker._processor,
        consumer=dataclasses.replace(
            real, prepare=work, handler=lambda worked, tx: worked.event.model_dump(mode="json")
        ),
    )


def on_checkpoints(mutant):
    mutant.checkpoint = True
    return mutant


@on_checkpoints
def tables_without_fsync(sim, parts):
    parts.files.sync = lambda path: None


@on_checkpoints
def commits_without_condition(sim, parts):
    """Whoever comes last wins, as with a plain PUT."""
    real = parts.transport

    def transport(requests, timeout_us):
        plain = [
            (method, url, [h for h in headers if method != "PUT" or not h[0].lower().startswith("if-")], body)
            for method, url, headers, body in requests
        ]
        return real(plain, timeout_us)

    parts.transport = transport


@on_checkpoints
def every_file_is_new(sim, parts):
    """What was taken is not looked up: a lost answer or a second run takes it again."""
    parts.options = {**parts.options, "rescan": True}
    real = parts.transport

    def transport(requests, timeout_us):
        empty = [i for i, (method, url, _, _) in enumerate(requests) if method == "PUT" and ".ledger/" in url]
        answers = real([r for i, r in enumerate(requests) if i not in empty], timeout_us) if not empty else []
        return answers or [(i, {"status": 200, "body": b"", "headers": []}) for i in empty]

    parts.transport = transport


def frame_committed_before_its_effect(sim, parts):
    """A stage counts as done before it has run."""
    from headgate.workflow._attempts import Done, apply_outcome
    from headgate.workflow._drive import Drive

    class Early(Drive):
        def _run_one(self):
            frame = self._next_task()
            if frame is not None:
                request, _ = self._prepare(frame)
                apply_outcome(self.engine, frame, Done({}))
                self._commit_task()
                self.runner.tasks.run(request)

    parts.runner._drive = lambda engine, owner: Early(parts.runner, engine, owner).run()


def lease_not_compared(sim, parts):
    """Whoever commits last wins, though another runner has taken the execution over."""
    real = parts.runner.store.commit

    def commit(engine, owner, until_us, new, wake_us):
        parts.database.execute("UPDATE workflow_runs SET owner = ? WHERE execution = ?", (owner, engine.record.id))
        real(engine, owner, until_us, new, wake_us)

    parts.runner.store.commit = commit


def history_out_of_order(sim, parts):
    """The events of one commit are written backwards."""
    real = parts.runner.store.commit

    def commit(engine, *more):
        events = engine.history.take()
        engine.history.take = lambda: list(reversed(events))
        try:
            real(engine, *more)
        finally:
            del engine.history.take

    parts.runner.store.commit = commit


for mutant in (frame_committed_before_its_effect, lease_not_compared, history_out_of_order):
    mutant.components = ("intake", "queue", "healing", "workflow")
sweep_that_stops_at_a_failing_item.components = ("intake", "queue", "healing")


MUTANTS = [
    drop_the_token_check, mark_before_the_effect, effect_outside_the_commit, rename_without_fsync, raw_after_the_items,
    announce_in_a_commit_of_its_own, forget_done_keys, lose_dead_letters, double_dead_letters, commit_what_failed,
    acknowledge_what_failed, announced_whatever_the_service_says, deleted_on_receipt, in_progress_taken_for_done,
    stages_that_never_fail, bodies_that_are_not_kept, tables_without_fsync, commits_without_condition,
    every_file_is_new, uploads_that_are_not_stored, outcomes_in_a_commit_of_their_own,
    event_type_dropped_from_the_key, result_refused_after_the_effect, letter_redriven_taken_for_a_duplicate,
    outbox_head_too_large, heals_without_evidence, identity_with_the_mark, item_ends_outside_the_commit,
    sweep_that_stops_at_a_failing_item,
    frame_committed_before_its_effect, lease_not_compared, history_out_of_order,
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant):
    options = {"components": mutant.components} if hasattr(mutant, "components") else {}
    found = first_failure(200, mutant=mutant, **options)
    assert found is not None
    print(f"{mutant.__name__}: seed {found.seed}: {found.violations[0]}")
    # It is the mutant that breaks it.
    assert simulate(found.seed, **options).violations == []


def test_weak_durability_is_caught():
    """synchronous=NORMAL is for a process that dies, not for a loss of power."""
    assert first_failure(200, durability="normal") is not None


def test_a_users_handler_runs_in_it():
    seen = []

    def handler(body, tx):
        seen.append(body["colour"])
        tx.execute("CREATE TABLE IF NOT EXISTS mine (key TEXT UNIQUE)")
        tx.execute("INSERT INTO mine VALUES (?)", (body["key"],))  # twice would be an error for ever

    messages = [{"colour": "red"}, {"colour": "blue"}]
    assert first_failure(20, handler=handler, messages=messages) is None
    assert set(seen) == {"red", "blue"}


def test_a_users_handler_that_commits_by_itself_is_caught():
    def handler(body, tx):
        tx.native.commit()
        tx.native.begin()

    def effect_first(sim, parts):
        sim._insert_effect, real = lambda body, tx: None, sim._insert_effect
        sim._handler = lambda body, tx: (real(body, tx), handler(body, tx))

    assert first_failure(200, handler=handler, mutant=effect_first) is not None


def test_databases_on_the_simulated_disk_keep_what_they_acknowledged():
    """SQLite itself on this disk: a crash at any operation, power lost or not, and every commit that returned is there."""
    import random

    from headgate._core import SimDisk
    from headgate.errors import HeadgateError

    for seed in range(150):
        disk, rng, kept, n = SimDisk(seed), random.Random(seed), set(), 0
        for _ in range(5):
            disk.revive("p")
            disk.stop_after("p", rng.randrange(0, 80))
            with contextlib.suppress(HeadgateError):
                database = LocalDatabase("p@h.db", busy_timeout_s=0, disk=disk)
                database.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, m INTEGER)")
                found = database.execute("SELECT n, m FROM t")
                assert kept <= {n for n, _ in found}
                assert all(n == m for n, m in found)
                assert database.execute("PRAGMA integrity_check") == [("ok",)]
                while n < 10_000:
                    n += 1
                    with database.transaction() as tx:
                        tx.execute("INSERT INTO t VALUES (?, 0)", (n,))
                        tx.execute("UPDATE t SET m = n WHERE m = 0")
                    kept.add(n)
            database = None
            if rng.random() < 0.6:
                disk.lose_power()
            else:
                disk.kill("p")


def test_reports_are_plain_data():
    report = simulate(1)
    assert json.dumps(vars(report))
