"""Every way to hold it wrong ends in one clear sentence and a non-zero exit, without a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

import headgate
from headgate.checkpoint import update, verify
from headgate.errors import StorageFullError
from headgate.testing.visits import write_wave


def run(*arguments, cwd=None, env=None, prefix=()):
    return subprocess.run(
        [*prefix, sys.executable, "-m", "headgate", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=60, env={**os.environ, **(env or {})},
    )  # fmt: skip


def one_sentence(result, *parts, code=1):
    assert result.returncode == code, result
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("headgate: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in lines[0]


def test_broken_toml(tmp_path):
    (tmp_path / "headgate.toml").write_text("[a\n")
    one_sentence(run("run", cwd=tmp_path), "headgate.toml is not valid TOML", "line 1", "[config]")


def test_a_wrong_key(tmp_path):
    (tmp_path / "headgate.toml").write_text("[healing]\nbatch_size = 0")
    one_sentence(run("heal", cwd=tmp_path), "healing.batch_size: expected a whole number from 1 to 10000, got 0")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("store", "mysql://x", "backends.store: unknown backend scheme 'mysql'"),
        ("objects", "ftp://x", "backends.objects: unknown backend scheme 'ftp'"),
        ("ledger", "zk://x", "ledger URL: unknown scheme 'zk'"),
    ],
)
def test_an_unknown_backend_scheme(tmp_path, key, value, expected):
    (tmp_path / "headgate.toml").write_text(f'[backends]\n{key} = "{value}"\n[sources.tiingo]\n[consumers.analysis]\n')
    command = ("consume", "analysis") if key == "ledger" else ("collect",)
    one_sentence(run(*command, cwd=tmp_path), expected, "expected")


def test_a_folder_without_permission(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    (tmp_path / "headgate.toml").write_text(f'[backends]\nstore = "sqlite:///{locked}/data/h.db"\n')
    locked.chmod(0)
    # Root may open anything; without these capabilities it may not.
    as_root = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    result = run("status", "--config", tmp_path / "headgate.toml", prefix=as_root)
    locked.chmod(0o755)
    one_sentence(result, "permission denied", str(locked), "[permission_denied]")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "headgate.toml").write_text("")
    (tmp_path / "headgate-data").write_text("")
    one_sentence(run("status", cwd=tmp_path), "headgate-data")


@pytest.fixture
def small(tmp_path, request):
    """A disk of 300 KB, or of the size given."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = f"size={getattr(request, 'param', '300k')}"
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("needs CAP_SYS_ADMIN to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, small):
    write_wave(tmp_path / "logs", 200)
    assert (
        run("checkpoint", tmp_path / "logs", small / "e.parquet", "--settle", "0", "--schema", "visits").returncode == 0
    )
    before = (small / "e.parquet").read_bytes()
    write_wave(tmp_path / "logs", 20_000, first=200, seed=5)
    result = run("checkpoint", tmp_path / "logs", small / "e.parquet", "--settle", "0", "--schema", "visits")
    one_sentence(result, "[disk_full]")
    assert (small / "e.parquet").read_bytes() == before
    assert not list(small.glob("*.tmp-*"))
    (small / "headgate.toml").write_text('[backends]\nstore = "sqlite:///h.db"\n')
    filler = (small / "filler").open("wb", buffering=0)
    with pytest.raises(OSError):
        while True:
            filler.write(b"x" * 4096)
    filler.close()
    one_sentence(run("status", "--config", small / "headgate.toml"), "[disk_full]")


@pytest.mark.parametrize("small", ["2m"], indirect=True)
@pytest.mark.parametrize("known", [0, 2_000])
def test_a_run_that_a_full_disk_ended_leaves_its_room_to_the_next(tmp_path, small, known):
    """The segment of the ledger fits, the table does not: neither it nor that of a run that was killed stays there."""
    logs, target = tmp_path / "logs", small / "e.parquet"
    ledger, segment = Path(f"{target}.ledger"), 8_000 * 40
    write_wave(logs, known)
    update(logs, target, settle_s=0, schema="visits")  # writes no table where nothing is known
    before = target.read_bytes() if known else None
    write_wave(logs, 8_000, first=known, seed=5)
    dead = 0
    if known:
        free = room(small)
        faults = {"HEADGATE_FAULTS": "checkpoint.after_segments:kill:1"}
        assert (
            run("checkpoint", logs, target, "--settle", "0", "--schema", "visits", env=faults).returncode
            == -signal.SIGKILL
        )
        dead = free - room(small)
        assert dead > segment
    (small / "filler").write_bytes(b"x" * (room(small) + dead - segment - 50_000))
    for _ in range(3):
        with pytest.raises(StorageFullError):
            update(logs, target, settle_s=0, schema="visits")
        assert room(small) == pytest.approx(segment + 50_000, abs=16_384)  # whole pages, and the lock
        assert (target.read_bytes() if target.exists() else None) == before
        assert len(list(ledger.iterdir())) == (2 if known else 0)
    (small / "filler").unlink()
    done = update(logs, target, settle_s=0, schema="visits")
    assert done.rejected_records > 0  # they wait beside the segment
    assert done.rows_added + done.rejected_records == 8_000
    assert verify(target, logs).ok


def room(folder):
    """Bytes free."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


@pytest.mark.parametrize("what", ["rows", "refused records"])
def test_a_full_disk_for_what_waits_writes_nothing(tmp_path, small, what):
    """Sorted runs of rows, and the lines of refused records, lie there until the commit."""
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    logs.mkdir()
    if what == "rows":
        write_wave(logs, 40_000)
    else:
        (logs / "a.jsonl").write_bytes(b'{"n": 1}\n' + b"x\n" * 100_000)
    options = {"schema": "visits" if what == "rows" else Numbers, "settle_s": 0, "memory": 1_000_000}
    with pytest.raises(StorageFullError):
        update(logs, target, spill_dir=small, **options)
    assert (list(small.iterdir()), target.exists()) == ([], False)
    if what == "rows":
        with pytest.raises(StorageFullError, match="more than the 1000 bytes that spill_limit allows"):
            update(logs, target, spill_limit=1000, **options)
    done = update(logs, target, **options)
    assert done.rows_added > 0
    assert verify(target, logs, schema=options["schema"]).ok


class Numbers(BaseModel):
    n: int


def test_a_port_in_use(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        one_sentence(run("demo", "--out", tmp_path / "o", "--port", port), f"port {port}", "[address_in_use]")


def test_a_core_that_is_not_built(tmp_path):
    source = Path(headgate.__file__).parent
    shutil.copytree(source, tmp_path / "headgate", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    result = run("status", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    one_sentence(result, "native core is missing", "pip install .", "[not_built]")


def test_a_pyarrow_that_does_not_fit(tmp_path):
    (tmp_path / "pyarrow").mkdir()
    (tmp_path / "pyarrow" / "__init__.py").write_text("")
    (tmp_path / "logs").mkdir()
    result = run("checkpoint", tmp_path / "logs", tmp_path / "e.parquet", env={"PYTHONPATH": str(tmp_path)})
    one_sentence(result, "built for Arrow 26", "pip install 'pyarrow==26.*'", "[not_built]")


def test_missing_things_are_named(tmp_path):
    one_sentence(run("checkpoint", tmp_path / "no", tmp_path / "e.parquet"), "is not a folder", "[not_found]")
    one_sentence(run("checkpoint", tmp_path, "gs://b/k"), "gs:// is not supported here", "[unsupported_scheme]")
    one_sentence(
        run("checkpoint", tmp_path, tmp_path / "e.parquet", "--schema", "nope"), "expected one of news, visits"
    )
    one_sentence(run("query", tmp_path / "e.parquet"), "does not exist yet", "[not_found]")
    one_sentence(
        run("collect", cwd=tmp_path, env={"TIINGO_API_KEY": "", "FINNHUB_API_KEY": ""}),
        "TIINGO_API_KEY or FINNHUB_API_KEY",
    )
    one_sentence(run("consume", "nobody", cwd=tmp_path), "consumers.nobody: there is no such consumer")
    (tmp_path / "headgate.toml").write_text('[consumers.x]\nhandler = "nowhere:f"\n')
    one_sentence(run("consume", "x", cwd=tmp_path), "consumers.x.handler: cannot load 'nowhere:f'")


def test_a_corrupt_checkpoint_and_a_corrupt_store(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "e.parquet").write_bytes(b"PAR1 garbage")
    one_sentence(
        run("checkpoint", tmp_path / "logs", tmp_path / "e.parquet"), "is not a readable Parquet file", "[corrupt_data]"
    )
    assert (tmp_path / "e.parquet").read_bytes() == b"PAR1 garbage"
    (tmp_path / "headgate-data").mkdir()
    (tmp_path / "headgate-data" / "headgate.db").write_bytes(b"x" * 9000)
    one_sentence(run("status", cwd=tmp_path), "headgate.db", "[corrupt_data]")


def test_debug_shows_the_traceback(tmp_path):
    result = run("query", tmp_path / "e.parquet", "--debug")
    assert "Traceback" in result.stderr


def test_init_writes_once(tmp_path):
    assert run("init", cwd=tmp_path).returncode == 0
    one_sentence(run("init", cwd=tmp_path), "exists already")
    assert json.loads(run("status", cwd=tmp_path).stdout)["items"] == {}


def test_no_command_prints_help():
    result = run()
    assert result.returncode == 2
    assert "usage: headgate" in result.stdout
