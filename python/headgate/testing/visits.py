"""Visit-event files in the documented grammar, with bad, legacy-named and late ones among them, and their truth."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ACTIONS = ("submit", "pass-qc", "not-pass-qc", "delete")
_CENTERS = ("alpha", "beta", "gamma", "delta", "epsilon")
_START = datetime(2026, 1, 5, 8, tzinfo=UTC)
_STEP_S = 37


@dataclass
class Wave:
    """What was written: what a right checkpoint run has to count."""

    good: int = 0
    bad: int = 0
    legacy: int = 0
    late: int = 0
    ignored: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> int:
        return self.good + self.bad + self.ignored


def _event(i: int, when: datetime, rng: random.Random) -> dict[str, object]:
    form = rng.random() < 0.8
    return {
        "action": _ACTIONS[0] if i % 3 == 0 else rng.choice(_ACTIONS[1:3]) if i % 50 else _ACTIONS[3],
        "study": "adrc" if i % 7 else "dvcid",
        "pipeline_adcid": 40 + i % 5 if i % 4 else str(40 + i % 5),
        "project_label": "ingest-form" if form else "ingest-dicom-leads",
        "center_label": _CENTERS[i % 5],
        "gear_name": "form-scheduler" if form else "dicom-scheduler",
        "ptid": f"{110_000 + i // 3}",
        "visit_date": f"{when - timedelta(days=rng.randrange(1, 60)):%Y-%m-%d}",
        "visit_number": f"{1 + i % 4:02d}" if i % 11 else None,
        "datatype": "form" if form else "dicom",
        **({"module": rng.choice(("UDS", "FTLD", "LBD")), "packet": rng.choice("IFT")} if form else {}),
        "timestamp": f"{when:%Y-%m-%dT%H:%M:%S}Z" if i % 6 else when.isoformat(),
    }


def _name(event: dict[str, object], when: datetime, i: int) -> str:
    visit = event["visit_number"] or event["visit_date"]
    head = f"log-{event['action']}-{when:%Y%m%d-%H%M%S}-{event['pipeline_adcid']}-{event['project_label']}"
    return f"{head}-{event['ptid']}-{visit}.json"


def _without(event: dict[str, object], key: str) -> bytes:
    return json.dumps({k: v for k, v in event.items() if k != key}).encode()


# name of the fault -> what is written instead
_FAULTS: dict[str, Callable[[dict[str, object]], bytes]] = {
    "truncated": lambda e: json.dumps(e).encode()[:-20],
    "empty": lambda e: b"",
    "missing": lambda e: _without(e, "ptid"),
    "enum": lambda e: json.dumps({**e, "action": "approve"}).encode(),
    "date": lambda e: json.dumps({**e, "visit_date": "2026-02-30"}).encode(),
    "timestamp": lambda e: json.dumps({**e, "timestamp": 1_767_600_000}).encode(),
    "unknown": lambda e: json.dumps({**e, "comment": "?"}).encode(),
    "type": lambda e: json.dumps({**e, "pipeline_adcid": True}).encode(),
    "rule": lambda e: json.dumps({**e, "datatype": "form", "module": "XYZ"}).encode(),
    "pattern": lambda e: json.dumps({**e, "ptid": "12345678901"}).encode(),
    "utf8": lambda e: json.dumps(e).encode().replace(b"ingest-", b"ingest\xc3\x28"),
    "array": lambda e: json.dumps([[e]]).encode(),
    "twice": lambda e: json.dumps(e).encode()[:-1] + b', "ptid": "1"}',
}


def write_wave(
    folder: Path,
    count: int,
    *,
    first: int = 0,
    late: int = 0,
    seed: int = 11,
    progress: Callable[[int, int], None] | None = None,
) -> Wave:
    """Write `count` files (and `late` more whose events are older than all before) below `folder`.

    About 1 % are bad in one of thirteen ways, 2 % carry a legacy name in a nested folder, and ten more names fit no
    grammar.

    Returns:
        The truth: how many of each were written.
    """
    rng = random.Random(seed)  # noqa: S311 - test data
    wave = Wave(late=late)
    faults = list(_FAULTS)
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count + late):
        i = first + n
        is_late = n >= count
        when = (
            _START + timedelta(seconds=_STEP_S * i) if not is_late else _START - timedelta(hours=1, seconds=_STEP_S * i)
        )
        event = _event(i, when, rng)
        name = _name(event, when, i)
        body = json.dumps(event).encode()
        if i % 50 == 7 and not is_late:
            legacy = folder / "legacy" / f"{i:07d}"  # their names hold the day alone: one folder each
            legacy.mkdir(parents=True)
            path = os.path.join(legacy, f"log-{event['action']}-{when:%Y%m%d}.json")
            wave.legacy += 1
        else:
            path = os.path.join(folder, name)
        if i % 100 == 13 and not is_late:
            fault = faults[(i // 100) % len(faults)]
            body = _FAULTS[fault](event)
            wave.bad += 1
            wave.kinds[fault] = wave.kinds.get(fault, 0) + 1
        else:
            wave.good += 1
        with open(path, "xb") as file:
            file.write(body)
        if progress is not None and n % 500 == 0:
            progress(n, count + late)
    for n in range(10):
        (folder / f"notes-{first}-{n}.json").write_bytes(b"{}")
        wave.ignored += 1
    return wave
