"""What enters a ledger is checked, what a handler returns is kept by one rule, whatever it is; the backends' own cases
are in headgate.testing.conformance."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import json
import logging
import os
import pathlib
import threading
import time
import uuid

import pydantic
import pytest

from headgate import Ledger, StaleLeaseError
from headgate.backends.local import LocalDatabase
from headgate.errors import ConfigError, ForkedError, InvalidInputError, Kind, TransientError
from headgate.idempotency import AsyncLedger
from headgate.idempotency._results import dump_result, text_or_reason


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    camel_case: int = pydantic.Field(alias="camelCase")
    at: dt.datetime
    price: decimal.Decimal


@dataclasses.dataclass
class Point:
    x: int
    when: dt.date
    inner: object = None


class Raises:
    def model_dump(self, **_):
        raise RuntimeError("mine")


WHEN = dt.datetime(2026, 5, 1, 10, 0, 0, 250000, tzinfo=dt.timezone(dt.timedelta(hours=2)))
KEPT = [
    (None, None),
    ({"a": [1, 2.5, True, None, "x"]}, {"a": [1, 2.5, True, None, "x"]}),
    ((1, (2, 3)), [1, [2, 3]]),
    (WHEN, "2026-05-01T10:00:00.250000+02:00"),
    (dt.datetime(2026, 5, 1), "2026-05-01T00:00:00"),
    (dt.date(2026, 5, 1), "2026-05-01"),
    (dt.time(1, 2, 3), "01:02:03"),
    (dt.timedelta(minutes=1, milliseconds=500), 60.5),
    (decimal.Decimal("1.10"), "1.10"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    (b"\x00\xff", "AP8="),
    (bytearray(b"a"), "YQ=="),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (Point(1, dt.date(2026, 1, 2), {"deep": {decimal.Decimal(2)}}), {"x": 1, "when": "2026-01-02", "inner": {"deep": ["2"]}}),
    (
        [Model(camelCase=1, at=dt.datetime(2026, 5, 1, tzinfo=dt.UTC), price=decimal.Decimal("2.50"))],
        [{"camelCase": 1, "at": "2026-05-01T00:00:00Z", "price": "2.50"}],
    ),
    ({1: "a", None: "b", True and 2.5: "c", dt.date(2026, 1, 1): "d", Colour.RED: "e", uuid.UUID(int=1): "f"},
     {"1": "a", "null": "b", "2.5": "c", "2026-01-01": "d", "red": "e", "00000000-0000-0000-0000-000000000001": "f"}),
    ("half \udce9", "half \udce9"),
]  # fmt: skip


def circular():
    one = {}
    one["self"] = [one]
    return one


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED = [
    (object(), "unknown_type"),
    ([1, {"x": object()}], "unknown_type"),
    (iter([]), "unknown_type"),
    (Point, "unknown_type"),
    (circular(), "circular"),
    (deep(501), "too_deep"),
    (deep(100_000), "too_deep"),
    ({1: "a", "1": "b"}, "equal_keys"),
    ([{dt.date(2026, 1, 1): 1, "2026-01-01": 2}], "equal_keys"),
    ({(1, 2): 3}, "key"),
    (Raises(), "raised"),
    (10**5000, "number_out_of_range"),
]


@pytest.mark.parametrize(("value", "expected"), KEPT)
def test_results_are_kept_by_one_rule(value, expected):
    assert json.loads(dump_result(value)) == expected
    assert json.loads(dump_result({"in": [value]})) == {"in": [expected]}


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=[f"{r}-{i}" for i, (_, r) in enumerate(REFUSED)])
def test_what_cannot_be_kept_says_why(value, reason):
    assert text_or_reason(value) == (None, reason)
    assert dump_result(value) is None


def test_plain_results_are_written_as_before():
    for value in ({"b": 1, "a": [1, 2]}, "ключ", 1.5, float("inf"), deep(500), [], {}, "half \udce9", True):
        assert dump_result(value) == json.dumps(value, separators=(",", ":"))


def test_the_same_value_twice_is_not_circular():
    twice = [1]
    assert dump_result({"a": twice, "b": {decimal.Decimal(1): twice}}) == '{"a":[1],"b":{"1":[1]}}'


def test_a_serializer_gives_json_text():
    assert text_or_reason(object(), lambda _: '{"a": 1}') == ('{"a": 1}', "")
    assert text_or_reason(object(), lambda _: b"[1]") == ("[1]", "")
    for wrong in ("not json", None, {"a": 1}, '"\udce9"', b"\xff"):
        assert text_or_reason(1, lambda _, wrong=wrong: wrong) == (None, "serializer")
    assert text_or_reason(1, lambda _: 1 / 0) == (None, "raised")
    ledger = Ledger.open("memory://")
    ledger.complete(ledger.claim("k"), None, serializer=lambda _: '"none"')
    assert ledger.claim("k").result == "none"


class Counts:
    def __init__(self):
        self.found = []

    def count(self, name, amount=1.0, **labels):
        self.found.append((name, amount, labels))


class Secret:
    """Its name may be told, what it holds may not."""


def test_a_result_that_is_not_kept_is_told(caplog):
    counts = Counts()
    ledger = Ledger.open("memory://", metrics=counts)
    with caplog.at_level(logging.WARNING, "headgate.idempotency"):
        assert ledger.complete(ledger.claim("private-key"), Secret()) is False
    assert counts.found == [("headgate_results_not_kept_total", 1.0, {"reason": "unknown_type"})]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("headgate.idempotency", "WARNING")
    assert (record.reason, record.type) == ("unknown_type", "Secret")
    assert "private-key" not in str(record.__dict__)
    assert str(Secret.__doc__) not in str(record.__dict__)
    ledger.metrics = None
    assert ledger.complete(ledger.claim("k2"), Secret()) is False
    assert len(counts.found) == 1


class Fussy:
    """A backend that refuses results: all, or those that are long."""

    def __init__(self, real, error, longest=4):
        self._real, self._error, self._longest = real, error, longest
        self.calls = []

    def __getattr__(self, name):
        return getattr(self._real, name)

    def complete(self, keys, tokens, results):
        self.calls.append(list(results))
        if any(len(result) > self._longest for result in results):
            raise self._error
        self._real.complete(keys, tokens, results)


@pytest.mark.parametrize(
    ("error", "result", "reason"),
    [
        (InvalidInputError("too large", Kind.MESSAGE_TOO_LARGE), "x" * 10, "too_large"),
        (InvalidInputError("no"), "x" * 10, "refused"),
        (TransientError("hung up"), "x" * 1_000_001, "refused"),
    ],
)
def test_a_refused_result_is_tried_once_without(error, result, reason):
    counts = Counts()
    ledger = Ledger.open("memory://", metrics=counts)
    ledger.native = Fussy(ledger.native, error)
    assert ledger.complete(ledger.claim("k"), result) is False
    assert [texts[-1][:4] for texts in ledger.native.calls] == ['"xxx', "null"]
    assert ledger.claim("k").status == "done"
    assert counts.found[0][2] == {"reason": reason}
    claims = ledger.claim_many(["a", "b", "c"])
    assert ledger.complete_many(claims, [1, result, 2]) == [True, False, True]
    assert [c.result for c in ledger.claim_many(["a", "b", "c"])] == [1, None, 2]


def test_an_error_that_is_not_the_results_is_raised():
    ledger = Ledger.open("memory://")
    ledger.native = Fussy(ledger.native, TransientError("away"), longest=0)
    with pytest.raises(TransientError):
        ledger.complete(ledger.claim("k"), "short")
    ledger.native._error = InvalidInputError("no")
    with pytest.raises(InvalidInputError):  # not even without a result
        ledger.complete(ledger.claim("l"), "short")
    with pytest.raises(InvalidInputError):
        ledger.complete(ledger.claim("m"), None)


def test_a_refused_result_inside_a_transaction_keeps_the_effect(tmp_path):
    database = LocalDatabase(str(tmp_path / "s.db"))
    ledger = Ledger.on_database(database)
    database.execute("CREATE TABLE effects (n)")
    claim = ledger.claim("k")
    with claim.transaction(object()) as tx:
        tx.execute("INSERT INTO effects VALUES (1)")
    assert database.execute("SELECT n FROM effects") == [(1,)]
    assert (ledger.claim("k").status, ledger.claim("k").result) == ("done", None)


@pytest.mark.parametrize("done_ttl", [0, -1, float("nan"), float("inf"), 1e12, True, "10", 0.0009])
def test_a_time_to_live_is_checked_in_every_constructor(tmp_path, done_ttl):
    class Client:
        def _none(self, *_):
            raise AssertionError

        set_if_not_exists = delete_key = get = setex = run_script = _none

    class AsyncClient:
        async def _none(self, *_):
            raise AssertionError

        set_if_not_exists = delete_key = get = setex = run_script = _none

    database = LocalDatabase(str(tmp_path / "s.db"))
    for make in (
        lambda: Ledger.open("memory://", done_ttl=done_ttl),
        lambda: Ledger.open(f"sqlite:///{tmp_path}/l.db", done_ttl=done_ttl),
        lambda: Ledger.open("redis://127.0.0.1:1", done_ttl=done_ttl),
        lambda: Ledger.on_database(database, done_ttl=done_ttl),
        lambda: Ledger.on_redis(Client(), done_ttl=done_ttl),
        lambda: AsyncLedger.open("memory://", done_ttl=done_ttl),
        lambda: AsyncLedger.on_redis(Client(), done_ttl=done_ttl),
        lambda: AsyncLedger.on_redis(AsyncClient(), done_ttl=done_ttl),
    ):
        with pytest.raises(ConfigError, match="done_ttl is"):
            make()


def test_renewing_checks_its_lease():
    ledger = Ledger.open("memory://")
    with pytest.raises(InvalidInputError, match="a lease is between"):
        ledger.renewing(ledger.claim("k"), 0)


@pytest.mark.parametrize("url", ["memory://?fence=maybe", "memory://?x=1", "sqlite:///a.db?legacy_keys=true", "redis://h?timeout=nan",
                                 "redis://h?reconnect=-1", "redis://h?fence=1"])  # fmt: skip
def test_bad_options_are_named(url):
    with pytest.raises(ConfigError, match="ledger URL"):
        Ledger.open(url)


# --- a backend of before


def test_a_backend_without_counted_still_works(caplog):
    class Older:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            if name == "claim_pair":
                raise AttributeError(name)
            return getattr(self._real, name)

        def release(self, key, token, error):
            self._real.release(key, token, error)

    ledger = Ledger.open("memory://")
    ledger.native = Older(ledger.native)
    ledger.release(ledger.claim("k"), "boom")
    assert (ledger.claim("k").attempts, caplog.records) == (2, [])
    claim = ledger.claim("other")
    ledger.release(claim, counted=False)
    assert ledger.claim("other").attempts == 2  # counted, and it is said
    assert "no parameter `counted`" in caplog.text


# --- fork


def in_child(work):
    """What `work` gives or raises in a forked child, as text."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return text


