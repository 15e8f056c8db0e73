"""Queries on visit events, as chainable methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from headgate.checkpoint import Checkpoint
from headgate.checkpoint._groups import summarised
from headgate.checkpoint._rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

# A participant id is not unique across centers and studies; a visit without a number is a visit of its own.
VISIT = ("center_label", "study", "ptid", "visit_date", "visit_number")
_DAY_US = 86_400_000_000


class Visits(Checkpoint):
    """A checkpoint of visit events.

    Example:
        >>> events = Visits.read("events.parquet")                                     # doctest: +SKIP
        >>> events.center("alpha").visited("2024-01-01", "2024-02-01").days_to("submit")  # doctest: +SKIP
    """

    def center(self, *labels: str) -> Self:
        """Events of these centers."""
        return self.filter(center_label=list(labels))

    def action(self, *names: str) -> Self:
        """Events with these actions: submit, pass-qc, not-pass-qc, delete."""
        return self.filter(action=list(names))

    def packet(self, *names: str | None) -> Self:
        """Events with these packets; None means without one."""
        return self.filter(packet=list(names))

    def visited(self, start: str | None = None, end: str | None = None) -> Self:
        """Events of visits with start <= visit_date < end, as YYYY-MM-DD."""
        return self.between("visit_date", start, end)

    def logged(self, start: Any = None, end: Any = None) -> Self:
        """Events with start <= timestamp < end; datetimes or ISO text, naive ones in UTC."""
        return self.between("timestamp", start, end)

    def actions(self) -> dict[str, int]:
        """How many events of each action."""
        return {row["action"]: row["count"] for row in self.count_by("action")}

    def days_to(self, action: str) -> Checkpoint:
        """Days from visit_date (midnight UTC) to each event of that action, as the column `days` (float64).

        Null where visit_date is no date.

        Example:
            >>> events.days_to("pass-qc").dataframe()["days"]        # doctest: +SKIP
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.filter(action=action).dataframe()
        dates = table.column("visit_date")
        midnight = pc.strptime(dates, format="%Y-%m-%d", unit="us", error_is_null=True).cast(pa.int64())
        passed = pc.subtract(table.column("timestamp").cast(pa.int64()), midnight)
        # Of more than 285 years a float64 does not hold every microsecond, but the days all the same.
        days = pc.divide(passed.cast(pa.float64(), safe=False), float(_DAY_US))
        return Checkpoint(table.append_column("days", days))

    def qc_outcomes(self, *by: str) -> Rows:
        """pass-qc against not-pass-qc for every combination of `by`, with the share that passed."""
        counts: dict[tuple[Any, ...], dict[str, int]] = {}
        for row in self.action("pass-qc", "not-pass-qc").count_by(*by, "action"):
            counts.setdefault(tuple(row[c] for c in by), {})[row["action"]] = row["count"]
        out = Rows()
        for key, found in sorted(counts.items(), key=lambda item: str(item[0])):
            passed, failed = found.get("pass-qc", 0), found.get("not-pass-qc", 0)
            share = passed / (passed + failed)
            out.append({**dict(zip(by, key, strict=True)), "pass-qc": passed, "not-pass-qc": failed, "passed": share})
        return out

    def latest(self, visit: Sequence[str] = VISIT) -> Self:
        """The newest event of every visit."""
        return self.latest_per(*visit)

    def completeness(self, every: str = "month") -> Rows:
        """For every period: visits first submitted in it, and how many of those have passed since.

        Args:
            every: "day", "month" or "year" of the first submit.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        action, none = pc.field("action"), pa.scalar(None, pa.timestamp("us"))
        columns = {name: pc.field(name).cast(pa.string()) for name in VISIT}
        columns["submitted"] = pc.if_else(action == "submit", self._period(every), none)
        columns["passed"] = action == "pass-qc"
        visits = self._streamed(summarised(VISIT, {"submitted": "min", "passed": "any"}), columns, (*VISIT, "action"))
        visits = visits.filter(pc.field("submitted").is_valid())
        visits = visits.set_column(visits.column_names.index("passed"), "passed", visits["passed"].cast(pa.int64()))
        periods = visits.group_by("submitted").aggregate([([], "count_all"), ("passed", "sum")]).sort_by("submitted")
        names = self._shown(every, every, periods["submitted"].cast(pa.int64()).to_pylist())
        counts = zip(names, periods["count_all"].to_pylist(), periods["passed_sum"].to_pylist(), strict=True)
        return Rows({every: w, "submitted": n, "passed": p, "share": p / n} for w, n, p in counts)
