"""Properties 0-18 of spec 002, each on generated events and files; the model is plain Python."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from headgate import _core
from headgate._registry import shipped_plan
from headgate.checkpoint import Checkpoint, CheckpointRun, update, verify
from headgate.checkpoint._places import target_place
from headgate.checkpoint.schema import Timestamp
from headgate.errors import AccessError, InvalidInputError, NotFoundError, TransientError
from headgate.pipelines.visits import S3EventRetriever, VisitEvent, Visits
from headgate.pipelines.visits.models import FILE_NAMES, MODULES
from headgate.pipelines.visits.retriever import redacted

CORE = _core.Validator(shipped_plan("visits"))
START = datetime(2024, 1, 1, tzinfo=UTC)
ACTIONS = ("submit", "pass-qc", "not-pass-qc", "delete")
TEXT = st.sampled_from(["alpha", "beta", "gamma-2", "é", "x" * 40])
PTID = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="/"), min_size=1, max_size=10)
# Few distinct times: ties are where order matters.
TIME = st.integers(0, 400).map(lambda n: START + timedelta(seconds=n // 4 * 37, microseconds=n % 2 * 250))


@st.composite
def events(draw):
    form = draw(st.booleans())
    return {
        "action": draw(st.sampled_from(ACTIONS)), "study": draw(st.sampled_from(["adrc", "dvcid"])),
        "pipeline_adcid": draw(st.integers(1, 2**31 - 1).flatmap(lambda n: st.sampled_from([n, str(n)]))),
        "project_label": "ingest-form", "center_label": draw(TEXT), "gear_name": draw(TEXT), "ptid": draw(PTID),
        "visit_date": (START - timedelta(days=draw(st.integers(0, 90)))).strftime("%Y-%m-%d"),
        "visit_number": draw(st.sampled_from([None, "01", "02", "007"])),
        "datatype": "form" if form else "dicom", "module": draw(st.sampled_from(MODULES)) if form else None,
        "packet": draw(st.sampled_from([None, "I", "F"])), "timestamp": draw(TIME).isoformat(),
    }  # fmt: skip


BAD = st.sampled_from([b"", b"{", b"[]", b"null", b"\xff", b'{"action": "submit"}', b'{"a":1,"a":2}', b"[" * 3000])
FILES = st.lists(st.one_of(events().map(lambda e: json.dumps(e).encode()), BAD), max_size=12)


@pytest.fixture(scope="module")
def space():
    folder = Path(tempfile.mkdtemp(prefix="headgate-property-"))
    yield folder
    shutil.rmtree(folder)


class World:
    """A folder of event files and its checkpoint; a new one for every example."""

    count = 0

    def __init__(self, space):
        World.count += 1
        self.folder = space / str(World.count)
        self.logs, self.target = self.folder / "logs", self.folder / "e.parquet"
        self.logs.mkdir(parents=True)
        self.written = 0

    def write(self, *bodies):
        for body in bodies:
            name = f"log-submit-20240101-0000{self.written % 60:02}-{self.written + 1}-p-1-01.json"
            (self.logs / name).write_bytes(body)
            self.written += 1

    def update(self, **options):
        options = {"schema": "visits", **options}
        run = update(self.logs, self.target, settle_s=0, threads=1, row_group_rows=4, **options)
        assert run.adds_up() == []
        return run

    def rows(self):
        return Checkpoint.read(self.target).dataframe().to_pylist() if self.target.exists() else []


def valid(body):
    try:
        return VisitEvent.from_json(body)
    except (ValueError, RecursionError):
        return None


def row(event):
    return event.model_dump()


def multiset(rows):
    return Counter(json.dumps(r, sort_keys=True, default=str) for r in rows)


many = settings(max_examples=100, deadline=None)


class Tick(BaseModel):
    headgate_sort_by: ClassVar[str] = "at"

    at: Timestamp | None = None
    n: int


def groups_after(groups, times, new, full):
    """The row groups of a table of these times: kept as long as nothing new falls into them, and while they are larger
    than what comes after them."""

    def key(time):
        return time is not None, time

    first, before, kept = min((time for time, _ in new), key=key), 0, []
    older = [time for time in times if key(time) <= key(first)]
    older = older[: len(older) - sum(time == first for time, _ in new)]
    for rows in groups:
        if before + rows > len(older):
            break
        before += rows
        kept.append(rows)
    while kept and kept[-1] != full and kept[-1] <= len(times) - before:
        before -= kept.pop()
    written = len(times) - before
    return kept + [full] * (written // full) + [written % full] * (written % full > 0)


SECONDS = st.one_of(st.none(), st.integers(-2, 40))


@settings(max_examples=300, deadline=None)
@given(
    waves=st.lists(st.lists(SECONDS, max_size=9), max_size=6), group=st.integers(1, 5), rising=st.booleans(),
    memory=st.sampled_from([1, 1 << 28]),
)  # fmt: skip
def test_updates_merge_stably_whatever_row_groups_they_keep(space, waves, group, rising, memory):
    """Rising waves keep whole row groups as bytes, the others tear them open: the rows are those of a stable sort.

    Records without a time come first, as the file says (nulls first).
    """
    world = World(space)
    model = []
    groups = []
    for w, wave in enumerate(waves):
        times = [None if s is None else START + timedelta(seconds=s + 25 * w * rising) for s in wave]
        new = [(time, 100 * w + i) for i, time in enumerate(times)]
        lines = [json.dumps({"at": time and time.isoformat(), "n": n}) for time, n in new]
        (world.logs / f"{w}.jsonl").write_text("\n".join(lines))
        newest = max((time for time, _ in model if time), default=None)
        run = update(world.logs, world.target, schema=Tick, settle_s=0, threads=1, row_group_rows=group, memory=memory)
        assert run.late_rows == (sum(1 for time in times if time and time < newest) if newest else 0)
        model = sorted(model + new, key=lambda row: (row[0] is not None, row[0]))
        newest = max((time for time, _ in model if time), default=START)
        last = run.last_timestamp_us
        assert last is None or START + timedelta(microseconds=last - int(START.timestamp() * 1e6)) == newest
        if model:
            table = pq.read_table(world.target)
            assert table.column("n").to_pylist() == [n for _, n in model]
            assert table.column("at").to_pylist() == [time for time, _ in model]
            metadata = pq.ParquetFile(world.target).metadata
            assert metadata.row_group(0).sorting_columns[0].nulls_first
            by_hand = Checkpoint.from_events([Tick(at=time, n=n) for time, n in reversed(model)], Tick)
            assert by_hand.dataframe().column("at").to_pylist() == [time for time, _ in model]
            if new:
                groups = groups_after(groups, [time for time, _ in model], new, group)
            assert groups == [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            assert verify(world.target, world.logs, schema=Tick).ok


@many
@given(waves=st.lists(FILES, max_size=3))
def test_nothing_is_dropped_or_deduplicated(space, waves):
    """Feature: event-log-scraper, Properties 0, 2, 4, 14, 15: merge = every old event and every new one, bad files aside."""
    world, expected, bad = World(space), [], 0
    for wave in waves:
        world.write(*wave)
        good = [e for e in map(valid, wave) if e]
        expected += map(row, good)
        run = world.update()
        bad += len(wave) - len(good)
        if world.target.exists():
            assert run.rows_total == len(expected)
            assert verify(world.target, world.logs).ok
    assert multiset(world.rows()) == multiset(expected)


@many
@given(waves=st.lists(st.lists(events(), max_size=8), min_size=1, max_size=3))
def test_rows_are_in_stable_time_order(space, waves):
    """Feature: event-log-scraper, Property 16: sorted by timestamp, ties as they came."""
    world, model = World(space), []
    for wave in waves:
        world.write(*(json.dumps(e).encode() for e in wave))
        world.update()
        new = [VisitEvent.model_validate(e) for e in wave]
        # Files of one run are taken in the order of their names.
        numbers = range(world.written - len(wave), world.written)
        order = sorted(numbers, key=lambda n: f"{n % 60:02}-{n + 1}-")
        model += [row(new[n - numbers.start]) for n in order]
        model.sort(key=lambda r: r["timestamp"])
    assert [r["timestamp"] for r in world.rows()] == [r["timestamp"] for r in model]
    assert world.rows() == model


@many
@given(names=st.lists(st.one_of(
    st.from_regex(r"\Alog-(submit|pass-qc|x)-2024011[0-9]-10000[0-9]-4-ingest-form(-x)?-[!-.0-~]{1,11}-0?1\.json\Z"),
    st.from_regex(r"\Alog-delete-2024011[0-9]\.jsonx?\Z"), st.just("notes.txt")), max_size=8, unique=True))  # fmt: skip
def test_listing_is_exactly_the_pattern(space, names):
    """Feature: event-log-scraper, Property 1: the core lists what the grammar of Python's `re` accepts."""
    world = World(space)
    fits = [n for n in names if any(re.fullmatch(p, n) for p in FILE_NAMES)]
    for name in names:
        (world.logs / name).write_bytes(b"{}")
    run = world.update(dry_run=True)
    assert (run.taken_files, run.ignored) == (len(fits), len(names) - len(fits))


