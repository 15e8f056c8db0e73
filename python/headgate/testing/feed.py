"""A small HTTP feed on loopback that behaves like Tiingo and Finnhub, their failures included."""

from __future__ import annotations

import errno
import json
import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs, urlsplit

from headgate.errors import ConfigError, InvalidInputError, Kind
from headgate.testing import data

if TYPE_CHECKING:
    from types import TracebackType

_HANG_S = 30.0
_PRESS_RELEASE_AT = 2  # the wave in which the press release and the broken records appear


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "application/json"


class FeedData(Protocol):
    """What a feed serves."""

    @property
    def now(self) -> datetime:
        """The data's own present: the newest article + 10 minutes."""
        ...

    @property
    def errors(self) -> tuple[Answer, ...]:
        """Error bodies of the primary."""
        ...

    def tiingo(self, tickers: list[str], wave: int) -> bytes: ...
    def finnhub(self, symbol: str, wave: int) -> bytes: ...
    def sentiment(self, symbol: str) -> Answer: ...


class WrittenData:
    """Our own data set; each wave publishes some more of it."""

    errors = (
        Answer(403, b'{"detail":"You do not have permission to access the News API"}'),
        Answer(200, b"You have run over your 500 symbol look up for this month.", "text/plain"),
        Answer(429, b'{"detail":"Error: You have run over your hourly request allocation."}'),
        Answer(404, b'{"detail":"Not found."}'),
    )

    def __init__(self, now: datetime, count: int = 360, waves: int = 8) -> None:
        self.now: datetime = now
        self.waves = waves
        self._stories = data.stories(count, now)

    def _visible(self, wave: int) -> list[data.Story]:
        return self._stories[: len(self._stories) * min(wave, self.waves) // self.waves]

    def tiingo(self, tickers: list[str], wave: int) -> bytes:
        wanted = {t.upper() for t in tickers}
        found = [data.tiingo_article(s, random.Random(s.number)) for s in self._visible(wave) if s.ticker in wanted]  # noqa: S311
        extras = [*data.press_release("tiingo", self.now), *data.broken_articles("tiingo", self.now)]
        if wave >= _PRESS_RELEASE_AT and "AAPL" in wanted:
            found += extras
        return json.dumps(found).encode()

    def finnhub(self, symbol: str, wave: int) -> bytes:
        found = [data.finnhub_article(s, random.Random(s.number)) for s in self._visible(wave) if s.ticker == symbol]  # noqa: S311
        if wave >= _PRESS_RELEASE_AT and symbol == "AAPL":
            found += [*data.press_release("finnhub", self.now), *data.broken_articles("finnhub", self.now)]
        return json.dumps(found).encode()

    def sentiment(self, symbol: str) -> Answer:
        """The premium endpoint's shape; the figures are made of the symbol."""
        bullish = round((sum(symbol.encode()) % 101) / 100, 4)
        doc = {
            "buzz": {"articlesInLastWeek": len(symbol) * 5, "buzz": 0.9, "weeklyAverage": 22.5},
            "companyNewsScore": 0.9, "sectorAverageBullishPercent": 0.6, "sectorAverageNewsScore": 0.5,
            "sentiment": {"bearishPercent": round(1 - bullish, 4), "bullishPercent": bullish}, "symbol": symbol,
        }  # fmt: skip
        return Answer(200, json.dumps(doc).encode())


class RecordedData:
    """Recorded responses from a folder: `finnhub/company-news-SYMBOL.json`, `tiingo/*.json`, `errors/`.

    Raises:
        InvalidInputError: the folder does not hold such recordings.
    """

    def __init__(self, folder: str | Path) -> None:
        root = Path(folder)
        self._finnhub = {
            p.stem.rpartition("-")[2]: p.read_bytes() for p in sorted(root.glob("finnhub/company-news-*.json"))
        }
        if not self._finnhub:
            message = f"feed {root}: expected finnhub/company-news-SYMBOL.json in it"
            raise InvalidInputError(message, Kind.NOT_FOUND)
        bodies = [p.read_bytes() for p in sorted(root.glob("tiingo/*.json"))]
        self._tiingo = [(body, json.loads(body)) for body in bodies if body.lstrip().startswith(b"[")]
        newest = max(article["datetime"] for body in self._finnhub.values() for article in json.loads(body))
        self.now = datetime.fromtimestamp(newest + 600, UTC)
        self.errors = tuple(self._read_errors(root / "errors"))

    @staticmethod
    def _read_errors(folder: Path) -> list[Answer]:
        observed = folder / "observed.jsonl"
        if not observed.exists():
            return list(WrittenData.errors)
        found: list[Answer] = []
        for line in observed.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            body = folder / f"{entry['n']:02d}-tiingo-{entry['status']}.body"
            if entry["provider"] == "tiingo" and body.exists() and body.read_bytes().strip() != b"[]":
                kind = entry["content_type"] or ""
                found.append(
                    Answer(entry["status"], body.read_bytes(), "text/plain" if "plain" in kind else "application/json")
                )
        return found

    def tiingo(self, tickers: list[str], wave: int) -> bytes:
        """The recorded body that shares most tickers with the request, as received over the wire."""
        wanted = {t.lower() for t in tickers}

        def shared(entry: tuple[bytes, list[dict[str, list[str]]]]) -> int:
            return len(wanted & {t for article in entry[1] for t in article["tickers"]})

        return max(self._tiingo, key=shared)[0] if self._tiingo else b"[]"

    def finnhub(self, symbol: str, wave: int) -> bytes:
        return self._finnhub.get(symbol, b"[]")

    def sentiment(self, symbol: str) -> Answer:
        """As a key without the plan gets it."""
        return Answer(403, b'{"error":"You don\'t have access to this resource."}')


def _page(body: bytes, limit: int, offset: int) -> bytes:
    """The body as received, unless it is more than a page."""
    if offset == 0 and len(body) < limit * 60:
        return body
    articles = json.loads(body)
    return body if offset == 0 and len(articles) <= limit else json.dumps(articles[offset : offset + limit]).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False
    feed: Feed


class Feed:
    """Serves a data set; modes per provider are switched from outside while it runs.

    Modes: "healthy", "hang" (accepts and never answers), "500", or "error:N" (the N-th recorded error body).

    Example:
        >>> with Feed(WrittenData(datetime(2026, 5, 1, tzinfo=UTC))) as feed:   # doctest: +SKIP
        ...     feed.set_mode("tiingo", "hang")
    """

    def __init__(self, content: FeedData, port: int = 0) -> None:
        self.content = content
        self.wave = 1
        self.modes = {"tiingo": "healthy", "finnhub": "healthy"}
        self.requests: list[tuple[str, str, int]] = []
        self.hanging = threading.Event()  # set while a request is kept waiting
        self._release = threading.Event()
        self._lock = threading.Lock()
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            message = f"port {port} on 127.0.0.1 is in use; choose another with --port, or 0 for any"
            raise ConfigError(message, Kind.ADDRESS_IN_USE) from None
        self._server.feed = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def set_mode(self, provider: str, mode: str) -> None:
        """Switch a provider; requests that hang are let go."""
        with self._lock:
            self.modes[provider] = mode
            if mode != "hang":
                self._release.set()
                self._release = threading.Event()

    def answer(self, path: str, token: str) -> Answer | None:
        """The answer to a request, or None for one that is never answered."""
        parts = urlsplit(path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        provider = "tiingo" if parts.path.startswith("/tiingo/") else "finnhub"
        with self._lock:
            mode, release = self.modes[provider], self._release
        if mode == "hang":
            self.hanging.set()
            release.wait(_HANG_S)
            return None
        if mode == "500":
            return Answer(500, b"Internal Server Error", "text/plain")
        if mode.startswith("error:"):
            return self.content.errors[int(mode.removeprefix("error:"))]
        if provider == "tiingo":
            if not token.startswith("Token ") or len(token) == len("Token "):
                return Answer(403, b'{"detail":"Please supply a token"}')
            body = self.content.tiingo(query.get("tickers", "").split(","), self.wave)
            return Answer(200, _page(body, int(query.get("limit", 100)), int(query.get("offset", 0))))
        if not token:
            return Answer(401, b'{"error":"Please use an API key."}')
        if parts.path.endswith("/news-sentiment"):
            return self.content.sentiment(query.get("symbol", ""))
        return Answer(200, self.content.finnhub(query.get("symbol", ""), self.wave))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        feed = self.server.feed
        token = self.headers.get("Authorization") or self.headers.get("X-Finnhub-Token") or ""
        answer = feed.answer(self.path, token)
        feed.requests.append((self.command, self.path, answer.status if answer else 0))
        if answer is None:
            self.close_connection = True
            return
        try:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client cut the call at its deadline

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet: the collection events tell what happened."""
