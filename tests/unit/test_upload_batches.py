"""Batches in the corners: what comes after the announcement, what nobody registered, and what makes an event that event."""

from __future__ import annotations

import json

import pytest

from headgate._core import ManualClock
from headgate.errors import InvalidInputError
from headgate.identity import event_id
from headgate.pipelines.uploads import (
    BatchTracker,
    EssayContentProvisionedV1,
    FileService,
    UploadedFile,
    Worked,
    replay_uploads,
)
from headgate.pipelines.uploads.batches import event_key
from headgate.pipelines.uploads.contracts import EXCESS, FAILED, READY

SECOND = 1_000_000
# UUIDs of version 5, of "u:3", the outcome as compact JSON, and the id of the event before.
GIVEN_UP = "9e9f063c-5bf6-52b9-aa87-4c10cb3131a6"
MENDED = "00bff821-6b84-55c9-a947-34953145816e"

TEXT = b"An essay of more than fifty characters, about canals and gates."


def essay(word):
    return UploadedFile(f"{word}.txt", (word + " ").encode() * 20)


def outcome(number, replaces=None, failed=False, text=""):
    """An outcome of the file `number`, in an envelope."""
    data = {"event": "essay.validation.failed" if failed else "essay.content.provisioned", "batch_id": "b",
            "original_file_name": f"{number}.txt", "raw_file_storage_id": f"raw-{number}",
            "text_storage_id": text or f"text-{number}"}  # fmt: skip
    if replaces is None:
        return {"event_id": f"first-{number}", "data": data}
    place = {"outcome": "x", "event_id": f"before-{number}", "first": f"first-{number}", "revision": replaces}
    return {"event_id": f"event-{number}-{replaces}", "replaces": place, "data": data}


def registered(count):
    return {
        "data": {"event": "batch.essays.registered", "batch_id": "b", "expected_count": count, "correlation_id": "c"}
    }


def handle(world, *bodies):
    with world.store.transaction() as tx:
        for body in bodies:
            world.tracker.handle(body, tx)
    return world.store.load_state("uploads.batch.b")


def test_the_identities_of_events_are_as_they_were():
    """They are parts of claims that live for weeks: a change would handle events twice."""
    assert event_key({"data": {"event": "batch.essays.registered", "batch_id": "b"}}) == "registered:b"
    finished = {"event": "essay.upload.finished", "batch_id": "b", "expected_count": 2, "upload_ts": "t"}
    assert event_key({"data": {**finished, "upload_id": "u"}}) == "finished:u"
    digest = event_id({**finished, "correlation_id": None})
    assert event_key({"event_id": "x", "data": finished}) == f"finished:{digest}"
    assert (
        event_key({"data": {**finished, "upload_id": None, "correlation_id": None, "more": 1}}) == f"finished:{digest}"
    )
    assert event_key({"event_id": "x", "data": {"event": "essay.validation.failed"}}) == "x"


def test_a_count_is_a_whole_number_however_json_writes_it(world):
    finished = {"event": "essay.upload.finished", "batch_id": "b", "upload_ts": "t"}
    with world.store.transaction() as tx:
        counts = [world.tracker.handle({"data": {**finished, "expected_count": n}}, tx) for n in (2, 2.0)]
    assert [found["received_count_from_uploads"] for found in counts] == [2, 4]
    for wrong in (2.5, True, "2", float("inf"), None):
        with pytest.raises(InvalidInputError, match="expected_count"), world.store.transaction() as tx:
            world.tracker.handle({"data": {**finished, "expected_count": wrong}}, tx)


@pytest.mark.parametrize("name", ["batch_id", "expected_count", "upload_ts", "correlation_id"])
def test_each_field_of_an_upload_s_end_tells_it_from_others(name):
    finished = {"event": "essay.upload.finished", "batch_id": "b", "expected_count": 2, "upload_ts": "t"}
    assert event_key({"data": finished}) != event_key(
        {"data": {**finished, name: 7 if name == "expected_count" else "x"}}
    )