class Place:
    """The keys of a bucket, and what reading each of them gives or raises."""

    def __init__(self, found):
        self.found = found

    def list(self):
        return list(self.found)

    def get(self, key, shown):
        body = self.found[key]
        if isinstance(body, Exception):
            raise body
        return body


def retriever(found):
    made = object.__new__(S3EventRetriever)
    made._place, made._since = Place(found), None
    return made


FITTING = st.from_regex(r"\Alog-(submit|delete)-2024011[0-9]-10000[0-9]-4-ingest-form-[!-.0-~]{1,10}-01\.json\Z")
FOLDER = st.sampled_from(["", "prod/", "prod/a b/", "log-submit-20240110.json/"])


@many
@given(names=st.lists(st.tuples(FOLDER, FITTING | st.sampled_from(
    ["log-delete-20240110.json", "log-delete-20240110.jsonx", "log-fly-20240110.json", "x/", ""])), max_size=8))  # fmt: skip
def test_the_retriever_lists_exactly_the_pattern(names):
    """Feature: event-log-scraper, Property 1, for the retriever: the name fits, whatever folder it is in."""
    keys = {folder + name: b"{}" for folder, name in names}
    fits = {folder + name for folder, name in names if any(re.fullmatch(p, name) for p in FILE_NAMES)}
    assert set(retriever(keys).list_event_files()) == fits


