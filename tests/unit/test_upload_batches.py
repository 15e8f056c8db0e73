"""Batches in the corners: what comes after the announcement, what nobody registered, and what makes an event that event."""

from __future__ import annotations

import pytest

from headgate.identity import event_id
from headgate.pipelines.uploads import UploadedFile, replay_uploads
from headgate.pipelines.uploads.batches import event_key
from headgate.pipelines.uploads.contracts import EXCESS, READY

SECOND = 1_000_000


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


def test_a_replay_says_what_it_replaces(world):
    from headgate.pipelines.uploads import FileService

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
