"""Four services read one stream of essay events; two of them share one Redis. Each sees every event once.

The first step of every handler is the claim. Its key starts with the service's own name: with a key of the event alone
the second service to see an event would take it for a duplicate and never work on it.

Usage: python examples/essay_services.py [REDIS_URL]
"""

import sys

from headgate import Ledger, idempotent_consumer
from headgate.pipelines.uploads import EssayContentProvisionedV1, envelope
from headgate.pipelines.uploads.contracts import PROVISIONED


def services(shared: Ledger, own: dict[str, Ledger], effects: list[tuple[str, str]]):
    """name -> handler of the essay lifecycle, batch orchestrator, spell checker and comparative judgement services."""

    def build(name: str, ledger: Ledger):
        @idempotent_consumer(ledger, consumer=name, namespace="huleedu", event_type=lambda event: event["event_type"])
        def handle(event):
            effects.append((name, event["data"]["text_storage_id"]))
            return {"worked_on": event["data"]["text_storage_id"]}

        return handle

    return {
        "essay-lifecycle": build("essay-lifecycle", shared),
        "batch-orchestrator": build("batch-orchestrator", shared),
        "spell-checker": build("spell-checker", own["spell-checker"]),
        "cj-assessment": build("cj-assessment", own["cj-assessment"]),
    }


def main(url: str = "memory://") -> list[tuple[str, str]]:
    """Deliver three events to every service, each of them three times; returns the effects."""
    effects: list[tuple[str, str]] = []
    own = {name: Ledger.open("memory://") for name in ("spell-checker", "cj-assessment")}
    handlers = services(Ledger.open(url), own, effects)
    for n in range(3):
        data = EssayContentProvisionedV1(
            batch_id="batch-1", original_file_name=f"{n}.txt", raw_file_storage_id=f"raw-{n}",
            text_storage_id=f"text-{n}", file_size_bytes=100, timestamp="2026-05-01T10:00:00Z",
        )  # fmt: skip
        for _ in range(3):
            event = envelope(PROVISIONED, data, "2026-05-01T10:00:00Z")  # a producer's retry: a new envelope each time
            for handle in handlers.values():
                assert handle(event) == {"worked_on": f"text-{n}"}
    return effects


if __name__ == "__main__":
    for service, essay in main(*sys.argv[1:]):
        print(f"{service:20} {essay}")
