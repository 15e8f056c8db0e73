"""The sources of a configuration: adapters with their keys, failover with breakers, collections and their standing."""

from __future__ import annotations

import inspect
import logging
import re
from functools import cached_property
from typing import TYPE_CHECKING

from headgate._native import core
from headgate._registry import ADAPTERS, CALENDARS
from headgate.errors import ConfigError, HeadgateError
from headgate.identity import compact_json
from headgate.intake import (
    AlertRules,
    CollectionResult,
    Collector,
    Freshness,
    Intake,
    Taken,
    check_freshness,
    replay,
)
from headgate.ports import Announcement
from headgate.resilience import (
    BreakerDefaults,
    CircuitBreakerManager,
    RetryBudget,
    RetryPolicy,
    find_ca_file,
    make_tracker,
)
from headgate.wiring.references import load_reference
from headgate.wiring.stores import Stores

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.config import SourceConfig
    from headgate.intake import Adapter
    from headgate.ports import Calendar, Json

log = logging.getLogger("headgate")
_STANDING_EVENTS = 100  # whose attempts say how a source stands: eight hours of collections
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")  # a part of object keys and of states' names
_DAY_US = 86_400 * 1_000_000


class Sources(Stores):
    """The methods of `App` that ask sources and take in what they answer."""

    @cached_property
    def intake(self) -> Intake:
        """The front door of the pipeline."""
        return Intake(self.pipeline, self.store, self.objects, self.clock, {a.name: a for a in self.adapters})

    @cached_property
    def adapters(self) -> list[Adapter]:
        """The configured sources, the primary first."""
        return [self._adapter(name, source) for name, source in self._ordered_sources()]

    @cached_property
    def breakers(self) -> CircuitBreakerManager:
        """The sources' breakers, shared with the other nodes of this store."""
        r = self.config.resilience
        options = BreakerDefaults(
            r.failure_threshold, r.window_s, r.recovery_s, r.max_failed_collections, r.failure_rate, r.slow_call_s,
            r.slow_call_rate, r.minimum_calls,
        )  # fmt: skip
        return CircuitBreakerManager(
            self.store, self.clock, options=options, refresh_s=r.breaker_cache_s, quorum=r.breaker_quorum
        )

    @cached_property
    def collector(self) -> Collector:
        """Asks the sources, the primary first.

        Raises:
            ConfigError: no source is configured, or one cannot be loaded.
        """
        r = self.config.resilience
        if not self.adapters:
            message = "sources: none is configured; `headgate init` writes a file with two"
            raise ConfigError(message)
        transport = core.curl_transport(
            find_ca_file(self.config.environment.get("SSL_CERT_FILE", "")), self.user_agent, self.clock,
            int(r.connect_timeout_s * 1e6), r.max_redirects, r.max_body_bytes,
        )  # fmt: skip
        failover = core.Failover(
            RetryPolicy(r.retry_attempts, int(r.retry_base_s * 1e6), 5_000_000), int(r.return_to_primary_s * 1e6), 8,
            transport, self.clock, core.SystemRandom(), RetryBudget(), int(r.total_s * 1e6), int(r.hedge_s * 1e6),
        )  # fmt: skip
        tracker = make_tracker(self.clock, threshold=r.alert_failures, window_s=r.alert_window_s)
        alerts = AlertRules(tracker, self.clock, latency_s=r.alert_latency_s, cooldown_s=r.alert_cooldown_s)
        return Collector(
            self.intake, self.adapters, failover=failover,
            breakers={a.name: self.breakers.breaker(a.name) for a in self.adapters}, alerts=alerts, store=self.store,
            on_stored=self._notify, metrics=self.metrics, shared=self.breakers, last_resort=self._alert_directly,
        )  # fmt: skip

    def missing_keys(self) -> list[str]:
        """The environment variables of those sources that take a key and have none."""
        # A source of one's own may need no key.
        named = zip(self._ordered_sources(), self.adapters, strict=True)
        return [_key_variable(name, source) for (name, source), a in named if getattr(a, "token", True) == ""]

    def query(self) -> Json:
        """The collection's query at this moment of the pipeline's clock."""
        c = self.config.collection
        now = self.clock.now_us()
        return {
            "tickers": [t.strip().upper() for t in c.tickers],
            **({"reliability": {k.lower(): v for k, v in c.reliability.items()}} if c.reliability else {}),
            "start_date": core.format_timestamp(now - c.lookback_days * _DAY_US)[:10],
            "end_date": core.format_timestamp(now)[:10],
        }

    def collect(self, cancel: core.CancelToken | None = None) -> CollectionResult:
        """One collection.

        Args:
            cancel: ends it from another thread.
        """
        collector, query = self.collector, self.query()  # a faulty configuration ends it here
        try:
            return collector.collect(query, cancel)
        finally:
            self._store_standings()

    def replay(self, source: str = "", since_us: int = 0, dry_run: bool = False) -> Taken:
        """Stored raw bodies through today's parser; see `headgate.intake.replay`."""
        return replay(self.intake, source=source, since_us=since_us, dry_run=dry_run)

    def standings(self) -> Json:
        """How each configured source stands since its last collection (`DataSourceConfig`)."""
        found = {a.name: self.store.load_state(f"source:{a.name}") for a in self.adapters}
        return {name: doc for name, doc in found.items() if doc is not None}

    @cached_property
    def calendar(self) -> Calendar:
        """When scheduled collections run."""
        made: Calendar = load_reference("collection.calendar", self.config.collection.calendar, CALENDARS)()
        return made

    def freshness(self, at_us: int | None = None) -> Freshness:
        """How old the data is now, or at a moment (microseconds since 1970)."""
        now = self.clock.now_us()
        return check_freshness(self.collector.last_success_us(), at_us or now, self.calendar, now_us=now)

    # --- parts

    def _ordered_sources(self) -> list[tuple[str, SourceConfig]]:
        return sorted(self.config.sources.items(), key=lambda entry: (entry[1].priority, entry[0]))

    def _adapter(self, name: str, source: SourceConfig) -> Adapter:
        cls: type[Adapter] = load_reference(f"sources.{name}.kind", source.kind or name, ADAPTERS)
        options: Json = {
            "name": name,
            "token": self._token(name, source),
            "timeout_s": source.timeout_s or self.config.resilience.timeout_s,
        }
        base_url = source.base_url or self.config.environment.get(f"{name.upper()}_BASE_URL", "")
        if base_url:
            options["base_url"] = base_url.rstrip("/")
        if self.config.collection.sentiment:
            options["sentiment"] = True
        return _made(name, source, cls, options)

    def _token(self, name: str, source: SourceConfig) -> str:
        """The source's key, from its environment variable or its secret; empty if there is neither."""
        variable = _key_variable(name, source)
        token = self.config.environment.get(variable, "")
        secret = self.config.environment.get(f"{name.upper()}_SECRET_ARN", "")
        if not token and secret:
            from headgate.backends.secrets import fetch_secret

            token = fetch_secret(secret)
        token = token.strip()  # a file's or a secret's last line break is no part of the key
        if any(ord(c) < 32 or ord(c) == 127 for c in token):
            message = f"{variable}: the key holds control characters; expected one line"
            raise ConfigError(message)
        return token

    def _notify(self, result: CollectionResult) -> None:
        """Announce a collection that stored something new, in its commit."""
        if self.pipeline.notify is None:
            return
        topic, body = self.pipeline.notify(result.event_id, result.source, result.taken.new, self.clock.now_us())
        self.store.publish(topic, result.event_id, body)

    def _alert_directly(self, topic: str, key: str, body: Json) -> None:
        """Past the outbox, when the store takes nothing."""
        if self.publisher is not None:
            self.publisher.publish([Announcement(0, topic, key, compact_json(body), key)])

    def _store_standings(self) -> None:
        """Each source's standing, for dashboards; what goes wrong with it fails no collection."""
        standing = self.pipeline.standing
        if standing is None:
            return
        try:
            events = self.store.collection_events(self.pipeline.name, _STANDING_EVENTS)
            for priority, adapter in enumerate(self.adapters, 1):
                snapshot = self.breakers.breaker(adapter.name).snapshot()
                doc = standing(adapter, min(priority, 10), snapshot, events)
                self.store.save_state(f"source:{adapter.name}", doc)
        except Exception as error:
            log.warning("standings are not stored", extra={"error": type(error).__name__})


