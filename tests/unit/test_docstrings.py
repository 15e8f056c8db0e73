"""What a user reads of the ports and of the configuration: every class, method and field of theirs is described."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from headgate import config, ports
from headgate.checkpoint import CheckpointRun

CLASSES = [cls for _, cls in inspect.getmembers(ports, inspect.isclass) if cls.__module__ == "headgate.ports"]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_port_says_what_its_methods_promise(cls):
    assert cls.__doc__
    methods = {n: m for n, m in vars(cls).items() if inspect.isfunction(m) and not n.startswith("_")}
    assert [name for name, method in methods.items() if not method.__doc__] == []


@pytest.mark.parametrize(
    "cls", [c for c in CLASSES if dataclasses.is_dataclass(c)] + [config.Config], ids=lambda cls: cls.__name__
)
def test_every_field_is_described(cls):
    assert [f.name for f in dataclasses.fields(cls) if f"        {f.name}: " not in cls.__doc__] == []


def test_every_count_of_a_run_is_described():
    described = CheckpointRun.__doc__.replace("rows_before, rows_total:", "rows_before:\n        rows_total:")
    assert [name for name in CheckpointRun._fields if f"        {name}:" not in described] == []