FAILURES = st.sampled_from([
    NotFoundError("gone"), TransientError("slow"), AccessError("refused"), InvalidInputError("too large"),
])  # fmt: skip


@many
@given(found=st.lists(events().map(lambda e: json.dumps(e).encode()) | BAD | FAILURES, max_size=8))
def test_files_that_fail_do_not_stop_the_others(found):
    """Feature: event-log-scraper, Property 4: whatever one file's reading raises or brings."""
    keys = {f"p/log-submit-20240101-0000{n:02}-4-ingest-form-S-7-01.json": body for n, body in enumerate(found)}
    good = [valid(body) for body in found if isinstance(body, bytes) and valid(body) is not None]
    if found and all(isinstance(body, AccessError) for body in found):
        with pytest.raises(AccessError):
            retriever(keys).retrieve_and_validate_events()
        return
    taken, errors = retriever(keys).retrieve_and_validate_events()
    assert taken == good
    assert len(errors) == len(found) - len(good)
    assert all(error["errors"] and "S-7" not in error["source_key"] for error in errors)


# Requirements 2.1 to 2.13: what breaks each rule.
BROKEN = st.one_of(
    st.tuples(st.just("action"), st.sampled_from(["", "fly", "SUBMIT", "submit ", None, 1])),
    st.tuples(st.sampled_from(["study", "project_label", "center_label", "gear_name"]),
              st.sampled_from(["", " ", None, 1, ["a"]])),
    st.tuples(st.just("pipeline_adcid"), st.integers(max_value=0) | st.integers(2**31) | st.sampled_from(
        ["", "x", "-1", "1.0", "0", 1.5, None, True, [1]])),
    st.tuples(st.just("ptid"), st.text("abc", min_size=11) | st.sampled_from(["", " ", "a b", "é", None, 7])),
    st.tuples(st.just("visit_date"), st.sampled_from(["", "2024-1-1", "2024-02-30", "01/02/2024", "2024-01-01T00:00:00Z",
                                                      None, 20240101])),
    st.tuples(st.sampled_from(["visit_number", "packet"]), st.integers() | st.booleans() | st.just(["1"])),
    st.tuples(st.just("datatype"), st.sampled_from(["", "mri", "FORM", None, 1])),
    st.tuples(st.just("module"), st.sampled_from([None, "", "uds", "XYZ", 1])),  # of a form
    st.tuples(st.just("timestamp"), st.sampled_from(["", "yesterday", "2024-01-01", "2024-13-01T00:00:00Z", None])),
    st.tuples(st.sampled_from(["extra", "Action", ""]), st.just("x")),
)  # fmt: skip
FORM_RULE = "module"


