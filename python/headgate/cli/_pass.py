"""One pass of a configured pipeline, and the sums that must hold after it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from headgate.errors import AllSourcesFailedError, ConflictError, PermanentError, StageFailedError, TransientError

if TYPE_CHECKING:
    from headgate.ports import Json
    from headgate.wiring import App


@dataclass
class Outcome:
    """What a pass did. `wrong` names the sums that do not hold, `errors` what failed without breaking the pass."""

    collections: list[Json] = field(default_factory=list)
    consumers: dict[str, Json] = field(default_factory=dict)
    healing: Json = field(default_factory=dict)
    checkpoints: dict[str, Json] = field(default_factory=dict)
    workflows: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def to_dict(self) -> Json:
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """A sum with two sides."""

    name: str
    left: Any
    right: Any

    @property
    def holds(self) -> bool:
        return bool(self.left == self.right)


def one_pass(app: App) -> Outcome:
    """Collect, relay, consume, heal, relay, consume, checkpoints, workflows; without sources what else there is."""
    outcome = Outcome()
    if app.adapters:
        _collect(app, outcome)
    drain_all(app, outcome)
    outcome.healing = app.heal().to_dict()
    if outcome.healing["items_republished"]:
        drain_all(app, outcome)
    for name in app.config.checkpoints:
        try:
            run = app.checkpoint(name)
        except (TransientError, PermanentError, ConflictError) as error:
            outcome.errors.append(f"checkpoint {name}: {error}")  # one broken checkpoint does not stop the others
            continue
        outcome.checkpoints[name] = run.to_dict()
        outcome.wrong.extend(f"checkpoint {name}: {line}" for line in run.adds_up())
    app.resume_workflows()
    for name in app.config.workflows:
        try:
            outcome.workflows[name] = app.run_workflow(name).status
        except StageFailedError as error:
            outcome.workflows[name] = "FAILED"
            outcome.errors.append(str(error))
    outcome.wrong.extend(f"{c.name}: {c.left} != {c.right}" for c in store_checks(app) if not c.holds)
    return outcome


def _collect(app: App, outcome: Outcome) -> None:
    missing = app.missing_keys()
    if len(missing) == len(app.adapters):
        # Every source would answer 401: that says less than the name of the variable.
        outcome.errors.append(f"no collection: no source has a key; expected {' or '.join(missing)} in the environment")
        return
    try:
        taken = app.collect().taken
        outcome.collections.append({k: getattr(taken, k) for k in ("taken", "stored", "duplicates", "dead_letters")})
    except AllSourcesFailedError as error:
        outcome.errors.append(str(error))
        outcome.errors += [f"{name} is not set" for name in missing]


def drain_all(app: App, outcome: Outcome) -> None:
    """Deliver the outbox and drain every consumer once."""
    app.relay()
    for name in app.config.consumers:
        result = asdict(app.worker(name).drain())
        before = outcome.consumers.get(name)
        outcome.consumers[name] = result if before is None else {k: before[k] + v for k, v in result.items()}


def store_checks(app: App) -> list[Check]:
    """What must hold in the store at any moment between two steps."""
    store = app.embedded_store
    pipeline = app.pipeline.name
    events = store.collection_events(pipeline)

    def total(key: str) -> int:
        return sum(event[key] for event in events)

    items = store.count("SELECT count(*) FROM items WHERE pipeline = ?", (pipeline,))
    letters = "SELECT sum(seen) FROM dead_letters WHERE stage = 'intake' AND pipeline = ?"
    announced = "SELECT count(DISTINCT key) FROM outbox WHERE topic = ?"
    return [
        Check(
            "records taken = stored + duplicates + dead letters", total("item_count"),
            total("new_item_count") + total("duplicate_count") + total("dead_letter_count"),
        ),
        Check("items in the store = items stored by collections", items, total("new_item_count")),
        Check(
            "dead letters in the store = dead letters of collections",
            store.count(letters, (pipeline,)), total("dead_letter_count"),
        ),
        Check("items announced = items in the store", store.count(announced, (app.pipeline.topic,)), items),
    ]  # fmt: skip