def test_a_memory_ledger_belongs_to_one_process():
    unused, used = Ledger.open("memory://"), Ledger.open("memory://")
    used.claim("k")
    assert in_child(lambda: unused.claim("k").status) == "acquired"
    assert in_child(lambda: used.claim("k").status).startswith(
        "ForkedError: a memory:// ledger was in use before fork()"
    )
    assert used.claim("k").status == "in_progress"


def test_a_sqlite_ledger_that_was_only_opened_works_in_the_child(tmp_path):
    ledger = Ledger.open(f"sqlite:///{tmp_path}/s.db")
    assert in_child(lambda: ledger.claim("k", 3600).status) == "acquired"
    again = ledger.claim("k", 3600)  # the child is dead, and its lease was its own
    assert (again.status, again.attempts) == ("acquired", 2)
    found = in_child(lambda: ledger.claim("k").status)
    assert found.startswith("ForkedError: database ")
    assert found.endswith("spawn method")
    assert in_child(lambda: Ledger.open(f"sqlite:///{tmp_path}/s.db")).startswith("ForkedError: ")
    other = Ledger.open(f"sqlite:///{tmp_path}/other.db")
    assert in_child(lambda: other.claim("k").status) == "acquired"
    ledger.complete(again, 1)
    ledger.database.close()
    assert in_child(lambda: Ledger.open(f"sqlite:///{tmp_path}/s.db").claim("k").result) == "1"


