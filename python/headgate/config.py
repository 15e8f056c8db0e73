"""One headgate.toml: defaults for everything, environment overrides, and errors that name file, key and expectation.

An override is ``HEADGATE__SECTION__KEY=value`` (``HEADGATE__SOURCES__TIINGO__TIMEOUT_S=5``); lists are
comma-separated. Some short names work too (`SPEC_NAMES`), so that deployments that already use them need no change.
"""

from __future__ import annotations

import difflib
import os
import tomllib
import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from headgate.errors import ConfigError, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
FORMAT = 1

# Well-known environment variable -> the section and key that it sets.
SPEC_NAMES = {
    "FAILOVER_TIMEOUT_SECONDS": ("resilience", "timeout_s"),
    "ALERT_FAILURE_THRESHOLD": ("resilience", "alert_failures"),
    "SELF_HEALING_THRESHOLD_HOURS": ("healing", "threshold_hours"),
    "SELF_HEALING_BATCH_SIZE": ("healing", "batch_size"),
    "SELF_HEALING_ENABLED": ("healing", "enabled"),
    "CIRCUIT_BREAKER_CACHE_TTL": ("resilience", "breaker_cache_s"),
    "LOG_LEVEL": ("logging", "level"),
}
# Well-known environment variable -> section, key, and the URL scheme that is put before its value.
SPEC_URLS = {
    "DATABASE_TABLE": ("backends", "store", "dynamodb://"),
    "SNS_TOPIC_ARN": ("backends", "notify", "sns://"),
    "ALERT_TOPIC_ARN": ("backends", "alerts", "sns://"),
}


def _number(default: float, low: float, high: float, doc: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "doc": doc})


def _choice(default: str, values: tuple[str, ...], doc: str) -> Any:
    return field(default=default, metadata={"values": values, "doc": doc})