@many
@given(event=events(), broken=BROKEN)
def test_every_rule_is_enforced(event, broken):
    """Feature: event-log-scraper, Property 5: one field that breaks a rule refuses the event, naming the field, in
    pydantic and in the core alike."""
    field, value = broken
    event |= {"datatype": "form", "module": "UDS"} if field == FORM_RULE else {}
    good = json.dumps(event).encode()
    assert CORE.problems(good) == []
    bad = json.dumps({**event, field: value}).encode()
    with pytest.raises(ValidationError) as caught:
        VisitEvent.from_json(bad)
    fields = {".".join(map(str, error["loc"])) for error in caught.value.errors()}
    assert field in fields or field == FORM_RULE
    # The core names no field that it does not know: the name may be anything, a person's too.
    expected = (field, None) if field in VisitEvent.model_fields else ("", "unknown")
    assert expected in {(name, None if name else kind) for name, kind in CORE.problems(bad)}


@many
@given(event=events(), field=st.sampled_from(["action", "pipeline_adcid", "ptid", "visit_date", "datatype", "timestamp",
                                              "project_label", "center_label", "gear_name"]))  # fmt: skip
def test_a_required_field_is_required(event, field):
    """Feature: event-log-scraper, Property 5: what is missing."""
    del event[field]
    bad = json.dumps(event).encode()
    assert valid(bad) is None
    assert field in {problem[0] for problem in CORE.problems(bad)}


@many
@given(first=st.lists(events(), min_size=1, max_size=6), second=st.lists(events(), max_size=6))
def test_watermark_takes_strictly_later_events_only(space, first, second):
    """Feature: event-log-scraper, Property 3: in watermark mode only what is strictly later than the cutoff."""
    world = World(space)
    world.write(*(json.dumps(e).encode() for e in first))
    world.update(mode="watermark")
    cutoff = max(VisitEvent.model_validate(e).timestamp for e in first)
    assert Checkpoint.read(world.target).get_last_processed_timestamp() == cutoff
    world.write(*(json.dumps(e).encode() for e in second))
    later = [e for e in map(VisitEvent.model_validate, second) if e.timestamp > cutoff]
    assert world.update(mode="watermark").rows_added == len(later)
    retriever = object.__new__(S3EventRetriever)
    retriever._since = cutoff
    assert sum(map(retriever.should_process_event, map(VisitEvent.model_validate, second))) == len(later)


@many
@given(event=events())
def test_models_and_tables_round_trip(space, event):
    """Feature: event-log-scraper, Properties 6, 7, 8, 9: types, nulls, JSON and Parquet keep every value."""
    model = VisitEvent.from_json(json.dumps(event))
    assert model.pipeline_adcid == int(event["pipeline_adcid"])
    assert [getattr(model, k) for k in ("visit_number", "module", "packet")] == [
        event[k] for k in ("visit_number", "module", "packet")
    ]
    assert VisitEvent.from_json(model.model_dump_json()) == model
    world = World(space)
    world.write(json.dumps(event).encode())
    world.update()
    assert world.rows() == [row(model)]
    made = Checkpoint.from_events([model])
    assert made.dataframe().schema.equals(Checkpoint.read(world.target).dataframe().schema)
    assert made.dataframe().to_pylist() == world.rows()


@many
@given(first=st.lists(events(), max_size=6), second=st.lists(events(), max_size=6))
def test_checkpoints_by_hand_equal_the_engines(space, first, second):
    """Feature: event-log-scraper, Property 0, for `Checkpoint.add_events`."""
    one, two = (list(map(VisitEvent.model_validate, part)) for part in (first, second))
    both = Checkpoint.from_events(one).add_events(two)
    assert both.get_event_count() == len(one) + len(two)
    assert both.is_empty() == (not one and not two)
    model = sorted(map(row, sorted(one, key=lambda e: e.timestamp) + two), key=lambda r: r["timestamp"])
    assert both.dataframe().to_pylist() == model


