"""The main job, whole: written data and the recorded corpus."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def demo(tmp_path, *arguments):
    command = [sys.executable, "-m", "headgate", "demo", "--out", tmp_path / "out", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


def check(tmp_path, result):
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["ok"]
    assert len(report["checks"]) == 41
    assert all(c["holds"] for c in report["checks"])
    html = (tmp_path / "out/report.html").read_text()
    assert "<svg" in html
    assert "http" not in html.replace("http_status", "")  # self-contained
    return report


@pytest.mark.timeout(300)
def test_the_demo_on_its_own_data(tmp_path):
    result = demo(tmp_path)
    report = check(tmp_path, result)
    counts = report["counts"]
    assert counts["breaker_path"] == ["closed", "open", "half_open", "closed"]
    assert counts["consumer"]["killed_by_signal"] == 9
    assert counts["checkpoint"]["first"]["rows_added"] == 19_800
    assert counts["checkpoint"]["second"]["late_rows"] == 25
    assert "\x1b" not in result.stdout  # no colours into a pipe
    assert {w["wait"]: (w["quickstart_s"], w["production_s"]) for w in report["waits"]} == {
        "source timeout": (2, 10), "breaker recovery": (3, 60), "return to primary": (5, 300), "consumer lease": (3, 300),
        "stale after": (5, 3600), "stage retry": (1, 20), "checkpoint settle": (0, 2),
    }  # fmt: skip
    again = demo(tmp_path, "--files", "300", "--quiet")  # its own folder is replaced, without a word
    assert (again.returncode, again.stdout) == (0, "")


@pytest.mark.timeout(300)
def test_the_demo_on_recorded_responses(tmp_path, corpus):
    report = check(tmp_path, demo(tmp_path, "--feed", str(corpus / "news"), "--files", "20000"))
    assert report["feed"] == "recorded"
    assert report["counts"]["collection"]["stored"] == 246
    assert report["counts"]["checkpoint"]["news"]["rows_total"] == 246


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    result = demo(tmp_path)
    assert result.returncode == 1
    assert "is not a demo folder" in result.stderr
    assert (tmp_path / "out" / "precious.txt").exists()


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_feed_folder_without_recordings(tmp_path, what):
    (tmp_path / "empty").mkdir()
    result = demo(tmp_path, "--feed", str(tmp_path / what))
    assert result.returncode == 1
    assert "expected finnhub/company-news-SYMBOL.json" in result.stderr
    assert result.stderr.count("\n") == 1
