"""The Terraform of infra/: its form, and that its names are those of the code. Providers cannot be had everywhere, so nothing is
planned here (docs/market.md says so)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from headgate.pipelines.market.metrics import NAMESPACE

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra" / "terraform"
CODE = ROOT / "python" / "headgate"


def read(path):
    return (INFRA / path).read_text()


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_it_is_formatted_and_parses():
    done = subprocess.run(["terraform", "fmt", "-check", "-recursive", INFRA], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_that_is_used_is_there_and_gets_its_variables():
    for file in INFRA.glob("environments/*/*.tf"):
        for source, body in re.findall(r'module "\w+" \{\s+source\s+= "([^"]+)"(.*?)\n\}', file.read_text(), re.S):
            module = (file.parent / source).resolve()
            declared = (module / "variables.tf").read_text()
            required = {
                name
                for name, text in re.findall(r'variable "(\w+)" \{(.*?)\n\}', declared, re.S)
                if "default" not in text
            }
            given = set(re.findall(r"^\s+(\w+)\s+=", body, re.M))
            assert required <= given <= set(re.findall(r'variable "(\w+)"', declared)), source


def test_the_table_is_the_one_that_the_store_reads():
    table = read("modules/items_table/main.tf")
    store = (CODE / "backends" / "dynamodb_items.py").read_text()
    for name in ("pk", "sk", "status_key", "due", "unsent_shard", "unsent", "ttl_timestamp", "by_status", "by_unsent"):
        assert f'"{name}"' in table or f"{name} =" in table, name
        assert f'"{name}"' in store, name


def test_the_role_may_do_exactly_what_the_code_does():
    """The original's role could not put its breaker's state, and nobody noticed for three months."""
    policy = read("environments/dev/ingestion.tf")
    store = (CODE / "backends" / "dynamodb_items.py").read_text()
    class_text = store[store.index("class DynamoStore") :]
    called = {
        "".join(part.title() for part in name.split("_")) for name in re.findall(r"self\._client\.(\w+)", class_text)
    }
    assert called == set(re.findall(r'"dynamodb:(\w+)"', policy))
    for action in ("sns:Publish", "secretsmanager:GetSecretValue", "s3:GetObject", "s3:PutObject"):
        assert f'"{action}"' in policy


def test_dashboards_show_the_metrics_that_are_sent():
    dashboard = read("modules/cloudwatch_dashboard/main.tf")
    sent = set(re.findall(r'Metric\(\s*"(\w+)"', (CODE / "pipelines" / "market" / "metrics.py").read_text()))
    shown = {name for row in re.findall(r"metrics = (\[[^\]]+\])", dashboard) for name in re.findall(r'"(\w+)"', row)}
    assert shown == sent
    assert f'"{NAMESPACE}"' in dashboard


def test_the_schedule_is_new_yorks_and_sends_its_own_time():
    schedule = read("modules/eventbridge_scheduler/main.tf")
    assert 'schedule_expression_timezone = "America/New_York"' in schedule
    assert '"Scheduled Event"' in schedule
    assert "<aws.scheduler.scheduled-time>" in schedule
