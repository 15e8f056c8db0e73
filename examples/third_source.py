"""A third source in thirty lines: an API that answers {"feed": [...]} with its key in a header.

[sources.wire]
kind = "third_source:WireSource"
priority = 3
base_url = "https://news.wire.example"        # the key: WIRE_API_KEY
"""

from dataclasses import dataclass
from urllib.parse import urlencode

from headgate.resilience import Request


@dataclass(frozen=True)
class WireSource:
    base_url: str = "https://news.wire.example"
    token: str = ""
    timeout_s: float = 10.0
    name: str = "wire"
    expects: str = "object"  # the shape of a good answer; anything else fails over

    def requests(self, query):
        asked = urlencode({"symbols": ",".join(query["tickers"]), "from": query["start_date"]})
        return [Request(f"{self.base_url}/v2/search?{asked}", [("X-Wire-Key", self.token)])]

    def records(self, value):
        return value["feed"]

    def fields(self, record):
        return {
            "id": record.get("uuid"), "headline": record.get("title"), "description": record.get("teaser"),
            "url": record.get("link"), "published": record.get("time"), "tickers": record.get("symbols"),
            "tags": [], "source_name": record.get("publisher"),
        }  # fmt: skip
