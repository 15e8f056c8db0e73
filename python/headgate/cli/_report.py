"""The demo's report: a table on the terminal, report.json for scripts, report.html for people."""

from __future__ import annotations

import html
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from headgate.ports import Json

_BLUE, _ORANGE, _RED, _GREY = "#2f6db5", "#e08a1e", "#c0392b", "#8a94a0"


def write_report(out: Path, report: Json) -> None:
    """report.json and report.html, each written whole."""
    for name, text in (
        ("report.json", json.dumps(report, indent=1, default=str)),
        ("report.html", render_html(report)),
    ):
        part = out / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out / name)


def print_summary(report: Json, out: Path, *, quiet: bool = False) -> None:
    """The table that ends a run."""
    if quiet:
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    c = report["counts"]
    collection, one, two = c["collection"], c["checkpoint"]["first"], c["checkpoint"]["second"]
    rows = [
        ("collect", f"{collection['collections']} collections, {collection['failovers']} by the secondary; breaker "
                    f"{' > '.join(c['breaker_path'])}"),
        ("store", f"{collection['taken']} taken = {collection['stored']} stored + {collection['duplicates']} duplicates + "
                  f"{collection['dead_letters']} dead letters"),
        ("consume", f"killed after {c['consumer']['effects_before_kill']} effects, started again: "
                    f"{c['consumer']['effects']} effects, each once"),
        ("heal", f"{c['healing']['pending_before']} left pending, {c['healing']['items_republished']} sent again, all finished"),
        ("checkpoint", f"{one['listed']} files: {one['rows_added']} rows + {one['rejected_records']} rejected; then "
                       f"{two['rows_added']} new, {two['late_rows']} of them late"),
        ("news", f"{c['checkpoint']['news']['rows_total']} rows from {collection['stored']} items"),
        ("workflow", f"{c['workflow']['status']}, {c['workflow']['metrics']['subjects']} subjects, "
                     f"{c['workflow']['metrics']['storedCount']} stored, one stage retried"),
    ]  # fmt: skip
    seconds = {s["step"]: s["seconds"] for s in report["steps"]}
    table = Table(title="headgate demo", title_justify="left")
    for column, justify in (("step", "left"), ("what happened", "left"), ("s", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, text in rows:
        table.add_row(name, text, f"{seconds[name]:.1f}" if name in seconds else "")
    console.print(table)
    waits = Table(title="waits, in seconds", title_justify="left")
    for column in ("wait", "quickstart", "production default"):
        waits.add_column(column, justify="left" if column == "wait" else "right")
    for wait in report["waits"]:
        waits.add_row(wait["wait"], f"{wait['quickstart_s']:g}", f"{wait['production_s']:g}")
    console.print(waits)
    held = sum(check["holds"] for check in report["checks"])
    verdict = "every count adds up" if report["ok"] else "COUNTS DIFFER"
    console.print(
        f"{held} of {len(report['checks'])} checks hold: {verdict}. {report['seconds']} s. Report: {out}/report.html"
    )


# --- HTML


def _e(value: Any) -> str:
    return html.escape(str(value))


def _bars(rows: list[tuple[str, float, str]], unit: str, width: int = 900) -> str:
    """Horizontal bars with labels and values."""
    top = max((value for _, value, _ in rows), default=1) or 1
    height = 26 * len(rows)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for i, (label, value, colour) in enumerate(rows):
        length = (width - 260) * value / top
        y = 26 * i
        parts.append(
            f'<text x="150" y="{y + 17}" text-anchor="end">{_e(label)}</text>'
            f'<rect x="158" y="{y + 4}" width="{max(length, 1):.1f}" height="18" rx="2" fill="{colour}"/>'
            f'<text x="{164 + length:.1f}" y="{y + 17}">{value:,g} {_e(unit)}</text>'
        )
    return "".join(parts) + "</svg>"


def _timeline(passes: list[Json], width: int = 900, height: int = 260) -> str:
    """New items by source for each collection; what the primary did is shaded and named beneath."""
    left, bottom, plot = 46, 64, height - 64 - 14
    slot = (width - left - 8) / max(len(passes), 1)
    top = max((p["received"] for p in passes), default=1) or 1
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img">']
    for i, p in enumerate(passes):
        x = left + i * slot
        if p["primary"] != "healthy":
            parts.append(
                f'<rect x="{x:.1f}" y="8" width="{slot:.1f}" height="{plot + 6}" fill="{_RED}" opacity="0.10"/>'
            )
    for step in range(5):
        y = 14 + plot - plot * step / 4
        parts.append(
            f'<line x1="{left}" y1="{y:.1f}" x2="{width - 8}" y2="{y:.1f}" stroke="#dde2e7"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" class="s">{top * step / 4:,.0f}</text>'
        )
    for i, p in enumerate(passes):
        x, colour = left + i * slot + slot * 0.18, _BLUE if p["source"] == "tiingo" else _ORANGE
        for value, opacity in ((p["received"], 0.28), (p["new"], 1.0)):
            h = plot * value / top
            parts.append(
                f'<rect x="{x:.1f}" y="{14 + plot - h:.1f}" width="{slot * 0.64:.1f}" height="{h:.1f}" '
                f'fill="{colour}" opacity="{opacity}"/>'
            )
        middle = left + (i + 0.5) * slot
        if p["new"]:
            parts.append(
                f'<text x="{middle:.1f}" y="{10 + plot - plot * p["new"] / top:.1f}" text-anchor="middle" class="s">{p["new"]}</text>'
            )
        for line, text in enumerate((f"+{p['at_s']:.1f} s", p["primary"], p["breaker"])):
            parts.append(
                f'<text x="{middle:.1f}" y="{height - bottom + 24 + 15 * line}" text-anchor="middle" class="s">{_e(text)}</text>'
            )
    return "".join(parts) + "</svg>"


def _table(header: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{_e(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{_e(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#1d2733}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2.2rem;border-bottom:1px solid #dde2e7}
svg{width:100%;height:auto;font:13px system-ui,sans-serif}svg .s{font-size:11px;fill:#5b6672}
table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e6eaee}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 1em}.ok{color:#1e7d44}.bad{color:#c0392b}
p.note{color:#5b6672;font-size:.9rem}
"""


def _attempts(history: list[Json]) -> list[tuple[str, float, bool]]:
    """The attempts of an execution's tasks: state, milliseconds, and whether it failed."""
    found = []
    begun = 0
    for event in history:
        if event["type"] == "TaskStarted":
            begun = event["at_us"]
        elif event["type"] in ("TaskSucceeded", "TaskFailed", "TaskTimedOut"):
            found.append((event["state"], round((event["at_us"] - begun) / 1_000, 1), event["type"] != "TaskSucceeded"))
    return found


def render_html(report: Json) -> str:
    """One self-contained page."""
    c = report["counts"]
    collection = c["collection"]
    checkpoint = c["checkpoint"]
    held = sum(check["holds"] for check in report["checks"])
    verdict = "every count adds up" if report["ok"] else "counts differ"
    stages = [
        (f"{state}{' (failed)' if failed else ''}", milliseconds, _RED if failed else _BLUE)
        for state, milliseconds, failed in _attempts(c["workflow"]["history"])
    ]
    actions = [(str(r["action"]), r["count"], _BLUE) for r in checkpoint["by_action"]]
    packets = [(str(r["packet"] if r["packet"] is not None else "none"), r["count"], _GREY if r["packet"] is None else _ORANGE)
               for r in checkpoint["by_packet"]]  # fmt: skip
    steps = [(s["step"], s["seconds"], _GREY) for s in report["steps"]]
    runs = [
        [name, run["listed"], run["known"], run["taken_files"], run["rows_added"], run["late_rows"], run["rejected_records"],
         run["ignored"], run["rows_total"]]
        for name, run in ((n, checkpoint[n]) for n in ("first", "second", "third", "news"))
    ]  # fmt: skip
    problems = sorted(checkpoint["first"]["problems"].items(), key=lambda item: -item[1])
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>headgate demo</title><style>{_STYLE}</style></head><body>
<h1>headgate demo</h1>
<p class="{"ok" if report["ok"] else "bad"}"><b>{held} of {len(report["checks"])} checks hold: {verdict}.</b>
{_e(report["seconds"])} s, {_e(report["feed"])} feed.</p>
<h2>Items by source, with the outage of the primary</h2>
<p><span class="key" style="background:{_BLUE}"></span>tiingo (primary)
<span class="key" style="background:{_ORANGE}"></span>finnhub (secondary)
<span class="key" style="background:{_RED};opacity:.25"></span>the primary fails</p>
{_timeline(report["passes"])}
<p class="note">Per collection: received (pale) and new (full). Beneath: seconds since the start, what the primary did, its breaker afterwards.
{collection["taken"]} taken = {collection["stored"]} stored + {collection["duplicates"]} duplicates + {
        collection["dead_letters"]
    } dead letters.</p>
<h2>Effects of the consumer</h2>
{
        _bars(
            [
                ("before SIGKILL", c["consumer"]["effects_before_kill"], _BLUE),
                ("after restart", c["consumer"]["effects"], _BLUE),
                ("after healing", c["consumer"]["effects"] + c["healing"]["items_republished"], _ORANGE),
            ],
            "effects",
        )
    }
<p class="note">{
        c["announcements"]["lost_by_fault"]
    } announcements were deleted from the queue; the sweep found their items.</p>
<h2>Checkpoint rows by action</h2>{_bars(actions, "rows")}
<h2>Checkpoint rows by packet</h2>{_bars(packets, "rows")}
<h2>Checkpoint runs</h2>
{_table(["run", "listed", "known", "taken", "rows added", "late", "rejected", "ignored", "rows in all"], runs)}
<p class="note">Rejected in the first run, by kind: {_e(", ".join(f"{k} {n}" for k, n in problems))}.</p>
<h2>Stages of the workflow</h2>{_bars(stages, "ms")}
<h2>Steps of this demo</h2>{_bars(steps, "s")}
<h2>Waits</h2>
{
        _table(
            ["wait", "key", "quickstart, s", "production default, s"],
            [[w["wait"], w["key"], f"{w['quickstart_s']:g}", f"{w['production_s']:g}"] for w in report["waits"]],
        )
    }
<h2>Checks</h2>
{
        _table(
            ["check", "left", "right", ""],
            [[k["name"], k["left"], k["right"], "holds" if k["holds"] else "DIFFERS"] for k in report["checks"]],
        )
    }
</body></html>
"""
