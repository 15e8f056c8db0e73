"""Real servers on loopback, for tests: started with nothing but their programs, stopped or killed when told.

Example:
    >>> with RedisServer() as redis:                # doctest: +SKIP
    ...     ledger = headgate.Ledger.open(redis.url)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, HeadgateError, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_START_S = 60.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One process with a folder and a port of its own; the port and the data survive a restart.

    Raises:
        ConfigError: kind not_built; the server's program is not installed.
    """

    name = "server"

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._own_folder = folder is None
        self.folder = Path(folder if folder is not None else tempfile.mkdtemp(prefix=f"headgate-{self.name}-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.user: str | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def prepare(self) -> None:
        """Once, before the first start."""

    def ready(self) -> bool:
        """Whether it takes work; the default looks at the port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self) -> None:
        """Start and wait until it is ready."""
        if not (self.folder / ".prepared").exists():
            self.prepare()
            (self.folder / ".prepared").touch()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - the program was found by name
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, user=self.user,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                self.kill()
                message = f"{self.name} did not start: {tail}"
                raise ConfigError(message)
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait; data in its folder stays."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing flushed by the process."""
        self.stop(signal.SIGKILL)

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop and start on the same port and folder."""
        self.stop(how)
        self.start()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop(signal.SIGKILL)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer(Server):
    """Redis. `persistence` is "none" (a restart loses everything) or "always" (every write is on disk first)."""

    name = "redis"

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, persistence: str = "none", options: tuple[str, ...] = ()
    ) -> None:
        super().__init__(folder)
        self.persistence = persistence
        self.options = options
        self.tls_port = 0

    def command(self) -> list[str]:
        program = _program("redis-server", "redis-server")
        durable = ["yes", "--appendfsync", "always"] if self.persistence == "always" else ["no"]
        tls = []
        if self.tls_port:
            tls = [
                "--tls-port", str(self.tls_port), "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem",
                "--tls-ca-cert-file", "cert.pem", "--tls-auth-clients", "no",
            ]  # fmt: skip
        return [
            program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder),
            "--appendonly", *durable, *tls, *self.options,
        ]  # fmt: skip

    def with_tls(self) -> RedisServer:
        """Also listen with TLS, under a certificate for localhost that `ca_file` vouches for."""
        self.tls_port = free_port()
        subprocess.run(  # noqa: S603 - the program was found by name
            [_program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
             "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
            check=True, capture_output=True, cwd=self.folder,
        )  # fmt: skip
        return self

    @property
    def ca_file(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def tls_url(self) -> str:
        return f"rediss://localhost:{self.tls_port}/0"


class _JavaServer(Server):
    """A server from Maven Central, its jars in one folder."""

    def __init__(self, jars: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> None:
        self.jars = Path(jars)
        if not self.jars.is_dir():
            message = f"{self.name}: there is no folder {self.jars} with its jars; `tools/setup dev` makes one"
            raise ConfigError(message, Kind.NOT_BUILT)
        super().__init__(folder)

    def java(self, *words: str) -> list[str]:
        memory = ["-Xmx512m", "-Xshare:auto", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [_program("java", "a Java runtime"), *memory, "-cp", f"{self.jars}/*", *words]


class DynamoServer(_JavaServer):
    """DynamoDB Local, in memory."""

    name = "dynamodb"

    def command(self) -> list[str]:
        words = self.java(
            "com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-inMemory", "-port", str(self.port)
        )
        return [words[0], f"-Djava.library.path={self.jars}", *words[1:]]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class KafkaServer(_JavaServer):
    """One Kafka broker that is its own controller (KRaft)."""

    name = "kafka"

    def __init__(
        self, jars: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None, advertised: int | None = None
    ) -> None:
        super().__init__(jars, folder)
        self.controller = free_port()
        self.advertised = advertised or self.port  # another port when a proxy stands before it

    def prepare(self) -> None:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.advertised}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "group.min.session.timeout.ms": "1000",
            "log.cleaner.enable": "false",
        }
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.folder / "server.properties").write_text(text)
        subprocess.run(  # noqa: S603 - the program was found by name
            self.java("kafka.tools.StorageTool", "format", "-t", "aGVhZGdhdGUtdGVzdHMtMQ", "-c", "server.properties"),
            check=True, capture_output=True, cwd=self.folder,
        )  # fmt: skip

    def command(self) -> list[str]:
        return self.java("kafka.Kafka", "server.properties")

    def ready(self) -> bool:
        if not super().ready():
            return False
        from confluent_kafka.admin import AdminClient

        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except Exception:
            return False

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.advertised}"


class S3Server(Server):
    """versitygw: an S3 server over a folder, with conditional writes as S3's own.

    Args:
        program: its binary.
    """

    name = "versitygw"
    access_key, secret_key = "headgate-test", "headgate-secret"

    def __init__(self, program: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None) -> None:
        self.program = Path(program)
        if not self.program.is_file():
            message = f"versitygw is not built: there is no {self.program}; `tools/setup dev` makes it"
            raise ConfigError(message, Kind.NOT_BUILT)
        super().__init__(folder)

    def prepare(self) -> None:
        (self.folder / "data").mkdir()

    def command(self) -> list[str]:
        return [
            str(self.program), "--port", f"127.0.0.1:{self.port}", "--access", self.access_key, "--secret",
            self.secret_key, "--quiet", "posix", str(self.folder / "data"),
        ]  # fmt: skip

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What boto3, and so headgate, reads to find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key, "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip


class PrometheusServer(Server):
    """Prometheus, which scrapes a target every half second.

    Args:
        folder_of_programs: holds `prometheus` and `promtool`.
        target: host:port of a /metrics page.
    """

    name = "prometheus"

    def __init__(
        self, folder_of_programs: str | os.PathLike[str], target: str, folder: str | os.PathLike[str] | None = None
    ) -> None:
        self.program = Path(folder_of_programs) / "prometheus"
        if not self.program.is_file():
            message = f"prometheus is not here: there is no {self.program}; `tools/setup dev` gets it"
            raise ConfigError(message, Kind.NOT_BUILT)
        super().__init__(folder)
        self.target = target

    def prepare(self) -> None:
        (self.folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
            f'scrape_configs: [{{job_name: headgate, static_configs: [{{targets: ["{self.target}"]}}]}}]\n'
        )

    def command(self) -> list[str]:
        return [
            str(self.program), f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn",
        ]  # fmt: skip

    def ready(self) -> bool:
        """It answers 503 while it opens its database."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:  # noqa: S310 - loopback
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class PostgresServer(Server):
    """PostgreSQL without a password, for the user `postgres`."""

    name = "postgres"

    def prepare(self) -> None:
        if os.geteuid() == 0:  # it refuses to run as root
            self.user = "postgres"
            shutil.chown(self.folder, "postgres")
        command = [self._find("initdb"), "-D", str(self.folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, user=self.user, cwd="/")  # noqa: S603

    def command(self) -> list[str]:
        return [
            self._find("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder),
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
        ]  # fmt: skip

    def ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def dsn(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    @staticmethod
    def _find(program: str) -> str:
        debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
        return str(debian[-1]) if debian else _program(program, "postgresql")


class MariaServer(Server):
    """MariaDB, which speaks MySQL's protocol and SQL; any user, no password."""

    name = "mariadb"

    def prepare(self) -> None:
        program = _program("mariadb-install-db", "mariadb-server")
        command = [program, f"--datadir={self.folder}/data", "--user=root", "--auth-root-authentication-method=normal"]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603

    def command(self) -> list[str]:
        return [
            _program("mariadbd", "mariadb-server"), "--no-defaults", f"--datadir={self.folder}/data", "--user=root",
            f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.folder}/socket", "--skip-grant-tables",
            "--skip-networking=0",
        ]  # fmt: skip


def _program(name: str, package: str) -> str:
    found = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")  # not on every user's path
    if found is None:
        message = f"{name} is not installed (package {package})"
        raise ConfigError(message, Kind.NOT_BUILT)
    return found


class ServeProcess:
    """`headgate serve` in a process of its own, on a free port.

    Args:
        folder: holds its headgate.toml.
        environment: the process's; None: our own.
    """

    def __init__(self, folder: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "headgate", "serve", "--port", "0", "--config", "headgate.toml"]
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        if not line.startswith("serving at "):
            raise HeadgateError(line + self.process.stderr.read(), Kind.STAGE_FAILED)
        self.url = line.split()[-1]

    def stop(self, how: int = signal.SIGTERM) -> str:
        """What it wrote to stderr; a process that was told to end must end with exit code 0."""
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=60)
        if self.process.returncode != (0 if how == signal.SIGTERM else -how):
            raise HeadgateError(f"exit code {self.process.returncode}: {errors}", Kind.STAGE_FAILED)
        return str(errors)
