"""The store's items as JSON Lines, each item in one file of the folder, whatever happens to exporter or store."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from headgate._native import core

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.backends.local import LocalStore
    from headgate.ports import Json

_ROWS = 5_000
_FILE = re.compile(r"items-(\d+)-(\d+)\.jsonl")


def export_items(store: LocalStore, folder: str | os.PathLike[str]) -> int:
    """Write the store's new items as JSON Lines, `items-{first}-{last}.jsonl`. Returns how many.

    The range of a file is committed before the file is written, and marked done after: a crash in between, or another
    exporter at the same time, writes the same rows to the same file again, whatever has arrived meanwhile.

    Files whose numbers this store has not given are of a store that was since restored from a backup. Their names are
    not given again, and what they hold is not written a second time. An item is known by the field of its document that
    is its key; where there is none, by its whole document.
    """
    out = core.file_store(os.fspath(folder))
    name = f"export:{store.pipeline}"
    written = 0
    while True:
        with store.transaction():
            state: Json = {"offset": 0, "others": [], **(store.load_state(name) or _new_state())}
            if state["pending"] is None:
                rows = store.items_after(state["rowid"], _ROWS)
                if not rows:
                    return written
                state["pending"] = [rows[0][0], rows[-1][0]]
                _pass_over_others(state, out.list("items-"))
                store.save_state(name, state)
        first, last = pending = state["pending"]
        rows = [row for row in store.items_after(first - 1, _ROWS) if row[0] <= last]
        docs = _without_exported(store, rows, [out.get(other) for other in state["others"]])
        if docs:
            number = state["offset"]
            text = "".join(f"{doc}\n" for doc in docs)
            out.put(f"items-{first + number}-{last + number}.jsonl", text.encode())
        core.fault_point("export.after_file")
        with store.transaction():
            now = store.load_state(name)
            if now is not None and now["pending"] == pending:
                store.save_state(name, {**now, "rowid": last, "pending": None})
                written += len(docs)


def _new_state() -> Json:
    return {"format": 1, "rowid": 0, "pending": None}


def _pass_over_others(state: Json, names: Sequence[str]) -> None:
    """Take note of files that this store has not written, and number on after them."""
    ranges = {name: found for name in names if (found := _FILE.fullmatch(name)) is not None}
    given = state["rowid"] + state["offset"]
    others = sorted(name for name, found in ranges.items() if int(found[2]) > given)
    if others:
        highest = max(int(ranges[name][2]) for name in others)
        state["others"] = sorted({*state["others"], *others})
        state["offset"] = max(state["offset"], highest - state["pending"][0] + 1)


def _without_exported(store: LocalStore, rows: Sequence[tuple[int, str]], others: Sequence[bytes]) -> list[str]:
    if not others or not rows:
        return [doc for _, doc in rows]
    lines = [line for data in others for line in data.decode().split("\n") if line]
    keys = dict(
        store.db.execute(
            "SELECT rowid, key FROM items WHERE pipeline = ? AND rowid BETWEEN ? AND ?",
            (store.pipeline, rows[0][0], rows[-1][0]),
        )
    )
    field = _key_field([(keys[rowid], json.loads(doc)) for rowid, doc in rows])
    if field is None:
        known = set(lines)
        return [doc for _, doc in rows if doc not in known]
    values = {json.loads(line).get(field) for line in lines}
    return [doc for _, doc in rows if json.loads(doc)[field] not in values]


def _key_field(items: Sequence[tuple[str, Json]]) -> str | None:
    """The field whose text ends the key of every item, if there is one."""
    first_key, first_doc = items[0]
    for field, value in first_doc.items():
        if isinstance(value, str) and value and first_key.endswith(value) and all(_ends(k, d, field) for k, d in items):
            return str(field)
    return None


def _ends(key: str, doc: Json, field: str) -> bool:
    value: Any = doc.get(field)
    # The whole key, or all of it after a prefix: a short text at its end may be there by chance.
    return isinstance(value, str) and (key == value or (key.endswith(value) and not key[-len(value) - 1].isalnum()))
