"""Mocked outcomes of tasks, by state and attempt, so that a definition can run without what it calls.

A file of mocks is JSON::

    {"Fetch": [{"error": "Lambda.TooManyRequestsException", "cause": "slow down"}, {"result": {"n": 1}}],
     "Send": [{"result": {}, "iteration": 1}, {"timed_out": true}]}

The first attempt of `Fetch` fails, the second gives a result; what has no more entries repeats its last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError
from headgate.workflow._attempts import Done, Failed, Outcome, Submitted, TaskRequest, TimedOut
from headgate.workflow._failure import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KEYS = {"result", "error", "cause", "timed_out", "iteration", "request", "cause_was_json"}


class Mocks:
    """Outcomes of tasks.

    Args:
        outcomes: state name -> its attempts in order: {"result": any}, {"error": name, "cause": text}, or
            {"timed_out": true}; each with "iteration" if it is for one iteration of a Map only.

    Raises:
        InvalidInputError: an entry has none of these, or a field that does not exist.
    """

    def __init__(self, outcomes: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        for state, entries in outcomes.items():
            if not isinstance(entries, list | tuple) or not entries:
                message = f"mocks of state {state!r}: expected a list of outcomes that is not empty"
                raise InvalidInputError(message)
            for place, entry in enumerate(entries):
                unknown = set(entry) - _KEYS
                if unknown or not ({"result", "error", "timed_out"} & set(entry)):
                    message = (
                        f"mocks of state {state!r}, entry {place}: expected result, error or timed_out"
                        + (f", not {', '.join(sorted(unknown))}" if unknown else "")
                    )  # fmt: skip
                    raise InvalidInputError(message)
        self._outcomes = outcomes

    def __contains__(self, state: str) -> bool:
        return state in self._outcomes

    def outcome(self, request: TaskRequest, calls: dict[str, int]) -> Outcome:
        """The outcome of an attempt.

        Args:
            request: what is asked.
            calls: how often each state (and iteration) was asked so far; counted on here.
        """
        entries = self._outcomes[request.state]
        key = request.state
        own = [entry for entry in entries if entry.get("iteration") == request.iteration]
        if own and "iteration" in own[0]:
            entries, key = own, f"{request.state}#{request.iteration}"
        number = calls.get(key, 0)
        calls[key] = number + 1
        entry = entries[min(number, len(entries) - 1)]
        if entry.get("timed_out"):
            return TimedOut(entry.get("cause"))
        if "error" in entry:
            return (
                Failed(entry["error"], entry.get("cause"))
                if entry["error"] != TIMEOUT
                else TimedOut(entry.get("cause"))
            )
        return Done(entry["result"])


def is_submitted_first(request: TaskRequest, outcome: Outcome) -> bool:
    """Whether a mocked task is handed to somebody first: it waits for a job or an answer, and does not fail at once."""
    waits = request.resource.pattern != ""
    return waits and not isinstance(outcome, Failed | Submitted)
