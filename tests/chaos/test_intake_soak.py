"""Uploads by many clients, a third of them malformed or cut, while the server is killed: every 202 is accounted for.

`HEADGATE_SOAK_UPLOADS` sets how many (100,000 take about half an hour), `HEADGATE_SOAK_KILLS` how often the server dies.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.testing.servers import ServeProcess

UPLOADS = int(os.environ.get("HEADGATE_SOAK_UPLOADS", "300"))
KILLS = int(os.environ.get("HEADGATE_SOAK_KILLS", "2"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120 + UPLOADS)]
CLIENTS = 4
GROWTH_BYTES = 64 << 20  # of the resident set between the first and the last look at one process
BOUNDARY = b"soak"
CONFIG = """
[backends]
objects = "file://objects"
store = "sqlite:///h.db"
durability = "normal"
[uploads]
ready_timeout_s = 1
max_file_bytes = 65536
[serve]
port = {port}
idle_s = 1
drain_s = 5
min_free_bytes = 0
[logging]
level = "ERROR"
"""


def body_of(number):
    text = f"Essay number {number}. ".encode() * 5
    head = b'--%s\r\nContent-Disposition: form-data; name="batch_id"\r\n\r\nb%d\r\n' % (BOUNDARY, number)
    file = b'--%s\r\nContent-Disposition: form-data; name="files"; filename="%d.txt"\r\n\r\n%s\r\n' % (
        BOUNDARY, number, text
    )  # fmt: skip
    return head + file + b"--%s--\r\n" % BOUNDARY


def request_of(number, body, *lines):
    fixed = (
        b"Host: localhost",
        b"Content-Type: multipart/form-data; boundary=" + BOUNDARY,
        b"Idempotency-Key: k%d" % number,
    )
    head = (b"POST /v1/files/batch HTTP/1.1", *fixed, b"Content-Length: %d" % len(body), *lines, b"", b"")
    return b"\r\n".join(head) + body


def malformed(number, pick):
    """Something that must not be answered 202."""
    whole = request_of(number, body_of(number))
    return pick.choice([
        lambda: whole[: pick.randrange(1, len(whole) - 1)],  # cut
        lambda: whole.replace(b"HTTP/1.1", b"HTTP/1.1\r\nTransfer-Encoding: chunked"),
        lambda: whole.replace(b"\r\n", b"\n\r\x00", 3),
        lambda: request_of(number, body_of(number).replace(BOUNDARY, b"other")),
        lambda: request_of(number, body_of(number), b"X: " + b"y" * 40_000),
        lambda: request_of(number, body_of(number) + b"", b"Origin: https://evil.example"),
        lambda: request_of(number, b"--soak\r\n" + bytes(pick.randrange(256) for _ in range(300))),
        lambda: bytes(pick.randrange(256) for _ in range(200)),
    ])()  # fmt: skip


class Soak:
    def __init__(self, folder):
        self.folder = folder
        self.lock = threading.Lock()
        self.left = collections.deque(range(UPLOADS))
        self.statuses = collections.Counter()
        self.promised, self.refused = set(), set()
        self.growth = []
        self.start()

    def start(self):
        self.serving = ServeProcess(self.folder)
        self.port = urlsplit(self.serving.url).port
        self.first_rss = rss(self.serving.process.pid)

    def kill(self):
        self.growth.append(rss(self.serving.process.pid) - self.first_rss)
        self.serving.process.send_signal(signal.SIGKILL)
        self.serving.process.communicate(timeout=30)
        self.start()

    def client(self, seed):
        pick = random.Random(seed)
        while True:
            with self.lock:
                if not self.left:
                    return
                number = self.left.popleft()
            is_bad = number % 3 == 2
            while (status := self.send(malformed(number, pick) if is_bad else request_of(number, body_of(number)))) in {
                0,
                503,
            }:
                if is_bad:
                    break
                time.sleep(0.05)  # the server is down, or busy: a client comes again
            with self.lock:
                self.statuses[status] += 1
                (self.promised if status == 202 else self.refused).add(number)

    def send(self, data):
        """The status of the answer; 0: none came."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
                connection.sendall(data)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                answer.read()
                return answer.status
        except (OSError, http.client.HTTPException):
            return 0


def rss(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def end(process):
    if process.poll() is None:  # a check has failed
        process.kill()
        process.communicate(timeout=30)


def test_every_202_is_accounted_for(tmp_path, request):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "headgate.toml").write_text(CONFIG.format(port=port))
    soak = Soak(tmp_path)
    request.addfinalizer(lambda: end(soak.serving.process))
    threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for n in range(KILLS):
        while len(soak.left) > UPLOADS * (KILLS - n) // (KILLS + 1):
            time.sleep(0.01)
        soak.kill()
    for thread in threads:
        thread.join()
    good = {number for number in range(UPLOADS) if number % 3 != 2}
    assert soak.promised == good
    assert soak.refused == set(range(UPLOADS)) - good
    store = LocalStore(LocalDatabase(str(tmp_path / "h.db"), durability="normal", busy_timeout_s=30), SystemClock(), "")
    # A file that comes after its batch's time is announced as excess besides, so the topic is the whole name.
    query = "SELECT count(*) FROM outbox WHERE topic LIKE '%essay.content.provisioned%'"
    deadline = time.monotonic() + 60 + UPLOADS / 50
    while store.count(query) < len(good) and time.monotonic() < deadline:
        time.sleep(0.1)
    rows = store.db.execute("SELECT body FROM outbox WHERE topic LIKE '%essay.content.provisioned%'")
    found = collections.Counter(json.loads(body)["data"]["original_file_name"] for (body,) in rows)
    assert found == {f"{number}.txt": 1 for number in good}  # each once: nothing lost, nothing doubled
    soak.growth.append(rss(soak.serving.process.pid) - soak.first_rss)
    assert soak.serving.stop() == ""
    store.db.close()
    print(
        f"{UPLOADS} uploads, {KILLS} kills, answers {dict(soak.statuses)}, grown {[n >> 20 for n in soak.growth]} MiB"
    )
    assert max(soak.growth) < GROWTH_BYTES