def test_a_childs_lease_does_not_end_with_its_parent(tmp_path):
    """The claim carries the identity of the process that made it, not of the one that opened the ledger."""
    url = f"sqlite:///{tmp_path}/s.db"
    ready, done = os.pipe(), os.pipe()
    parent = os.fork()
    if parent == 0:  # opens, forks, ends
        ledger = Ledger.open(url)
        if os.fork() == 0:
            status = ledger.claim("k", 3600).status
            os.write(ready[1], status.encode())
            os.read(done[0], 1)
        os._exit(0)
    assert os.waitpid(parent, 0)[1] == 0
    assert os.read(ready[0], 100) == b"acquired"
    assert Ledger.open(url).claim("k").status == "in_progress"
    os.write(done[1], b".")
    for end in (*ready, *done):
        os.close(end)


def test_a_lock_that_was_held_at_the_fork_does_not_hang_the_child(tmp_path):
    database = LocalDatabase(str(tmp_path / "s.db"))
    ledger = Ledger.on_database(database)
    held, let_go = threading.Event(), threading.Event()

    def hold():
        with database.lock:
            held.set()
            let_go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    assert in_child(lambda: ledger.claim("k").status) == "acquired"
    let_go.set()
    thread.join()


def test_a_child_renews_its_own_claims_only(tmp_path):
    """The renewal thread is the parent's; its lock may be held, and its claims are not the child's."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/s.db")
    ledger.claim("warm-up")
    memory = Ledger.open("memory://")

    class Native:
        def __init__(self):
            self.renewed = []

        def claim(self, keys, lease_us, payloads):
            return [("acquired", keys[0], 2**60, 1, b"", "")]

        def renew(self, key, token, lease_us):
            self.renewed.append(key)
            return 2**60

    memory.native = Native()
    with memory.renewing(memory.claim("parent"), 3600), memory._renewer._wake:

        def child():
            with memory.renewing(memory.claim("child"), 0.03):
                end = time.monotonic() + 20
                while len(memory.native.renewed) < 2 and time.monotonic() < end:
                    time.sleep(0.005)
            return sorted(set(memory.native.renewed))

        assert in_child(child) == "['child']"


def test_an_async_ledger_in_use_has_threads_in_the_child(tmp_path):
    ledger = AsyncLedger.open(f"sqlite:///{tmp_path}/s.db")
    other = AsyncLedger.open("memory://")

    async def use():
        await asyncio.gather(*(other._run(lambda: time.sleep(0.01)) for _ in range(20)))

    asyncio.run(use())
    assert in_child(lambda: asyncio.run(ledger.claim("k")).status) == "acquired"
    assert in_child(lambda: asyncio.run(other.claim("k")).status) == "acquired"  # its threads were used, its claims not


def test_forked_is_an_error_of_its_own():
    from headgate.errors import InternalError, PermanentError, from_kind

    error = from_kind("forked", "x")
    assert type(error) is ForkedError
    assert isinstance(error, PermanentError)
    assert not isinstance(error, InternalError)
    assert ForkedError("x").kind is Kind.FORKED


# --- cancellation


def test_a_cancelled_claim_is_given_back():
    ledger = Ledger.open("memory://")
    asynchronous = AsyncLedger(ledger)
    quick, started, go_on = ledger.native, threading.Event(), threading.Event()

    class Slow:
        def __getattr__(self, name):
            return getattr(quick, name)

        def claim(self, *arguments):
            started.set()
            go_on.wait(30)
            return quick.claim(*arguments)

    ledger.native = Slow()

    async def cancel(call):
        started.clear()
        go_on.clear()
        task = asyncio.ensure_future(call())
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        asynchronous._pool().shutdown(wait=True)
        asynchronous._threads = None

    asyncio.run(cancel(lambda: asynchronous.claim("k")))
    asyncio.run(cancel(lambda: asynchronous.claim_many(["k", "l"])))
    ledger.native = quick
    claims = ledger.claim_many(["k", "l"])
    assert [(c.status, c.attempts) for c in claims] == [("acquired", 1), ("acquired", 1)]  # no attempt was used up
    with pytest.raises(StaleLeaseError):
        ledger.release(dataclasses.replace(claims[0], token="0"))


def hold_none(make, moments, longest_s, seed, close=None):
    """Cancel claims at random moments: whatever was cancelled can be claimed at once."""
    import random

    rng = random.Random(seed)
    cancelled = 0

    async def run():
        nonlocal cancelled
        ledger = make()
        for moment in range(moments):
            keys = [f"{moment}-a", f"{moment}-b"]
            call = ledger.claim_many(keys, 600) if moment % 3 == 0 else ledger.claim(keys[0], 600)
            try:
                await asyncio.wait_for(call, rng.random() * longest_s)
                continue
            except TimeoutError:
                cancelled += 1
            end = time.monotonic() + 20
            for key in keys:
                while (found := await ledger.claim(key, 600)).status != "acquired":
                    assert time.monotonic() < end, "held by nobody"
                    await asyncio.sleep(0.001)
                assert found.attempts == 1
        if close is not None:
            await close()

    asyncio.run(run())
    assert 0 < cancelled <= moments


def test_no_random_moment_leaves_a_memory_key_held():
    hold_none(lambda: AsyncLedger.open("memory://"), 300, 0.0003, 5)


def test_no_random_moment_leaves_a_sqlite_key_held(tmp_path):
    database = LocalDatabase(str(tmp_path / "s.db"), durability="normal")
    hold_none(lambda: AsyncLedger(Ledger.on_database(database)), 200, 0.001, 6)