def _text(default: str, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass
class Backends:
    """Where things live, by URL."""

    objects: str = _text("file://headgate-data/objects", "raw blobs, exports, stage outputs; or s3://bucket/prefix")
    store: str = _text(
        "sqlite:///headgate-data/headgate.db", "items, outbox, queue, state, workflow history; or dynamodb://table"
    )
    ledger: str = _text("", "idempotency ledger; empty: in the store's file, so that effects are exactly once")
    notify: str = _text("", "kafka://, sns:// or sqs:// for announcements; empty: this machine's own consumers")
    alerts: str = _text("", "sns://, sqs:// or kafka:// for alerts; empty: where notify goes")
    private_files: bool = field(
        default=True, metadata={"doc": "what the command makes is its owner's alone (0600, 0700); false: as umask says"}
    )
    durability: str = _choice("full", ("full", "normal"), "full survives power loss, normal a crashed process")


@dataclass
class SourceConfig:
    """A news source."""

    kind: str = _text("", "tiingo, finnhub, or module:class of your own; empty: the section's name")
    priority: int = _number(1, 1, 10, "1 is the primary")
    base_url: str = _text("", "empty: the provider's own")
    token_env: str = _text("", "the environment variable that holds the key; empty: NAME_API_KEY")
    timeout_s: float = _number(0, 0, 60, "seconds for a whole collection; 0: resilience.timeout_s")


@dataclass
class Resilience:
    """Breaker, retry and failover."""

    timeout_s: float = _number(10, 0.05, 60, "a source's budget for a whole collection, seconds")
    failure_threshold: int = _number(5, 1, 1000, "failed attempts within window_s that open a breaker")
    window_s: float = _number(300, 1, 86_400, "seconds")
    recovery_s: float = _number(60, 0.05, 86_400, "open to half-open, seconds")
    max_failed_collections: int = _number(3, 1, 1000, "in a row; opens the breaker too")
    return_to_primary_s: float = _number(300, 0, 86_400, "the secondary serves this long before the primary is probed")
    retry_attempts: int = _number(3, 1, 10, "per request, the first included")
    retry_base_s: float = _number(0.2, 0, 60, "back-off base, seconds; doubles, with full jitter")
    alert_failures: int = _number(3, 1, 100, "failed collections within alert_window_s that raise an alert")
    alert_window_s: float = _number(900, 1, 86_400, "seconds")
    alert_latency_s: float = _number(30, 0.001, 3600, "a collection that takes longer raises an alert, seconds")
    alert_cooldown_s: float = _number(300, 0, 86_400, "between two alerts of one kind, seconds")
    total_s: float = _number(0, 0, 600, "for all sources together, seconds; 0: the sum of their own")
    connect_timeout_s: float = _number(5, 0.05, 60, "for a connection alone, seconds")
    hedge_s: float = _number(0, 0, 60, "a request without an answer for so long is sent once more; 0: never")
    max_body_bytes: int = _number(33_554_432, 1024, 1_000_000_000, "a larger answer is malformed")
    max_redirects: int = _number(3, 0, 20, "followed within one origin only")
    failure_rate: float = _number(0, 0, 1, "of the calls in window_s that opens a breaker; 0: no such rule")
    slow_call_s: float = _number(0, 0, 60, "a call that takes longer is slow; 0: none is")
    slow_call_rate: float = _number(0, 0, 1, "of the calls in window_s that opens a breaker; 0: no such rule")
    minimum_calls: int = _number(10, 1, 100_000, "before so many calls no rate is judged")
    breaker_cache_s: float = _number(60, 0, 3600, "how long another node's breakers are believed, seconds")
    breaker_quorum: int = _number(2, 1, 100, "nodes that must have opened a breaker before it opens for the others")


@dataclass
class Collection:
    """What to ask for."""

    pipeline: str = _text("market", "a shipped pipeline, or module:NAME of your own")
    finished_by: str = _text("", "the consumer that finishes items; empty: the pipeline's own, or the topic's only one")
    tickers: list[str] = field(default_factory=lambda: ["AAPL", "MSFT", "GOOGL"], metadata={"doc": "symbols"})
    lookback_days: int = _number(7, 1, 30, "days")
    calendar: str = _choice("nyse", ("nyse", "always"), "when scheduled collections run")
    sentiment: bool = field(default=False, metadata={"doc": "ask sources that have it for sentiment (Finnhub premium)"})
    reliability: dict[str, float] = field(
        default_factory=dict, metadata={"low": 0, "high": 1, "doc": "publisher = 0 to 1; beside the shipped table"}
    )


@dataclass
class ConsumerConfig:
    """A consumer group on a topic."""

    topic: str = _text("market.items", "what it listens to")
    handler: str = _text("headgate.pipelines.market.analysis:analyse", "module:function(body, tx)")
    key: str = _text("", "module:function(body) -> business key; empty: the event id of the body")
    lease_s: float = _number(300, 0.1, 43_200, "seconds until another worker may take over")
    max_attempts: int = _number(5, 1, 100, "then the message goes to the dead letters")
    queue: str = _text("", "kafka://host:port?setting=value or sqs://queue-url; empty: the queue in the store's file")
    effects: str = _choice(
        "transaction",
        ("transaction", "writes", "plain"),
        "where the handler's effect goes: the ledger's own SQLite commit, DynamoDB writes, or anywhere (at least once)",
    )
    on_unavailable: str = _choice(
        "refuse", ("refuse", "process"), "the ledger is away: keep the message, or run plain effects unprotected"
    )
    event_type: str = _text("", "a part of every claim key; empty: what the message's envelope says, else the topic")
    payload: str = _text("", "module:function(body) -> what must be equal whenever a key comes again; empty: no check")
    namespace: str = _text("headgate", "first part of every claim key, for services that share a ledger")
    tombstones: str = _choice(
        "dead_letter",
        ("dead_letter", "skip", "handle"),
        "a Kafka record without a value: a dead letter, acknowledged, or given to the handler as None",
    )
    backoff_base_s: float = _number(0.1, 0, 3600, "a failed message comes back after this times 2**attempts, seconds")
    backoff_cap_s: float = _number(60, 0, 43_200, "but after so long at most, seconds")
    unavailable_limit_s: float = _number(
        3600, 0, 31_536_000, "what the handler needs may be away for so long before attempts are counted, seconds"
    )
    max_message_bytes: int = _number(16_777_216, 1, 1_000_000_000, "larger messages go to the dead letters unread")
    serializer: str = _text("", "module:function(result) -> a value that JSON can hold; empty: docs/formats.md's rule")
    concurrency: int = _number(4, 1, 256, "Kafka: partitions, SQS: messages handled at the same time")
    dead_letters: str = _text("", "Kafka: the dead-letter topic (empty: TOPIC.DLQ); SQS: a queue's URL")


@dataclass
class Healing:
    """The healing sweep."""

    enabled: bool = field(default=True, metadata={"doc": "run it after every collection"})
    threshold_hours: float = _number(1, 0, 720, "pending for longer than this, and the cooldown between announcements")
    batch_size: int = _number(100, 1, 10_000, "announcements per sweep")
    max_attempts: int = _number(5, 1, 100, "then the item is quarantined")
    budget_s: float = _number(20, 0.1, 3600, "a sweep ends after so long, and the next one goes on there, seconds")
    outbox_hours: float = _number(1, 0, 720, "announcements that are not sent for longer are reported, and sent")
    upload_hours: float = _number(1, 0, 720, "uploaded files without an outcome for longer are worked on again")
    claim_hours: float = _number(1, 0, 720, "claims whose lease ended so long ago, and whose message is gone")
    workflow_hours: float = _number(6, 0, 720, "executions that have not moved for longer are resumed")
    kinds: list[str] = field(default_factory=list, metadata={"doc": "module:function(app) -> a StuckKind of your own"})


@dataclass
class CheckpointConfig:
    """A folder of event files and the Parquet file they become."""

    source: str = _text("", "a folder or s3://bucket/prefix; empty for exports: the pipeline's own items")
    target: str = _text("", "the Parquet file, s3://bucket/key, delta+file:///folder or delta+s3://bucket/prefix")
    schema: str = _text("", "infer, visits, news, or module:Model of your own; empty: the target's, of a new one infer")
    mode: str = _choice("ledger", ("ledger", "watermark"), "ledger takes late files too")
    settle_s: float = _number(2, 0, 3600, "younger files wait for the next run, seconds")
    follow_symlinks: bool = field(
        default=False, metadata={"doc": "read what symbolic links in a folder have outside of it"}
    )
    export: str = _text("", "a pipeline whose items are exported to source first")


@dataclass
class WorkflowConfig:
    """A workflow and its input."""

    definition: str = _text("headgate.pipelines.scoring:scoring_workflow", "module:function(retry) -> Workflow")
    functions: str = _text("headgate.pipelines.scoring:scoring_functions", "module:function(objects, clock)")
    retry_interval_s: float = _number(20, 1, 3600, "before the first retry of a stage, whole seconds; doubles")
    retry_attempts: int = _number(2, 0, 10, "retries of a stage")
    input: dict[str, Any] = field(default_factory=dict, metadata={"doc": "what the first stage gets"})
    jobs: dict[str, Any] = field(default_factory=dict, metadata={"doc": "Glue job -> its script, to run it here"})
    every_s: float = _number(0, 0, 31_536_000, "`headgate serve` starts an execution so often, seconds; 0: never")
    queue: str = _text("", "the topic whose messages `headgate workflow serve` takes; empty: the definition's queue")
    visibility_timeout_s: float = _number(600, 1, 43_200, "a message that was received is hidden so long, seconds")
    max_receive_count: int = _number(3, 1, 1000, "deliveries of a message before it becomes a dead letter")


@dataclass
class Uploads:
    """The intake of uploaded files."""

    min_length: int = _number(50, 0, 1_000_000, "characters of a text after trimming")
    max_length: int = _number(50_000, 1, 100_000_000, "characters of a text after trimming")
    max_file_bytes: int = _number(10_485_760, 1, 1_000_000_000, "a larger file is answered 413")
    max_request_bytes: int = _number(104_857_600, 1, 4_000_000_000, "a larger request is answered 413")
    max_files: int = _number(100, 1, 10_000, "files of one request")
    extract_timeout_s: float = _number(30, 0.1, 3600, "then a file counts as unreadable, seconds")
    extract_memory_bytes: int = _number(
        536_870_912, 134_217_728, 1e12, "what the process that reads a document may use, address space"
    )
    ready_timeout_s: float = _number(900, 0.1, 604_800, "an incomplete batch is announced after this, seconds")


@dataclass
class RetentionConfig:
    """What the store forgets (`headgate prune`, and `headgate serve` once an hour); 0 keeps forever."""

    outbox_days: float = _number(7, 0, 36_500, "announcements that were sent")
    history_days: float = _number(90, 0, 36_500, "collection events, finished workflows and batches")
    dead_letter_days: float = _number(0, 0, 36_500, "dead letters")
    raw_days: float = _number(0, 0, 36_500, "raw bodies; without them nothing can be replayed")
    execution_days: float = _number(7, 0, 36_500, "outputs of workflow stages (executions/)")


@dataclass
class Serve:
    """`headgate serve`."""

    host: str = _text("127.0.0.1", "where to listen; what other machines reach needs token_env or client_ca")
    port: int = _number(8080, 0, 65_535, "0 takes a free one")
    token_env: str = _text("", "the environment variable with the bearer token that requests need; empty: none")
    allowed_hosts: list[str] = field(
        default_factory=list, metadata={"doc": "names that a request's Host may have beside localhost; *: any"}
    )
    allowed_origins: list[str] = field(
        default_factory=list, metadata={"doc": "web origins whose pages may send requests, https://app.example"}
    )
    tls_cert: str = _text("", "a PEM file; with tls_key: the server speaks TLS")
    tls_key: str = _text("", "a PEM file")
    client_ca: str = _text("", "a PEM file; only clients with a certificate of its are served (mutual TLS)")
    incoming: str = _text("", "where uploads wait until they are stored; empty: the store's folder")
    max_requests: int = _number(32, 1, 10_000, "uploads that are read or stored at once; more are answered 503")
    max_connections: int = _number(256, 1, 100_000, "open connections; more are answered 503")
    idle_s: float = _number(10, 0.05, 3600, "a request that sends nothing for so long is answered 408, seconds")
    request_s: float = _number(300, 0.05, 86_400, "for a whole request, seconds")
    drain_s: float = _number(20, 1, 3600, "stopping waits so long for what is under way, seconds")
    store_wait_s: float = _number(2, 0.05, 60, "an upload waits so long for the store's write lock, then 503, seconds")
    min_free_bytes: int = _number(268_435_456, 0, 1e15, "less on the disk of uploads or store is answered 503")


@dataclass
class Schedule:
    """What `headgate serve` does by the clock, seconds between two runs; 0 switches a job off."""

    collect_s: float = _number(300, 0, 86_400, "collections, where sources are configured")
    closed_s: float = _number(3600, 0, 604_800, "collections while the market is closed; 0: none")
    sweep_s: float = _number(60, 0, 86_400, "the healing sweep")
    checkpoint_s: float = _number(3600, 0, 604_800, "every configured checkpoint")
    prune_s: float = _number(3600, 0, 604_800, "retention")


@dataclass
class Alerts:
    """What `headgate serve` tells operations: dead letters, quarantined items, failed jobs, parts that stand still."""

    check_s: float = _number(15, 0, 86_400, "how often is looked at what is wrong, seconds; 0: never")
    job_failures: int = _number(1, 1, 1000, "failures in a row of a scheduled job that raise an alert")
    cooldown_s: float = _number(900, 0, 604_800, "between two messages that raise one alert, seconds")
    webhook_env: str = _text("", "the environment variable with an https:// URL that alerts are posted to; empty: none")
    webhook_timeout_s: float = _number(10, 0.05, 300, "for a request to the webhook, seconds")


@dataclass
class ClockConfig:
    """The wall clock."""

    offset_s: float = _number(0, -4e9, 4e9, "added to it, to replay a recording at its own time, seconds")


@dataclass
class Logging:
    """Where the program's own words go."""

    level: str = _choice("INFO", ("DEBUG", "INFO", "WARNING", "ERROR"), "least level that is shown")
    format: str = _choice("auto", ("auto", "text", "json"), "auto: json in Lambda, text elsewhere")
    file: str = _text("", "a path; SIGHUP opens it anew; empty: standard error")


@dataclass
class Config:
    """One `headgate.toml`, with every default filled in; `load` makes it. docs/configuration.md has each key.

    Attributes:
        format: the version of the file's format.
        backends: where objects, items, claims, announcements and alerts live, by URL.
        sources: name -> a source of collections.
        resilience: time-outs, retries, breakers and alerts of collections.
        collection: the pipeline, what to ask its sources for, and when.
        consumers: name -> a consumer group: its topic, handler, lease and retries.
        healing: how long things may be stuck, and what a sweep does then.
        checkpoints: name -> a source of event files and the table that they become.
        workflows: name -> a workflow: its definition, functions and input.
        uploads: limits of uploaded files and their texts.
        retention: for how many days each kind of thing is kept.
        serve: addresses, TLS, limits and times of `headgate serve`.
        schedule: the seconds between two runs of each job of `headgate serve`.
        alerts: what `headgate serve` announces when something stands still, and where a webhook gets it.
        clock: an offset of the wall clock, for replays of recordings.
        logging: level, format and file of the log.
        base: the folder that relative paths are relative to: the file's, or the working folder.
        environment: the process's variables: overrides, and the keys of sources. Never shown or logged.
        is_configured: whether there is a file, or an override says something.
    """

    format: int = FORMAT
    backends: Backends = field(default_factory=Backends)
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    resilience: Resilience = field(default_factory=Resilience)
    collection: Collection = field(default_factory=Collection)
    consumers: dict[str, ConsumerConfig] = field(default_factory=dict)
    healing: Healing = field(default_factory=Healing)
    checkpoints: dict[str, CheckpointConfig] = field(default_factory=dict)
    workflows: dict[str, WorkflowConfig] = field(default_factory=dict)
    uploads: Uploads = field(default_factory=Uploads)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    serve: Serve = field(default_factory=Serve)
    schedule: Schedule = field(default_factory=Schedule)
    alerts: Alerts = field(default_factory=Alerts)
    clock: ClockConfig = field(default_factory=ClockConfig)
    logging: Logging = field(default_factory=Logging)
    base: Path = field(default_factory=Path.cwd, metadata={"internal": True})
    environment: dict[str, str] = field(default_factory=dict, repr=False, metadata={"internal": True})
    is_configured: bool = field(default=True, metadata={"internal": True})  # a file, or an override, says something

    def locate(self, url: str) -> str:
        """A path or file://, sqlite:/// URL with its relative path taken from the configuration's folder."""
        for prefix in ("sqlite:///", "file://"):
            if url.startswith(prefix):
                rest = url.removeprefix(prefix)
                return url if rest.startswith("/") else f"{prefix}{self.base.resolve() / rest}"
        return url if "://" in url or url.startswith("/") else str(self.base.resolve() / url)


def load(path: str | os.PathLike[str] | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Read a configuration.

    Args:
        path: the file; None takes ./headgate.toml when there is one, else the defaults.
        environment: overrides and API keys; default: the process's.

    Raises:
        ConfigError: one sentence with file, key and what was expected.
    """
    environment = dict(os.environ if environment is None else environment)
    file = Path(path) if path is not None else Path("headgate.toml")
    raw: dict[str, Any] = {}
    if path is not None or file.exists():
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _error(str(file), "does not exist; `headgate init` writes one") from None
        except OSError as error:
            raise _error(str(file), f"cannot be read: {error.strerror}", Kind.PERMISSION_DENIED) from None
        except UnicodeDecodeError:
            raise _error(str(file), "is not UTF-8 text") from None
        except tomllib.TOMLDecodeError as error:
            raise _error(str(file), f"is not valid TOML: {error}") from None
        except RecursionError:
            raise _error(str(file), "is nested too deep", Kind.NESTING_TOO_DEEP) from None
        except ValueError:
            message = "has an integer of more than 4300 digits"
            raise _error(str(file), message, Kind.NUMBER_OUT_OF_RANGE) from None
    _override(raw, environment)
    config = _build(Config, raw, str(file), "")
    if config.format != FORMAT:
        raise _error(
            str(file), f"format: this headgate reads format {FORMAT}, got {config.format}", Kind.UNSUPPORTED_VERSION
        )
    config.base = file.resolve().parent
    config.environment = environment
    config.is_configured = bool(raw) or file.exists()
    return config


def _error(file: str, what: str, kind: Kind = Kind.CONFIG) -> ConfigError:
    return ConfigError(
        f"{file}: {what}" if what[0].isupper() or ":" in what.split(" ", maxsplit=1)[0] else f"{file} {what}", kind
    )


def _override(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    region = f"?region={environment['CLOUD_REGION']}" if environment.get("CLOUD_REGION") else ""
    for name, (table, key, scheme) in SPEC_URLS.items():
        if environment.get(name):
            raw.setdefault(table, {})[key] = f"{scheme}{environment[name]}{region}"
    for name, value in environment.items():
        path: tuple[str, ...] = SPEC_NAMES.get(name, ())
        if name.startswith("HEADGATE__"):
            path = tuple(part.lower() for part in name.removeprefix("HEADGATE__").split("__"))
        if not path:
            continue
        section = raw
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section[path[-1]] = _Text(value)


class _Text(str):
    """A value from the environment: text that stands for whatever its key takes."""

    __slots__ = ()


def _build(cls: type[T], raw: Any, file: str, where: str) -> T:
    if not isinstance(raw, dict):
        raise _error(file, f"{where}: expected a table, got {_show(raw)}")
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if not f.metadata.get("internal")}  # type: ignore[arg-type]
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(sorted(known))}"
            raise _error(file, f"{_join(where, key)}: unknown key; {hint}")
    values = {
        name: _convert(hints[name], raw[name], known[name].metadata, file, _join(where, name))
        for name in known
        if name in raw
    }
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise _error(file, f"{_join(where, name)}: missing")
    return cls(**values)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _show(value: Any) -> str:
    return f"{value!r}" if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def _convert(hint: Any, value: Any, metadata: types.MappingProxyType[Any, Any], file: str, where: str) -> Any:
    if is_dataclass(hint):
        return _build(cast("type[Any]", hint), value, file, where)
    if get_origin(hint) is dict:
        inner = get_args(hint)[1]
        if not isinstance(value, dict):
            raise _error(file, f"{where}: expected a table, got {_show(value)}")
        if inner is float:
            return {k: _convert(float, v, metadata, file, f"{where}.{k}") for k, v in value.items()}
        if not is_dataclass(inner):
            return value
        return {k: _build(cast("type[Any]", inner), v, file, f"{where}.{k}") for k, v in value.items()}
    if get_origin(hint) is list:
        if isinstance(value, _Text):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise _error(file, f"{where}: expected a list of strings, got {_show(value)}")
        return value
    if hint is bool:
        if isinstance(value, _Text) and value.lower() in ("true", "false", "1", "0"):
            return value.lower() in ("true", "1")
        if not isinstance(value, bool):
            raise _error(file, f"{where}: expected true or false, got {_show(value)}")
        return value
    if hint in (int, float):
        return _convert_number(hint, value, metadata, file, where)
    if not isinstance(value, str):
        raise _error(file, f"{where}: expected a string, got {_show(value)}")
    if "values" in metadata and value not in metadata["values"]:
        raise _error(file, f"{where}: expected one of {', '.join(metadata['values'])}, got {value!r}")
    return str(value)


def _convert_number(hint: Any, value: Any, metadata: types.MappingProxyType[Any, Any], file: str, where: str) -> Any:
    what = "a whole number" if hint is int else "a number"
    bounds = f" from {metadata['low']:g} to {metadata['high']:g}" if "low" in metadata else ""
    number = value
    if isinstance(value, _Text):
        try:
            number = hint(value)
        except ValueError:
            number = None
    good = isinstance(number, int) if hint is int else isinstance(number, int | float)
    if (
        not good
        or isinstance(number, bool)
        or ("low" in metadata and not metadata["low"] <= number <= metadata["high"])
    ):
        raise _error(file, f"{where}: expected {what}{bounds}, got {_show(value)}")
    return hint(number)


def default_toml() -> str:
    """The file that `headgate init` writes: every key with its default and its meaning."""
    config = Config(
        sources={"tiingo": SourceConfig(priority=1), "finnhub": SourceConfig(priority=2)},
        consumers={"analysis": ConsumerConfig(key="headgate.pipelines.market.analysis:business_key")},
        checkpoints={
            "news": CheckpointConfig(
                "headgate-data/exports/market", "headgate-data/news.parquet", "news", export="market"
            )
        },
    )
    lines = [f"# headgate configuration. Times are in seconds.\nformat = {FORMAT}"]
    _dump(config, (), lines)
    return "\n".join(lines) + "\n"


def _dump(value: Any, where: tuple[str, ...], lines: list[str]) -> None:
    tables: list[tuple[str, Any]] = []
    for f in fields(value):
        item = getattr(value, f.name)
        if f.metadata.get("internal") or (not where and f.name == "format"):
            continue
        if is_dataclass(item) or isinstance(item, dict):
            tables.append((f.name, item))
        else:
            lines.append(f"{f.name} = {_toml(item)}  # {f.metadata.get('doc', '')}".rstrip(" #"))
    for name, item in tables:
        entries = (
            [((*where, name, k), v) for k, v in item.items()] if isinstance(item, dict) else [((*where, name), item)]
        )
        for path, entry in entries:
            if is_dataclass(entry):
                lines.append(f"\n[{'.'.join(path)}]")
                _dump(entry, path, lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f"{value:g}" if isinstance(value, float) else str(value)