def _made(name: str, source: SourceConfig, cls: Callable[..., Adapter], options: Json) -> Adapter:
    """The adapter, with those of the options that it takes.

    Raises:
        ConfigError: it does not take what its section sets, cannot be made, or is no source.
    """
    kind = source.kind or name
    if not _NAME.fullmatch(name):
        message = f"sources.{name!r}: expected a name of letters, digits, '-', '_' and '.', at most 50"
        raise ConfigError(message)
    parameters = inspect.signature(cls).parameters.values()
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    accepted = {k: v for k, v in options.items() if takes_all or k in {p.name for p in parameters}}
    for key, option in (("base_url", "base_url"), ("timeout_s", "timeout_s"), ("token_env", "token")):
        if getattr(source, key) and option not in accepted:
            message = f"sources.{name}.{key}: {kind} takes no {option}; expected it left out"
            raise ConfigError(message)
    try:
        made: Adapter = cls(**accepted)
    except HeadgateError as error:
        message = f"sources.{name}: {error.message}"
        raise ConfigError(message) from None
    except Exception as error:
        message = f"sources.{name}.kind: {kind} cannot be made: {type(error).__name__}: {error}"
        raise ConfigError(message) from None
    missing = [part for part in ("name", "timeout_s", "requests") if not hasattr(made, part)]
    if missing:
        message = f"sources.{name}.kind: {kind} has no {missing[0]}; expected a source: name, timeout_s, requests, ..."
        raise ConfigError(message)
    return made


def _key_variable(name: str, source: SourceConfig) -> str:
    return source.token_env or f"{name.upper()}_API_KEY"