def test_what_is_stored_of_a_batch(world):
    batch = handle(world, registered(2), outcome(1), outcome(2, failed=True))
    started = world.clock.now_us()
    content = {"text_storage_id": "text-1", "raw_file_storage_id": "raw-1", "original_file_name": "1.txt"}
    assert batch == {
        "format": 1, "status": "complete", "expected": 2, "received_count_from_uploads": 0, "failed": 1,
        "essays": [{"essay_id": "b-1", "file": "first-1", **content}], "unassigned": [], "started_us": started,
        "correlation_id": "c", "deadline_us": started + 900 * SECOND,
        "files": {"first-1": {"revision": 0, "outcome": "provisioned"}, "first-2": {"revision": 0, "outcome": "failed"}},
    }  # fmt: skip


def test_an_outcome_that_comes_twice_is_excess_once(world):
    """Also where nothing but the batch itself keeps a redelivery out."""
    handle(world, registered(1), outcome(1), outcome(2), outcome(2))
    assert [event["text_storage_id"] for event in world.events(EXCESS)] == ["text-2"]
    assert world.events(EXCESS)[0]["correlation_id"] == "c"
    assert len(world.events(READY)) == 1


def test_a_better_text_after_the_announcement_is_excess_and_the_essay_stays(world):
    batch = handle(world, registered(1), outcome(1), outcome(1, replaces=1, text="better"))
    assert [event["text_storage_id"] for event in world.events(EXCESS)] == ["better"]
    assert [essay["text_storage_id"] for essay in batch["essays"]] == ["text-1"]


def test_a_failure_takes_no_text_back(world):
    batch = handle(world, registered(2), outcome(1), outcome(1, replaces=1, failed=True))
    assert (batch["failed"], len(batch["essays"]), batch["status"]) == (0, 1, "waiting")


def test_a_later_failure_of_a_lost_file_changes_no_count(world):
    batch = handle(world, registered(2), outcome(1, failed=True), outcome(1, replaces=1, failed=True))
    assert (batch["failed"], batch["status"]) == (1, "waiting")
    batch = handle(world, outcome(1, replaces=2))
    assert (batch["failed"], len(batch["essays"]), batch["status"]) == (0, 1, "waiting")


def test_a_text_takes_the_place_of_its_predecessor_only(world):
    batch = handle(world, registered(3), outcome(1), outcome(2), outcome(2, replaces=1, text="better"))
    assert [essay["text_storage_id"] for essay in batch["essays"]] == ["text-1", "better"]


def test_messages_of_an_older_version_name_only_what_came_before(world):
    mended = outcome(1, replaces=1)
    mended["replaces"] = {"outcome": "failed", "event_id": "first-1"}
    for bodies in ((outcome(1, failed=True), mended), (mended, outcome(1, failed=True))):
        world.store.delete_state("uploads.batch.b")
        batch = handle(world, registered(2), *bodies)
        assert (batch["failed"], len(batch["essays"])) == (0, 1)
    batch = handle(world, {**mended, "data": {**mended["data"], "text_storage_id": "again"}})
    assert batch["files"]["first-1"]["revision"] == 1


def test_a_batch_that_nobody_registered_has_ids_and_takes_nothing_twice(world, clock):
    world.files.accept("b", [essay("one"), essay("two")], "corr")
    world.settle()
    clock.advance_us(900 * SECOND)
    assert world.tracker.check_timeouts() == 1
    (ready,) = world.events(READY)
    assert [e["essay_id"] for e in ready["essays"]] == ["b-1", "b-2"]
    assert (ready["failed_count"], ready["correlation_id"]) == (0, "corr")
    world.files.accept("b", [essay("late")])
    world.settle()
    assert [event["original_file_name"] for event in world.events(EXCESS)] == ["late.txt"]


def test_a_replay_that_fails_for_another_reason_changes_nothing(world):
    class Short:
        def extract(self, data):
            return "short"

    world.files.accept("b", [UploadedFile("a.essay", b"x")])
    world.settle()
    newer = FileService(world.content, world.store, world.clock, extractors={".essay": Short()})
    assert replay_uploads(newer, world.store).unchanged == 1
    assert world.store.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL") == 0


def test_a_replay_says_what_it_replaces(world):
    class Upper:
        def extract(self, data):
            return data.decode().upper()

    world.files.accept("b", [essay("one")], upload_id="k")
    world.settle()
    newer = FileService(world.content, world.store, world.clock, extractors={".txt": Upper()})
    replay_uploads(newer, world.store)
    ((name, known),) = world.store.states("uploads.file.")
    assert known["format"] == 1
    assert (known["outcome"], known["revision"], known["at_us"]) == ("provisioned", 1, world.clock.now_us())
    assert known["first"] != known["event_id"]
    assert name.endswith(":0")