class Silent:
    """An observer that tells nobody."""

    def metric(self, *_, **__):
        pass

    info = warning = metric


@many
@given(
    bucket=st.from_regex(r"\A[a-z0-9][a-z0-9-]{1,20}[a-z0-9]\Z"),
    key=st.text("ab/.é😀 %?#&+=~'\"", min_size=1, max_size=20).filter(
        lambda k: k.strip("/.") and not k.startswith("/") and "//" not in k and not {".", ".."} & set(k.split("/"))
    ),
)
def test_a_successful_answer_holds_the_address(bucket, key):
    """Feature: event-log-scraper, Property 10, as it is stated: for any bucket and any key."""
    from headgate.backends import s3
    from headgate.checkpoint._places import s3_url, shown
    from headgate.handlers import _checkpoint

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3, "ProcessClient", lambda make: None)  # a client takes a second, and no address needs one
        target = shown(s3_url(bucket, key))
    counts = dict.fromkeys(CheckpointRun._fields, 0)
    run = CheckpointRun(**{
        **counts, "committed": True, "last_timestamp_us": None, "rejects": [], "unread": [],
        "target": target,
    })  # fmt: skip
    answer = _checkpoint._success(run, Silent(), 0.0)
    assert (answer["statusCode"], answer["checkpoint_path"]) == (200, f"s3://{bucket}/{key}")


@pytest.mark.parametrize("bucket", ["b", "my-bucket"])
@pytest.mark.parametrize("key", ["e.parquet", "a/b c/e.parquet"])
def test_the_output_path_names_bucket_and_key(bucket, key, monkeypatch):
    """Feature: event-log-scraper, Property 10: the answer holds the S3 URI."""
    from headgate.checkpoint._places import shown

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    url = f"s3://{bucket}/{key.replace(' ', '%20')}"
    assert shown(url) == f"s3://{bucket}/{key}"
    assert (target_place(url)["bucket"], target_place(url)["key"]) == (bucket, key)


@many
@given(found=st.lists(events(), max_size=15), center=TEXT, action=st.sampled_from(ACTIONS),
       packet=st.sampled_from([None, "I", "F"]), since=TIME, until=TIME)  # fmt: skip
def test_filters_give_exactly_the_matching_events(found, center, action, packet, since, until):
    """Feature: event-log-scraper, Property 11."""
    rows = [row(VisitEvent.model_validate(e)) for e in found]
    visits = Visits.from_events(rows)
    ordered = visits.dataframe().to_pylist()

    def expect(result, keep):
        assert result.dataframe().to_pylist() == [r for r in ordered if keep(r)]
        assert len(result) == sum(map(keep, ordered))

    expect(visits.center(center), lambda r: r["center_label"] == center)
    expect(visits.action(action, "submit"), lambda r: r["action"] in (action, "submit"))
    expect(visits.packet(packet), lambda r: r["packet"] == packet)
    expect(visits.packet(packet, "I"), lambda r: r["packet"] in (packet, "I"))
    expect(visits.logged(since, until), lambda r: since <= r["timestamp"] < until)
    expect(visits.logged(since.replace(tzinfo=None).isoformat()), lambda r: since <= r["timestamp"])
    expect(visits.visited("2023-12-01", "2023-12-20"), lambda r: "2023-12-01" <= r["visit_date"] < "2023-12-20")
    expect(visits.center(center).action(action), lambda r: (r["center_label"], r["action"]) == (center, action))


@many
@given(found=st.lists(events(), max_size=12), action=st.sampled_from(ACTIONS))
def test_days_from_the_visit(found, action):
    """Feature: event-log-scraper, Property 12."""
    rows = (
        Visits.from_events([row(VisitEvent.model_validate(e)) for e in found]).days_to(action).dataframe().to_pylist()
    )
    assert len(rows) == sum(e["action"] == action for e in found)
    for r in rows:
        visit = datetime.fromisoformat(r["visit_date"]).replace(tzinfo=UTC)
        assert r["days"] == pytest.approx((r["timestamp"] - visit) / timedelta(days=1))


