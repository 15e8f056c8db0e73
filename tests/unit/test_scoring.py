"""The five stages: what each takes, keeps back, counts, stores and reacts to, in any order."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta

import pytest

from headgate.errors import AccessError, InvalidInputError, TransientError
from headgate.pipelines.scoring import (
    BusinessRuleFilter,
    Candidate,
    EligibilityFilter,
    ETLStage,
    FilterStage,
    ObjectCandidates,
    ReactionWindow,
    ReactiveStage,
    ScoreStage,
    StoreStage,
    TrustFilter,
    age_model,
    reactive_workflow,
    scoring_functions,
    scoring_workflow,
)
from headgate.testing.objects import MemoryObjects
from headgate.workflow import HeadgatePermanentError, LambdaStep, Workflow, stage_output

NOW = datetime.fromisoformat("2026-05-28T20:26:40+00:00")
REQUEST = {
    "programId": "reviews", "marketplace": "de", "dateRange": {"start": "2026-01-01T00:00:00Z", "end": NOW.isoformat()},
}  # fmt: skip


def days_ago(days):
    return (NOW - timedelta(days=days)).isoformat()


def candidate(customer="c1", subject="s1", **more):
    attributes = {"eventDate": days_ago(30), **more.pop("attributes", {})}
    metadata = {
        "createdAt": days_ago(1), "updatedAt": days_ago(1), "expiresAt": days_ago(-30), "sourceConnectorId": "orders",
        "workflowExecutionId": "e1", **more.pop("metadata", {}),
    }  # fmt: skip
    found = {
        "customerId": customer,
        "subject": {"type": "order", "id": subject},
        "attributes": attributes,
        "metadata": metadata,
    }
    return Candidate.model_validate({**found, **more}).to_json()


def connector(request, start, end):
    assert (request["programId"], start.year, end) == ("reviews", 2026, NOW)
    for n in range(5):
        yield {
            "customerId": f"c{n}", "subjectType": "order", "subjectId": f"s{n}", "eventDate": days_ago(10 * n),
            "attributes": {"action": "pass-qc" if n == 0 else "submit", "orderValue": 10.0 * n}, "events": 2,
        }  # fmt: skip


@pytest.fixture
def objects():
    return MemoryObjects()


@pytest.fixture
def call(objects, clock):
    """Runs one stage alone on a made-up context; its data."""

    def run(handler, data, name="Stage", execution="e1"):
        payload = {"executionId": execution, "currentStage": name, "workflowBucket": "b", "initialData": data}
        handler(payload)
        return stage_output(objects, execution, name)

    return run


# --- ETL


def test_etl_makes_a_candidate_of_each_event(call, objects, clock):
    found = call(ETLStage(objects, clock, connector, "orders"), REQUEST)
    assert {name: found[name] for name in ("programId", "marketplace", "executionId", "metrics")} == {
        "programId": "reviews", "marketplace": "de", "executionId": "e1", "metrics": {"events": 10, "subjects": 5},
    }  # fmt: skip
    one = Candidate.model_validate(found["candidates"][1])
    assert (one.customerId, one.subject.id, one.attributes.orderValue, one.attributes.model_extra) == (
        "c1", "s1", 10.0, {"action": "submit"},
    )  # fmt: skip
    assert (one.metadata.sourceConnectorId, one.metadata.workflowExecutionId, one.metadata.version) == (
        "orders",
        "e1",
        1,
    )
    assert one.metadata.expiresAt == NOW + timedelta(days=30)
    assert [(c.type, c.id) for c in one.context] == [("program", "reviews"), ("marketplace", "de")]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"programId": ""}, "stage 'Stage': the input lacks programId"),
        ({"marketplace": None}, "lacks marketplace"),
        ({"dateRange": None}, "lacks dateRange"),
        ({"dateRange": {"start": "2026-01-01T00:00:00Z"}}, "dateRange lacks start or end"),
        (
            {"dateRange": {"start": "2026-01-01", "end": "x"}},
            r"dateRange\.start is no moment; expected ISO 8601 with a time zone",
        ),
        ({"dateRange": {"start": "2026-07-01T00:00:00Z", "end": NOW.isoformat()}}, "dateRange.start is after"),
        ({}, "the input lacks events, customer, subject"),
    ],
)
def test_etl_names_what_its_input_lacks(call, objects, clock, change, rule):
    with pytest.raises(HeadgatePermanentError, match=rule):
        call(ETLStage(objects, clock), {**REQUEST, **change})


# --- Filter


@pytest.mark.parametrize(
    ("change", "filter_id", "code"),
    [
        ({"attributes": {"action": "pass-qc"}}, "eligibility", "ALREADY_CLOSED"),
        ({"attributes": {"consumed": True}}, "eligibility", "ALREADY_CONSUMED"),
        ({"metadata": {"expiresAt": NOW.isoformat()}}, "eligibility", "EXPIRED"),
        ({"attributes": {"channelEligibility": {"mail": False, "push": False}}}, "eligibility", "NO_CHANNEL"),
        ({"metadata": {"sourceConnectorId": ""}}, "trust", "UNTRUSTED_SOURCE"),
        ({"metadata": {"sourceConnectorId": "unknown"}}, "trust", "UNTRUSTED_SOURCE"),
        ({"customer": "blocked"}, "trust", "BLOCKED_CUSTOMER"),
        ({"attributes": {"eventDate": days_ago(-1)}}, "trust", "FUTURE_EVENT"),
        ({"attributes": {"eventDate": None}}, "quality", "NO_EVENT_DATE"),
        ({"attributes": {"deliveryDate": days_ago(31)}}, "quality", "DATES_OUT_OF_ORDER"),
        ({"attributes": {"timingWindow": 29.5}}, "business_rule", "OUTSIDE_TIMING_WINDOW"),
        ({"attributes": {"eventDate": days_ago(61)}}, "business_rule", "OUTSIDE_TIMING_WINDOW"),
        ({"attributes": {"orderValue": 4.99}}, "business_rule", "ORDER_VALUE_TOO_LOW"),
        ({"attributes": {"mediaEligible": False}}, "business_rule", "MEDIA_NOT_ELIGIBLE"),
        ({"attributes": {"action": "delete", "orderValue": 1}}, "eligibility", "ALREADY_CLOSED"),  # the first says why
    ],
)  # fmt: skip
def test_each_filter_says_why(call, objects, clock, change, filter_id, code):
    chain = FilterStage(objects, clock).filters
    chain[1] = TrustFilter(frozenset({"orders"}), frozenset({"blocked"}))
    chain[3] = BusinessRuleFilter(window_days=60, least_order_value=5, needs_media=True)
    good = candidate("good", attributes={"channelEligibility": {"mail": True, "push": False}, "mediaEligible": True})
    found = call(FilterStage(objects, clock, chain), {**REQUEST, "candidates": [candidate(**change), good]})
    assert found["candidates"] == [good]
    (rejected,) = found["rejected"]
    assert set(rejected) == {"customerId", "subjectId", "filterId", "reason", "reasonCode"}
    assert (rejected["subjectId"], rejected["filterId"], rejected["reasonCode"]) == ("s1", filter_id, code)
    assert found["metrics"]["rejectedBy"] == {
        **dict.fromkeys(("eligibility", "trust", "quality", "business_rule"), 0), filter_id: 1,
    }  # fmt: skip


def test_a_candidate_that_comes_twice_is_kept_once(call, objects, clock):
    stage = FilterStage(objects, clock)
    twice = {**REQUEST, "candidates": [candidate(), candidate(), candidate("c2")]}
    for execution in ("e1", "e2"):  # the filter's memory is that of one run
        found = call(stage, twice, execution=execution)
        assert [r["reasonCode"] for r in found["rejected"]] == ["DUPLICATE_CANDIDATE"]


def test_two_filter_stages_add_up(call, objects, clock):
    first = call(
        FilterStage(objects, clock),
        {"candidates": [candidate(), candidate("c2", attributes={"consumed": True})]},
        "One",
    )
    second = call(FilterStage(objects, clock, [BusinessRuleFilter(least_order_value=9)]), first, "Two")
    assert (len(second["candidates"]), len(second["rejected"])) == (1, 1)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ({}, "stage 'Stage' got no candidates"),
        ([], "stage 'Stage' got no candidates"),
        ({"candidates": [{"customerId": "secret"}]}, r"candidates do not fit their model at 0\.subject: Field required \(and 1 more\)"),
        ({"candidates": [candidate() | {"extra": "secret"}]}, r"at 0\.extra: Extra inputs are not permitted"),
        ({"candidates": [candidate(), candidate() | {"scores": {"m": {"modelId": "m", "value": 1, "confidence": 1.5,
          "timestamp": days_ago(1)}}}]}, r"at 1\.scores\.m\.confidence"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [FilterStage, ScoreStage, StoreStage, ReactiveStage])
def test_every_stage_checks_its_candidates_and_quotes_none(call, objects, clock, kind, data, rule):
    expected = "got neither detail nor candidates" if kind is ReactiveStage and "candidates" not in data else rule
    with pytest.raises(HeadgatePermanentError, match=expected) as found:
        call(kind(objects, clock), data)
    assert "secret" not in str(found.value)


# --- Score


def test_scores_have_value_confidence_and_fallback(call, objects, clock):
    many = [
        candidate("a", attributes={"eventDate": days_ago(30)}),
        candidate("b", attributes={"eventDate": days_ago(30), "orderValue": 1, "deliveryDate": days_ago(29)}),
        candidate("c", attributes={"eventDate": None}),
        candidate("d", attributes={"eventDate": days_ago(-1)}),
    ]
    found = call(ScoreStage(objects, clock), {**REQUEST, "candidates": many})
    scores = [c["scores"]["age-1"] for c in found["candidates"]]
    assert [(s["value"], s["confidence"]) for s in scores] == [(0.5, 0.8), (0.5, 1.0), (0.1, 0.0), (0.1, 0.0)]
    assert found["metrics"] == {"scoredCount": 2, "fallbackCount": 2, "errorCount": 0}


def test_a_model_that_fails_is_counted_and_its_candidate_gets_the_fallback(call, objects, clock):
    def model(found, now):
        if found.customerId == "a":
            raise ZeroDivisionError
        return (float("nan"), 1.0) if found.customerId == "b" else (0.7, 0.9)

    many = {"candidates": [candidate(n) for n in "abc"]}
    found = call(ScoreStage(objects, clock, model, "own-2", 0.3), many)
    assert [c["scores"]["own-2"]["value"] for c in found["candidates"]] == [0.3, 0.3, 0.7]
    assert found["metrics"] == {"scoredCount": 1, "fallbackCount": 0, "errorCount": 2}
    with pytest.raises(TransientError, match="the model 'own-2' failed for every candidate"):
        call(ScoreStage(objects, clock, model, "own-2"), {"candidates": [candidate("a")]}, execution="e2")


def test_the_age_model_knows_its_half_life():
    old = Candidate.model_validate(candidate(attributes={"eventDate": days_ago(60)}))
    assert age_model(old, NOW) == (0.75, 0.8)


# --- Store


def test_candidates_are_stored_once_in_batches_of_25(call, objects, clock):
    many = {**REQUEST, "candidates": [candidate(f"c{n:03d}") for n in range(60)]}
    found = call(StoreStage(objects, clock), many)
    assert (found["storedCount"], found["alreadyStored"], found["failedCount"], found["failedCandidates"]) == (
        60,
        0,
        0,
        [],
    )
    kept = [json.loads(objects.get(key)) for key in objects.list("candidates/reviews/de/")]
    assert sorted(len(batch) for batch in kept) == [10, 25, 25]
    # A redelivered message is a new execution, made at another time: its candidates are there already.
    again = {**many, "candidates": [candidate(f"c{n:03d}", metadata={"workflowExecutionId": "e2"}) for n in range(60)]}
    found = call(StoreStage(objects, clock), again, execution="e2")
    assert (found["storedCount"], found["alreadyStored"]) == (0, 60)
    assert len(objects.list("candidates/")) == 3


class Table:
    """Refuses some batches."""

    def __init__(self, error):
        self.error = error
        self.stored = []

    def put_batch(self, place, batch):
        if any(c["customerId"] == "c03" for c in batch):
            raise self.error
        self.stored += batch
        return len(batch)


def test_batches_that_are_refused_for_good_are_listed(call, objects, clock):
    table = Table(AccessError("403"))
    many = {"candidates": [candidate(f"c{n:02d}") for n in range(30)]}
    found = call(StoreStage(objects, clock, lambda _: table), many)
    assert (found["storedCount"], found["failedCount"]) == (5, 25)
    assert found["failedCandidates"][3] == {"customerId": "c03", "subjectId": "s1", "reason": "AccessError: 403"}
    assert found["metrics"]["failedCount"] == 25


def test_a_batch_that_fails_for_a_time_fails_the_stage_after_the_others(call, objects, clock):
    table = Table(TransientError("503"))
    with pytest.raises(TransientError, match="a batch of candidates could not be stored: 503"):
        call(StoreStage(objects, clock, lambda _: table), {"candidates": [candidate(f"c{n:02d}") for n in range(30)]})
    assert len(table.stored) == 5


def test_names_that_are_no_path_become_digests(call, objects, clock):
    call(StoreStage(objects, clock), {"programId": "../x", "candidates": [candidate()]})
    (key,) = objects.list("candidates/")
    assert (len(key.split("/")), ".." in key) == (4, False)
    with pytest.raises(InvalidInputError):
        ObjectCandidates(objects).put_batch("../x", [candidate()])


# --- Reactive


def event(**change):
    detail = {
        "customerId": "c1", "eventType": "DELIVERED", "subjectType": "order", "subjectId": "o1", "programId": "reviews",
        "marketplace": "de", "eventDate": days_ago(1), "metadata": {"carrier": "x"}, **change,
    }  # fmt: skip
    return {"source": "orders", "detail-type": "Delivery", "detail": detail}


def test_an_event_becomes_a_candidate_and_a_reaction(call, objects, clock):
    found = call(ReactiveStage(objects, clock), event())
    assert found["reactions"] == [{"customerId": "c1", "subjectId": "o1", "eventType": "DELIVERED"}]
    one = Candidate.model_validate(found["candidates"][0])
    assert (one.subject.metadata, one.attributes.eventDate) == ({"carrier": "x"}, datetime.fromisoformat(days_ago(1)))
    assert (found["deduplicated"], found["metrics"]["reactions"]) == (False, 1)


def test_within_300_seconds_there_is_one_reaction(call, objects, clock):
    stage = ReactiveStage(objects, clock)
    assert not call(stage, event(), execution="e1")["deduplicated"]
    clock.advance_us(299_999_999)
    repeated = call(stage, event(eventType="AGAIN"), execution="e2")
    assert (repeated["deduplicated"], repeated["candidates"], repeated["reactions"]) == (True, [], [])
    for other in ({"customerId": "c2"}, {"subjectId": "o2"}, {"subjectType": "x"}, {"programId": "y"}):
        assert not call(stage, event(**other), execution=f"e-{next(iter(other))}")["deduplicated"]
    clock.advance_us(1)
    assert not call(stage, event(), execution="e3")["deduplicated"]


def test_the_same_execution_may_react_again_because_its_answer_may_be_lost(objects):
    window = ReactionWindow(objects)
    assert [window.enter("k", 0, owner) for owner in ("e1", "e1", "e2", "e1")] == [True, True, False, True]


def test_reactions_are_forgotten_after_twice_the_window(objects):
    window = ReactionWindow(objects)
    second = 1_000_000
    for number, at_s in enumerate((0, 300, 601, 1_000)):
        assert window.enter("k", at_s * second, f"e{number}")
    kept = [json.loads(objects.get(key))["at_us"] // second for key in objects.list("reactions/")]
    assert kept == [601, 1_000]


def test_of_two_that_see_the_same_last_reaction_one_reacts(objects):
    class Slow(MemoryObjects):
        rival = None

        def put(self, key, data, if_absent=False):
            if self.rival:
                rival, self.rival = self.rival, None
                rival()
            super().put(key, data, if_absent)

    slow = Slow()
    outcomes = []
    slow.rival = lambda: outcomes.append(ReactionWindow(slow).enter("k", 5, "e2"))
    outcomes.append(ReactionWindow(slow).enter("k", 5, "e1"))
    assert outcomes == [True, False]


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ({"source": "x"}, "got neither detail nor candidates"),
        ({"detail": {}}, r"the event's detail do not fit their model at customerId: Field required \(and 6 more\)"),
        ({"detail": "text"}, "the event's detail do not fit"),
        (event(eventDate="yesterday"), "at eventDate"),
        (event(extra="secret"), "at extra: Extra inputs"),
        (event(customerId=""), "at customerId: String should have at least 1 character"),
    ],
)
def test_a_missing_detail_is_no_success(call, objects, clock, data, rule):
    with pytest.raises(HeadgatePermanentError, match=rule) as found:
        call(ReactiveStage(objects, clock), data)
    assert "secret" not in str(found.value)


def test_the_best_candidates_of_a_run_are_reactions(call, objects, clock):
    many = [candidate(f"c{n}", attributes={"eventDate": days_ago(n)}) for n in (29, 30, 31)]
    scored = call(ScoreStage(objects, clock), {**REQUEST, "candidates": [*many, many[2]]}, "Score")
    found = call(ReactiveStage(objects, clock), scored, "React")
    assert [r["customerId"] for r in found["reactions"]] == ["c30", "c31"]
    assert found["candidates"] == scored["candidates"]


# --- together


@pytest.fixture
def run(store, clock, objects):
    def start(workflow, data, **changed):
        functions = {step.function_key: scoring_functions(objects, clock)[step.function_key] for step in workflow.steps}
        return workflow.run(data, functions={**functions, **changed}, objects=objects, database=store.db, clock=clock)

    return start


def test_the_shipped_workflow_runs(run, objects, clock):
    done = run(scoring_workflow(), REQUEST, etlLambda=ETLStage(objects, clock, connector))
    metrics = done.data["metrics"]
    assert (metrics["subjects"], metrics["rejected"], metrics["scoredCount"], metrics["storedCount"]) == (5, 1, 4, 4)
    assert metrics["reactions"] == 2  # 30 and 40 days old
    assert list(dict.fromkeys(e["state"] for e in done.history if e.get("state"))) == [
        "ETLStage",
        "FilterStage",
        "ScoreStage",
        "StoreStage",
        "ReactiveStage",
    ]


REST = ("filterLambda", "scoreLambda", "storeLambda", "reactiveLambda")


@pytest.mark.parametrize("order", list(itertools.permutations(REST)), ids=lambda order: "-".join(k[:2] for k in order))
def test_the_stages_work_in_any_order(run, objects, clock, order):
    workflow = scoring_workflow(stages=["etlLambda", *order])
    done = run(workflow, REQUEST, etlLambda=ETLStage(objects, clock, connector))
    assert [c["customerId"] for c in done.data["candidates"]] == ["c1", "c2", "c3", "c4"]
    assert all(c["scores"]["age-1"]["value"] > 0 for c in done.data["candidates"])
    assert done.data["rejected"][0]["reasonCode"] == "ALREADY_CLOSED"


def test_an_event_goes_the_reactive_way(run, objects):
    body = json.dumps(event())
    done = run(reactive_workflow(), [{"messageId": "m", "body": body}])
    assert (done.data["storedCount"], done.data["candidates"][0]["customerId"]) == (1, "c1")
    assert len(objects.list("candidates/reviews/de/")) == 1
    assert run(reactive_workflow(), [{"messageId": "m", "body": body}]).data["storedCount"] == 0


def test_the_shipped_definitions_are_valid():
    assert scoring_workflow(bucket="scoring").problems() == []
    assert scoring_workflow(bucket="scoring").to_asl()["TimeoutSeconds"] == 300
    assert reactive_workflow(bucket="scoring", source_queue="events").problems() == []
    with pytest.raises(InvalidInputError, match="there is no stage 'nightly'; expected etlLambda"):
        scoring_workflow(stages=["nightly"])
    assert Workflow("w", "EXPRESS", [LambdaStep("F", "f")], functions={"f": FilterStage}).problems() == []
    assert EligibilityFilter().filter_id == "eligibility"
