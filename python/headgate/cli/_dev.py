"""`headgate dev up`: the real servers that headgate works with, on this machine, without Docker."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.cli._signals import Signals
from headgate.errors import ConfigError, Kind

if TYPE_CHECKING:
    import argparse
    import threading
    from collections.abc import Callable

SERVERS = ("redis", "kafka", "dynamodb", "s3")


def add_dev(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The command `dev`."""
    command = add("dev", run_dev, "Start Redis, Kafka, DynamoDB Local and an S3 server on loopback, until Ctrl-C.")
    command.add_argument("action", choices=["up"])
    command.add_argument("--only", metavar="NAMES", help=f"comma-separated, of {', '.join(SERVERS)} (default: all)")
    command.add_argument("--programs", default=".servers", metavar="DIR", help="where `tools/setup dev` put them")
    command.add_argument(
        "--data", default="headgate-dev", metavar="DIR", help="their data, which stays (default: %(default)s)"
    )


def run_dev(options: argparse.Namespace) -> int:
    """Start them, print their URLs and what headgate reads, and wait."""
    signals = Signals()
    return run_servers(options.only, Path(options.programs), Path(options.data), signals)


def run_servers(only: str | None, programs: Path, data: Path, stop: threading.Event | Signals) -> int:
    """See `run_dev`.

    Args:
        only: names, comma-separated; None: all of them.
        programs: the folder of their programs.
        data: the folder of their data.
        stop: when its `wait` returns, everything is stopped.

    Returns:
        0; 1 when none of them could be started.

    Raises:
        ConfigError: a name is not among them, or one that was named is not installed.
    """
    names = SERVERS if only is None else tuple(part.strip() for part in only.split(",") if part.strip())
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        message = f"--only {only}: expected names of {', '.join(SERVERS)}"
        raise ConfigError(message)
    started: dict[str, str] = {}
    with ExitStack() as running:
        for name in names:
            try:
                server = _make(name, programs.resolve(), data.resolve())  # a server runs in its own folder
                running.enter_context(server)
            except ConfigError as error:
                if only is not None or error.kind is not Kind.NOT_BUILT:
                    raise
                print(f"{name}: {error.message}", file=sys.stderr)
                continue
            lines = _settings(name, server)
            started |= lines
            print(f"{name} is ready")
        if not started:
            return 1
        text = "".join(f"export {name}={value}\n" for name, value in started.items())
        (data / "environment").write_text(text, encoding="utf-8")
        print(
            f"\n{text}\nThe same lines are in {data / 'environment'}: `source` it. Ctrl-C stops everything.", flush=True
        )
        stop.wait()
    return 0


def _make(name: str, programs: Path, data: Path) -> Any:
    from headgate.testing import servers

    folder = data / name
    if name == "redis":
        return servers.RedisServer(folder, persistence="always")
    if name == "kafka":
        return servers.KafkaServer(programs / "kafka", folder)
    if name == "dynamodb":
        return servers.DynamoServer(programs / "dynamodb", folder)
    return servers.S3Server(programs / "versitygw" / "versitygw", folder)


def _settings(name: str, server: Any) -> dict[str, str]:
    """The environment variables that lead headgate, and boto3, to a server."""
    if name == "redis":
        return {"HEADGATE__BACKENDS__LEDGER": server.url}
    if name == "kafka":
        return {"HEADGATE_DEV_KAFKA": f"kafka://{server.bootstrap}"}
    if name == "dynamodb":
        return {"AWS_ENDPOINT_URL_DYNAMODB": server.endpoint}
    found = {**server.environment(), "AWS_ENDPOINT_URL_S3": server.endpoint}
    del found["AWS_ENDPOINT_URL"]  # the other services are elsewhere
    return found