@many
@given(
    found=st.lists(events(), max_size=15),
    by=st.sets(st.sampled_from(["module", "packet", "action", "center_label"]), min_size=1),
)
def test_group_counts(found, by):
    """Feature: event-log-scraper, Property 13: any combination of fields, null a value of its own."""
    by = sorted(by)
    visits = Visits.from_events([row(VisitEvent.model_validate(e)) for e in found])
    model = Counter(tuple(e[c] for c in by) for e in found)
    assert {tuple(r[c] for c in by): r["count"] for r in visits.count_by(*by)} == model
    outcomes = visits.qc_outcomes("center_label")
    assert sum(r["pass-qc"] for r in outcomes) == visits.actions().get("pass-qc", 0)
    assert sum(r["not-pass-qc"] for r in outcomes) == visits.actions().get("not-pass-qc", 0)


@many
@given(found=st.lists(events(), max_size=15))
def test_the_latest_event_of_each_visit_and_completeness(found):
    """Feature: event-log-scraper, Property 17: null visit numbers group as a value; center and study belong to the key."""
    visits = Visits.from_events([row(VisitEvent.model_validate({**e, "ptid": "1"})) for e in found])
    latest = {}
    for r in visits.dataframe().to_pylist():  # in the order of time: the last one wins
        latest[r["center_label"], r["study"], r["visit_date"], r["visit_number"]] = r
    newest = visits.latest().dataframe().to_pylist()
    assert multiset(newest) == multiset(latest.values())
    complete = visits.completeness()
    submitted = {k for k in latest if any(
        (r["center_label"], r["study"], r["visit_date"], r["visit_number"]) == k and r["action"] == "submit"
        for r in visits.dataframe().to_pylist())}  # fmt: skip
    assert sum(r["submitted"] for r in complete) == len(submitted)
    assert all(0 <= r["passed"] <= r["submitted"] for r in complete)


@settings(max_examples=100, deadline=None)
@given(files=FILES)
def test_logs_count_and_hide(space, files):
    """Feature: event-log-scraper, Property 18: counts in the log, every validation error with its path, redacted."""
    from headgate.handlers import _checkpoint
    from headgate.handlers._observe import Observer

    world = World(space)
    world.write(*files)
    run = world.update()
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    log = logging.getLogger("headgate.test-service")
    observer = object.__new__(Observer)
    observer._log, observer._plain, observer._tracer, observer._metrics, observer._measured = (
        None,
        log,
        None,
        None,
        False,
    )
    handler = Keep()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        answer = _checkpoint._success(run, observer, 0.0)
    finally:
        log.removeHandler(handler)
    done = records[-1]
    assert (done.files_read, done.events_processed, done.events_failed) == (
        run.taken_files, run.rows_added, run.rejected_records)  # fmt: skip
    rejected = [r for r in records if r.getMessage() == "record rejected"]
    assert len(rejected) == run.rejected_records
    assert all(r.file.startswith("log-") and "****" in r.file and r.problems for r in rejected)
    assert answer["events_failed"] == run.rejected_records


@many
@given(found=st.lists(events(), min_size=1, max_size=10), packing=st.sampled_from(["", ".gz", ".zst"]))
def test_json_lines_and_packed_files_give_the_same_rows(space, found, packing):
    """One file of many records, packed or not, equals many files."""
    import pyarrow as pa

    world = World(space)
    text = b"\n".join(json.dumps(e).encode() for e in found) + b"\n\n{\n"
    packed = {"": text, ".gz": gzip.compress(text), ".zst": pa.compress(text, "zstd", asbytes=True)}[packing]
    (world.logs / f"events.jsonl{packing}").write_bytes(packed)
    run = update(world.logs, world.target, schema=Lines, settle_s=0, threads=1)
    assert (run.rows_added, run.rejected_records) == (len(found), 1)
    assert run.rejects[0].offset == len(text) - 2
    assert multiset(world.rows()) == multiset(row(VisitEvent.model_validate(e)) for e in found)


class Lines(VisitEvent):
    """Visit events in files of any name."""

    headgate_name = "lines"
    headgate_file_names = ()
    headgate_private = ()


def test_names_are_redacted_as_the_core_does():
    name = "log-submit-20240115-100000-42-ingest-form-110001-2024-01-15.json"
    assert redacted(f"prod/{name}") == "log-submit-20240115-100000-42-ingest-form-****-2024-01-15.json"
    assert redacted("prod/anything.json") == "****"