def test_the_outcome_of_a_job_has_an_identity_that_lasts(world):
    """Of job, outcome and predecessor. A change would announce what waits during an update a second time."""
    job = {
        "upload_id": "u", "index": 3, "batch_id": "b", "original_file_name": "a.exe", "raw_file_storage_id": "raw-1",
        "file_size_bytes": 1, "correlation_id": "c",
    }  # fmt: skip
    world.files.give_up({"data": job}, "why", None)
    ((topic, key, text),) = world.store.db.execute("SELECT topic, key, body FROM outbox")
    body = json.loads(text)
    assert (topic, key, body["event_id"]) == (FAILED, "raw-1", GIVEN_UP)
    assert (body["correlation_id"], body["data"]["validation_error_message"]) == ("c", "why")
    known = world.store.load_state("uploads.file.u:3")
    assert known == {
        "format": 1, "job": job, "at_us": world.clock.now_us(), "event_id": GIVEN_UP, "first": GIVEN_UP, "revision": 0,
        "outcome": "failed", "code": "UNKNOWN_VALIDATION_ERROR",
    }  # fmt: skip
    event = EssayContentProvisionedV1(
        batch_id="b", original_file_name="a.exe", raw_file_storage_id="raw-1", text_storage_id="text-1",
        file_size_bytes=1, timestamp="t",
    )  # fmt: skip
    assert world.files.process(Worked(job, event), None) == event.model_dump(mode="json")
    body = json.loads(world.store.db.execute("SELECT body FROM outbox ORDER BY id")[1][0])
    assert body["event_id"] == MENDED
    assert body["replaces"] == {
        "outcome": "failed", "code": "UNKNOWN_VALIDATION_ERROR", "event_id": GIVEN_UP, "first": GIVEN_UP, "revision": 1
    }  # fmt: skip
    assert world.store.load_state("uploads.file.u:3") == {
        "format": 1, "job": job, "at_us": world.clock.now_us(), "event_id": MENDED, "first": GIVEN_UP, "revision": 1,
        "outcome": "provisioned", "text_storage_id": "text-1",
    }  # fmt: skip
    world.files.process(Worked(job, event), None)  # the same again: nothing to tell
    assert world.store.count("SELECT count(*) FROM outbox") == 2


@pytest.mark.parametrize("correlation_id", ["", "a\nb", 7])
def test_receive_checks_its_ids(world, correlation_id):
    with pytest.raises(InvalidInputError, match="correlation_id: expected "):
        world.files.receive("b", "a.txt", b"x", correlation_id)
    with pytest.raises(InvalidInputError, match="batch_id: expected "):
        world.files.receive(correlation_id, "a.txt", b"x")


def test_finished_batches_are_not_read_again(world, monkeypatch):
    """All batches of the store were read every second: half a core for 15,000 that were finished."""
    for n in range(5):
        world.register(f"b{n}", 1)
    world.files.accept("b0", [UploadedFile("a.txt", TEXT)])
    world.settle()
    assert world.tracker.check_timeouts() == 0  # looks once for batches of before
    assert [name for name, _ in world.store.states("uploads.open.")] == [f"uploads.open.b{n}" for n in range(1, 5)]
    read = []
    states = world.store.states
    monkeypatch.setattr(world.store, "states", lambda prefix: read.append(prefix) or states(prefix))
    world.clock.advance_us(901_000_000)
    assert world.tracker.check_timeouts() == 4
    assert world.tracker.check_timeouts() == 0
    assert read == ["uploads.open."] * 2
    assert states("uploads.open.") == []


def test_a_waiting_batch_of_an_earlier_version_still_ends(world):
    world.register("b", 2)
    world.settle()
    world.store.delete_state("uploads.open.b")
    world.clock.advance_us(901_000_000)
    assert BatchTracker(world.store, world.clock).check_timeouts() == 1


def test_a_batch_that_began_while_the_clock_was_ahead_waits_no_longer_than_others(world):
    world.clock.advance_us(86_400_000_000)
    world.register("b", 2)
    world.settle()
    back = ManualClock(world.clock.now_us() - 86_400_000_000)
    tracker = BatchTracker(world.store, back)
    assert tracker.check_timeouts() == 0
    back.advance_us(901_000_000)
    assert tracker.check_timeouts() == 1
