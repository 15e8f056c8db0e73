"""`headgate demo`: the product's own steps on a quickstart configuration, with faults injected from outside.

Nothing below is called by the product. The faults are: a feed that fails, messages deleted from a queue, a consumer
killed with SIGKILL, and a named fault point that makes one stage fail once.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate import _native
from headgate.cli._pass import Check, store_checks
from headgate.cli._progress import bar
from headgate.config import Config, load
from headgate.errors import DuplicateError, IntegrityError, Kind
from headgate.ops import configure_logging
from headgate.testing import data
from headgate.testing.feed import Feed, RecordedData, WrittenData
from headgate.testing.visits import Wave, write_wave
from headgate.wiring import App

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.checkpoint import CheckpointRun
    from headgate.ports import Json
    from headgate.testing.feed import FeedData

_MARKER = ".headgate-demo"
_KILL_AT = 40  # the effect whose commit the consumer does not live to see
_LOST = 7  # messages that the fault takes from the queue
_SECOND_WAVE, _LATE = 300, 25

QUICKSTART = """\
# Written by `headgate demo`. The waits are shortened; `report.json` shows each beside its default.
format = 1
[backends]
objects = "file://objects"
store = "sqlite:///headgate.db"
[sources.tiingo]
priority = 1
base_url = "{feed}"
[sources.finnhub]
priority = 2
base_url = "{feed}/api/v1"
[resilience]
timeout_s = 2
recovery_s = 3
return_to_primary_s = 5
[collection]
tickers = [{tickers}]
[consumers.analysis]
key = "headgate.pipelines.market.analysis:business_key"
lease_s = 3
[healing]
threshold_hours = {stale_hours}  # 5 s
[checkpoints.visits]
source = "visits"
target = "visits.parquet"
schema = "visits"
settle_s = 0
[checkpoints.news]
source = "exports"
target = "news.parquet"
schema = "news"
settle_s = 0
export = "market"
[workflows.scoring]
retry_interval_s = 1
[workflows.scoring.input]
programId = "visits-qc"
marketplace = "demo"
events = "visits.parquet"
customer = "center_label"
subject = ["ptid", "visit_date", "visit_number"]
dateRange = {{ start = "2026-01-01T00:00:00+00:00", end = "2026-02-01T00:00:00+00:00" }}
[clock]
offset_s = {offset}
[logging]
level = "ERROR"
"""
_STALE_S = 5.0
# (key, how the quickstart shortens it)
_WAITS = (
    ("source timeout", "resilience", "timeout_s"), ("breaker recovery", "resilience", "recovery_s"),
    ("return to primary", "resilience", "return_to_primary_s"), ("consumer lease", "consumers.analysis", "lease_s"),
    ("stale after", "healing", "threshold_hours"), ("stage retry", "workflows.scoring", "retry_interval_s"),
    ("checkpoint settle", "checkpoints.visits", "settle_s"),
)  # fmt: skip


@dataclass
class Demo:
    """The state of a demo run."""

    out: Path
    feed: Feed
    app: App
    files: int
    quiet: bool
    steps: list[Json] = field(default_factory=list)
    passes: list[Json] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    counts: Json = field(default_factory=dict)

    def check(self, name: str, left: Any, right: Any) -> None:
        self.checks.append(Check(name, left, right))


def run_demo(out: Path, recorded: str | None, port: int, files: int, *, quiet: bool = False) -> int:
    """Run it all; 0 when every count adds up, else 3 and the list of those that do not."""
    from headgate.cli._report import print_summary, write_report

    started = time.monotonic()
    present = datetime.now(UTC).replace(microsecond=0)
    content: FeedData = RecordedData(recorded) if recorded else WrittenData(present)
    _prepare(out)
    with Feed(content, port) as feed:
        config = _configure(out, feed, content, present, recorded)
        configure_logging(config.logging.level)
        demo = Demo(out, feed, App(config), files, quiet)
        for step in (_collect, _lose, _consume, _heal, _checkpoint, _workflow):
            _run_step(demo, step)
    demo.checks.extend(store_checks(demo.app))
    report = _report(demo, recorded, time.monotonic() - started)
    write_report(out, report)
    print_summary(report, out, quiet=quiet)
    wrong = [c for c in demo.checks if not c.holds]
    for check in wrong:
        print(f"headgate: counts differ: {check.name}: {check.left} != {check.right}", file=sys.stderr)
    return 3 if wrong else 0


def _prepare(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / _MARKER).exists():
        message = f"{out} exists and is not a demo folder; name another with --out"
        raise DuplicateError(message)
    if (out / _MARKER).exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text("made by headgate demo; the next demo in this folder replaces it\n", encoding="utf-8")


def _configure(out: Path, feed: Feed, content: FeedData, present: datetime, recorded: str | None) -> Config:
    # Ten at most: one request of the primary per collection, so that its failures can be counted exactly.
    tickers = ("AAPL", "MSFT", "GOOGL") if recorded else data.TICKERS[:10]
    text = QUICKSTART.format(
        feed=feed.url, tickers=", ".join(f'"{t}"' for t in tickers), stale_hours=_STALE_S / 3600,
        offset=int((content.now - present).total_seconds()) if recorded else 0,
    )  # fmt: skip
    (out / "headgate.toml").write_text(text, encoding="utf-8")
    keys = {"TIINGO_API_KEY": "demo-key", "FINNHUB_API_KEY": "demo-key"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADGATE__")}
    return load(out / "headgate.toml", {**kept, **keys})


def _run_step(demo: Demo, step: Any) -> None:
    name = step.__name__.strip("_")
    begun = time.monotonic()
    if not demo.quiet and sys.stderr.isatty():
        print(f"headgate demo: {step.__doc__.splitlines()[0].rstrip('.')}", file=sys.stderr)
    step(demo)
    demo.steps.append(
        {"step": name, "text": step.__doc__.splitlines()[0], "seconds": round(time.monotonic() - begun, 2)}
    )


# --- step 1 and 2


def _plan(demo: Demo) -> Iterator[tuple[str, str, bool]]:
    """(what the primary does, why, new articles appear) for each collection."""
    yield "healthy", "first collection", True
    yield "healthy", "the same feed again", False
    yield "hang", "the primary hangs", True
    yield "500", "the primary answers 500", True
    yield "500", "the primary answers 500", True
    yield "500", "the breaker is open", True
    yield "healthy", "the primary has recovered", True
    for index in range(min(4, len(demo.feed.content.errors))):
        yield f"error:{index}", "a recorded error body", False
        if index % 2:
            yield "healthy", "between error bodies", False


def _collect(demo: Demo) -> None:
    """Collect through an outage of the primary."""
    app, feed = demo.app, demo.feed
    plan = list(_plan(demo))
    begun = time.monotonic()
    with bar("collecting", quiet=demo.quiet) as progress:
        for number, (mode, why, grows) in enumerate(plan):
            if mode == "healthy" and why == "the primary has recovered":
                _await_probe(demo)
            feed.wave += grows
            feed.set_mode("tiingo", mode)
            at = time.monotonic()
            result = app.collect()
            demo.passes.append(
                {"number": number + 1, "primary": _label(mode, feed), "why": why, "source": result.source,
                 "is_failover": result.is_failover, "at_s": round(at - begun, 2),
                 "seconds": round(time.monotonic() - at, 3), "received": result.taken.taken,
                 "new": result.taken.stored, "duplicates": result.taken.duplicates,
                 "dead_letters": result.taken.dead_letters,
                 "breaker": app.collector.breakers["tiingo"].state,
                 "attempts": [a["outcome"] for a in result.attempts if a["source"] == "tiingo"]}
            )  # fmt: skip
            if progress:
                progress(number + 1, len(plan))
    _check_collection(demo)


def _label(mode: str, feed: Feed) -> str:
    """What the primary did, as the report shows it."""
    return f"answers {feed.content.errors[int(mode[6:])].status}" if mode.startswith("error:") else mode


def _await_probe(demo: Demo) -> None:
    """Until the breaker is half-open and the secondary has served long enough."""
    r = demo.app.config.resilience
    collector = demo.app.collector
    since = collector.failover.secondary_since_us
    while True:
        left = since + int(r.return_to_primary_s * 1e6) - demo.app.clock.now_us()
        if left <= 0 and collector.breakers["tiingo"].state == "half_open":
            return
        demo.app.clock.sleep_us(50_000)


def _check_collection(demo: Demo) -> None:
    passes = demo.passes
    events = demo.app.store.collection_events("market")
    states = [
        s
        for e in events
        for a in e["attempts"]
        if a["source"] == "tiingo"
        for s in (a["breaker_before"], a["breaker_after"])
    ]
    path = [s for i, s in enumerate(states) if i == 0 or s != states[i - 1]]
    raw_keys = {k for (k,) in demo.app.database.execute("SELECT DISTINCT raw_key FROM items")}
    demo.check("the same feed again stores nothing new", passes[1]["new"], 0)
    demo.check("breaker states seen in the collection events", path, ["closed", "open", "half_open", "closed"])
    demo.check(
        "the hanging primary was cut and the secondary answered",
        (passes[2]["attempts"], passes[2]["source"]),
        (["timeout"], "finnhub"),
    )
    demo.check("an open breaker lets no call through", passes[5]["attempts"], ["circuit_open"])
    demo.check("the recovered primary serves again", passes[6]["source"], "tiingo")
    demo.check(
        "every item's raw body is in the object store", sum(demo.app.objects.exists(k) for k in raw_keys), len(raw_keys)
    )
    demo.counts["collection"] = {
        "collections": len(events), "raw_bodies": sum(e["raw_count"] for e in events),
        "taken": sum(e["item_count"] for e in events), "stored": sum(e["new_item_count"] for e in events),
        "duplicates": sum(e["duplicate_count"] for e in events),
        "dead_letters": sum(e["dead_letter_count"] for e in events),
        "failovers": sum(e["is_failover"] for e in events),
    }  # fmt: skip
    demo.counts["breaker_path"] = path


# --- step 3


def _lose(demo: Demo) -> None:
    """Deliver announcements, and lose some on the way."""
    delivered = demo.app.relay()
    lost = demo.app.database.changes(
        "DELETE FROM queue WHERE id IN (SELECT id FROM queue WHERE grp = 'analysis' ORDER BY id LIMIT ?)", (_LOST,)
    )
    demo.counts["announcements"] = {"delivered": delivered, "lost_by_fault": lost}
    unsent = demo.app.embedded_store.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL")
    demo.check("nothing waits in the outbox", unsent, 0)


def _consumer(demo: Demo, faults: str = "") -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "headgate",
        "consume",
        "analysis",
        "--config",
        str(demo.out / "headgate.toml"),
        "--wait",
        "20",
    ]
    environment = {**os.environ, "HEADGATE_FAULTS": faults}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)  # noqa: S603 - our own command


def _consume(demo: Demo) -> None:
    """Consume, with the worker killed by SIGKILL in the middle and started again."""
    stored = demo.counts["collection"]["stored"]
    kill_at = min(_KILL_AT, max(1, (stored - _LOST) // 2))
    victim = _consumer(demo, f"consume.before_commit:stop:{kill_at}")
    _, status = os.waitpid(victim.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        message = "the consumer ended before the fault that should stop it"
        raise IntegrityError(message, Kind.COUNTS_DIFFER)
    after_kill = _effects(demo)
    victim.send_signal(signal.SIGKILL)
    _, status = os.waitpid(victim.pid, 0)
    victim.returncode = -os.WTERMSIG(status)
    victim.communicate()
    second = _consumer(demo)
    output, _ = second.communicate()
    result = json.loads(output)
    effects = _effects(demo)
    demo.counts["consumer"] = {
        "killed_by_signal": os.WTERMSIG(status), "effects_before_kill": after_kill, "effects": effects,
        "second_run": result,
    }  # fmt: skip
    demo.check("the consumer was killed with SIGKILL", os.WTERMSIG(status), int(signal.SIGKILL))
    demo.check("the commit it died in left nothing", after_kill, kill_at - 1)
    demo.check("effects = announcements that were not lost", effects, stored - _LOST)
    demo.check("no effect twice", _most(demo), 1)


def _effects(demo: Demo) -> int:
    return int(demo.app.embedded_store.count("SELECT sum(analyses) FROM items"))


def _most(demo: Demo) -> int:
    return int(demo.app.embedded_store.count("SELECT max(analyses) FROM items"))


# --- step 4


def _heal(demo: Demo) -> None:
    """Find the items that were left pending, and finish them."""
    app = demo.app
    pending = app.store.status_counts().get("pending", 0)
    newest = app.embedded_store.count("SELECT max(due_us) FROM items WHERE status = 'pending'")
    app.clock.sleep_us(max(0, newest + int(_STALE_S * 1e6) + 100_000 - app.clock.now_us()))
    swept = app.heal()
    worker = _consumer(demo)
    output, _ = worker.communicate()
    again = app.heal()
    demo.counts["healing"] = {"pending_before": pending, **swept.to_dict(), "consumer": json.loads(output)}
    stored = demo.counts["collection"]["stored"]
    demo.check("items left pending = announcements lost", pending, _LOST)
    demo.check("items republished = items left pending", swept.items_republished, pending)
    demo.check("a second sweep finds nothing", again.items_found, 0)
    demo.check("every item is analyzed", app.store.status_counts(), {"analyzed": stored})
    demo.check("effects = items stored", _effects(demo), stored)
    demo.check("no effect twice after healing", _most(demo), 1)
    done = app.embedded_store.count("SELECT count(*) FROM ledger WHERE state = 1")
    demo.check("claims done in the ledger = items stored", done, stored)


# --- step 5


def _checkpoint(demo: Demo) -> None:
    """Turn event files and news items into Parquet checkpoints, twice."""
    folder = demo.out / "visits"
    with bar("writing event files", quiet=demo.quiet) as progress:
        first = write_wave(folder, demo.files, progress=progress)
    with bar("reading event files", quiet=demo.quiet) as progress:
        one = demo.app.checkpoint("visits", progress)
    second = write_wave(folder, _SECOND_WAVE, first=demo.files, late=_LATE, seed=12)
    two = demo.app.checkpoint("visits")
    three = demo.app.checkpoint("visits")
    news = demo.app.checkpoint("news")
    _check_visits(demo, first, second, one, two, three)
    demo.check("rows of the news checkpoint = items stored", news.rows_total, demo.counts["collection"]["stored"])
    demo.check("the news checkpoint rejects nothing", news.rejected_records, 0)
    for name, run in (("first", one), ("second", two), ("third", three), ("news", news)):
        demo.check(f"counts of the {name} checkpoint run add up", run.adds_up(), [])
    from headgate.checkpoint import Checkpoint

    events = Checkpoint.read(two.target)
    demo.check("rows read back = rows committed", len(events), two.rows_total)
    demo.counts["checkpoint"] = {
        "first": one.to_dict(), "second": two.to_dict(), "third": three.to_dict(), "news": news.to_dict(),
        "by_action": events.count_by("action"), "by_packet": events.count_by("packet"),
    }  # fmt: skip


def _check_visits(
    demo: Demo, first: Wave, second: Wave, one: CheckpointRun, two: CheckpointRun, three: CheckpointRun
) -> None:
    demo.check("first run: files listed = files written", one.listed, first.files)
    demo.check("first run: rows = good files", one.rows_added, first.good)
    demo.check("first run: rejected = bad files", one.rejected_records, first.bad)
    demo.check("first run: names of another kind are left alone", one.ignored, first.ignored)
    demo.check("second run: rows = exactly the new and the late ones", two.rows_added, second.good)
    demo.check("second run: late rows = late files", two.late_rows, second.late)
    demo.check("second run: files known from the first", two.known, first.good + first.bad)
    demo.check("third run: nothing to do, nothing written", (three.taken_files, three.committed), (0, False))


# --- step 6


def _workflow(demo: Demo) -> None:
    """Run the five stages, one of which fails once."""
    _native.set_faults("stage.ScoreStage:fail:1")
    try:
        execution = demo.app.run_workflow("scoring", "demo-1")
    finally:
        _native.set_faults("")
    succeeded = [e for e in execution.history if e["type"] == "TaskStateExited"]
    retried = [e["state"] for e in execution.history if e["type"] == "TaskFailed"]
    final = json.loads(demo.app.objects.get("executions/demo-1/ReactiveStage/output.json"))
    metrics = final["data"]["metrics"]
    demo.counts["workflow"] = {
        "id": execution.id,
        "status": execution.status,
        "history": execution.history,
        "metrics": metrics,
    }
    demo.check(
        "five stages succeeded",
        [e["state"] for e in succeeded],
        ["ETLStage", "FilterStage", "ScoreStage", "StoreStage", "ReactiveStage"],
    )
    demo.check("one stage failed once and was retried", retried, ["ScoreStage"])
    demo.check(
        "subjects = rejected + scored", metrics["subjects"],
        metrics["rejected"] + metrics["scoredCount"] + metrics["fallbackCount"],
    )  # fmt: skip
    demo.check(
        "candidates stored = candidates scored",
        metrics["storedCount"],
        metrics["scoredCount"] + metrics["fallbackCount"],
    )


# --- step 7


def _report(demo: Demo, recorded: str | None, seconds: float) -> Json:
    wrong = [c.name for c in demo.checks if not c.holds]
    return {
        "format": 1,
        "ok": not wrong,
        "feed": "recorded" if recorded else "written",
        "seconds": round(seconds, 1),
        "waits": _waits(demo.app.config),
        "steps": demo.steps,
        "passes": demo.passes,
        "checks": [{"name": c.name, "left": c.left, "right": c.right, "holds": c.holds} for c in demo.checks],
        "counts": demo.counts,
    }


def _waits(config: Config) -> list[Json]:
    from headgate.config import CheckpointConfig, ConsumerConfig, Healing, Resilience, WorkflowConfig

    defaults = {"resilience": Resilience(), "consumers.analysis": ConsumerConfig(), "healing": Healing(),
                "workflows.scoring": WorkflowConfig(), "checkpoints.visits": CheckpointConfig()}  # fmt: skip
    rows = []
    for name, section, key in _WAITS:
        part: Any = config
        for step in section.split("."):
            part = part[step] if isinstance(part, dict) else getattr(part, step)
        scale = 3600 if key == "threshold_hours" else 1
        rows.append(
            {"wait": name, "key": f"{section}.{key}", "quickstart_s": round(getattr(part, key) * scale, 3),
             "production_s": getattr(defaults[section], key) * scale}
        )  # fmt: skip
    return rows
