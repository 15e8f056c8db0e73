"""Terraform's own evaluation of infra/terraform, without the AWS provider.

The provider is in no package registry, so nothing can be planned. Expressions can be evaluated all the same: every
`resource` and `data` block becomes a local value with its arguments, plus the attributes that AWS would compute (`arn`,
`id`, ...), and references are rewritten to it. Terraform then evaluates jsonencode(), conditions, for expressions,
counts and module calls as it would in a plan, and the tests read the values.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TERRAFORM = ROOT / "infra" / "terraform"
ACCOUNT, REGION = "123456789012", "us-east-1"

# type -> (service of the ARN, its form before the name, the argument that is the name)
_ARNS = {
    "aws_cloudwatch_dashboard": ("cloudwatch", "dashboard/", "dashboard_name"),
    "aws_cloudwatch_log_group": ("logs", "log-group:", "name"),
    "aws_cloudwatch_metric_alarm": ("cloudwatch", "alarm:", "alarm_name"),
    "aws_dynamodb_table": ("dynamodb", "table/", "name"),
    "aws_iam_role": ("iam", "role/", "name"),
    "aws_kms_key": ("kms", "key/", "description"),
    "aws_lambda_function": ("lambda", "function:", "function_name"),
    "aws_lambda_layer_version": ("lambda", "layer:", "layer_name"),
    "aws_s3_bucket": ("s3", "", "bucket"),
    "aws_scheduler_schedule": ("scheduler", "schedule/default/", "name"),
    "aws_sns_topic": ("sns", "", "name"),
    "aws_sqs_queue": ("sqs", "", "name"),
}
_NO_REGION, _NO_ACCOUNT = {"iam", "s3"}, {"s3"}
_DATA = {
    "aws_caller_identity": f'{{ account_id = "{ACCOUNT}" }}',
    "aws_partition": '{ partition = "aws", dns_suffix = "amazonaws.com" }',
    "aws_region": f'{{ name = "{REGION}", region = "{REGION}" }}',
}
_META = {"depends_on", "provider", "count", "for_each"}


@dataclass
class Block:
    """One HCL block: `kind "label" ... { attributes and blocks }`."""

    kind: str
    labels: list[str]
    attributes: dict[str, str] = field(default_factory=dict)  # name -> expression as it is written
    blocks: list[Block] = field(default_factory=list)


def parse(text: str) -> Block:
    """A file or a body; expressions stay as they are written."""
    body, rest = _body(_without_comments(text), 0, Block("", []))
    assert rest == len(_without_comments(text))
    return body


def _without_comments(text: str) -> str:
    out, at = [], 0
    while at < len(text):
        if text[at] in '"<':
            end = _token_end(text, at)
            out.append(text[at:end])
        elif text[at] == "#" or text.startswith("//", at):
            end = text.find("\n", at)
        else:
            end = at + 1
            out.append(text[at])
        at = end
    return "".join(out)


def _token_end(text: str, at: int) -> int:
    """Past a string with its `${...}`, past a heredoc, or past one character."""
    if heredoc := re.compile(r"<<-?(\w+)\n.*?\n\s*\1\b", re.S).match(text, at):
        return heredoc.end()
    if text[at] != '"':
        return at + 1
    at += 1
    while text[at] != '"':
        if text[at] == "\\":
            at += 2
        elif text.startswith("${", at) and text[at - 1] != "$":
            at += 2
            while text[at] != "}":
                at = _closed(text, at) if text[at] == "{" else _token_end(text, at)
            at += 1
        else:
            at += 1
    return at + 1


def _closed(text: str, at: int) -> int:
    at += 1
    while text[at] != "}":
        at = _closed(text, at) if text[at] == "{" else _token_end(text, at)
    return at + 1


def _body(text: str, at: int, block: Block) -> tuple[Block, int]:
    while True:
        at = re.compile(r"\s*").match(text, at).end()
        if at == len(text) or text[at] == "}":
            return block, at
        head = re.compile(r'([\w-]+)((?:\s+"[^"]*")*)\s*(=(?!=)|\{)').match(text, at)
        assert head, f"not HCL: {text[at : at + 80]!r}"
        if head[3] == "=":
            end = _expression_end(text, head.end())
            block.attributes[head[1]] = text[head.end() : end].strip()
            at = end
        else:
            inner, at = _body(text, head.end(), Block(head[1], re.findall(r'"([^"]*)"', head[2])))
            block.blocks.append(inner)
            at += 1


def _expression_end(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        if text[at] in "{[(":
            depth += 1
        elif text[at] in "}])":
            if depth == 0:
                return at
            depth -= 1
        elif text[at] == "\n" and depth == 0:
            return at
        at = _token_end(text, at)
    return at


def _rewrite(expression: str) -> str:
    expression = re.sub(r"(?<![\w.\"/-])data\.(aws_\w+)\.(\w+)", r"local.data_\1_\2", expression)
    return re.sub(r"(?<![\w.\"/:-])(aws_[a-z0-9_]+)\.([a-z]\w*)", r"local.res_\1_\2", expression)


def _object(block: Block, kind: str = "") -> str:
    """The block as an HCL object."""
    parts: dict[str, list[str]] = {}
    for inner in block.blocks:
        if inner.kind == "lifecycle":
            continue
        if inner.kind == "dynamic":
            name = inner.labels[0]
            content = next(b for b in inner.blocks if b.kind == "content")
            each = re.sub(rf"(?<![\w.]){name}\.(key|value)", rf"{name}_\1", _object(content))
            parts.setdefault(name, []).append(
                f"[for {name}_key, {name}_value in {_rewrite(inner.attributes['for_each'])} : {each}]"
            )
        else:
            parts.setdefault(inner.kind, []).append(f"[{_object(inner)}]")
    lines = [f"{name} = {_rewrite(value)}" for name, value in block.attributes.items() if name not in _META]
    lines += [f"{name} = concat({', '.join(lists)})" for name, lists in parts.items()]
    body = "{\n" + "\n".join(lines) + "\n}"
    return f"merge({_computed(block, kind)}, {body})" if kind else body


def _computed(block: Block, kind: str) -> str:
    service, form, argument = _ARNS.get(kind, (kind.removeprefix("aws_").split("_")[0], "", ""))
    given = block.attributes.get(argument) or block.attributes.get(f"{argument}_prefix")
    name = f"${{{_rewrite(given)}}}" if given else block.labels[1]
    region = "" if service in _NO_REGION else REGION
    account = "" if service in _NO_ACCOUNT else ACCOUNT
    arn = f"arn:aws:{service}:{region}:{account}:{form}{name}"
    if kind == "aws_lambda_layer_version":
        arn += ":1"
    more = [f'arn = "{arn}"', f'id = "{name}"']
    if kind == "aws_sqs_queue":
        more[1] = f'id = "https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"'
        more.append(f'url = "https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"')
    if kind == "aws_s3_bucket":
        more.append(f'bucket = "{name}"')
    return "{ " + ", ".join(more) + " }"


def _local(block: Block) -> str:
    kind, name = block.labels
    if block.kind == "data":
        return f"data_{kind}_{name} = {_DATA[kind]}"
    value = _object(block, kind)
    if "count" in block.attributes:
        value = re.sub(r"\bcount\.index\b", "count_index", value)
        value = f"[for count_index in range({_rewrite(block.attributes['count'])}) : {value}]"
    elif "for_each" in block.attributes:
        value = re.sub(r"\beach\.(key|value)\b", r"each_\1", value)
        each = _rewrite(block.attributes["for_each"])
        value = f"{{for each_key, each_value in {each} : each_key => {value}}}"
    return f"res_{kind}_{name} = {value}"


def _written(block: Block) -> str:
    labels = "".join(f' "{label}"' for label in block.labels)
    inner = "\n".join(
        [f"{name} = {_rewrite(value)}" for name, value in block.attributes.items() if name != "depends_on"]
        + [_written(b) for b in block.blocks]
    )
    return f"{block.kind}{labels} {{\n{inner}\n}}\n"


def translate(folder: Path, out: Path) -> None:
    """A module whose resources are local values, with all of them and those of its modules as output `rendered`."""
    out.mkdir(parents=True)
    blocks: list[Block] = []
    for file in sorted(folder.iterdir()):
        if file.suffix == ".tf":
            blocks += parse(file.read_text()).blocks
        elif file.is_file():
            shutil.copy(file, out / file.name)
    kept = [b for b in blocks if b.kind not in ("terraform", "provider", "resource", "data")]
    text = [_written(b) for b in kept]
    locals_ = [_local(b) for b in blocks if b.kind in ("resource", "data")]
    text.append("locals {\n" + "\n".join(locals_) + "\n}\n")
    resources = [
        f'"{b.labels[0]}.{b.labels[1]}" = local.res_{b.labels[0]}_{b.labels[1]}' for b in blocks if b.kind == "resource"
    ]
    modules = []
    for b in blocks:
        if b.kind == "module":
            many = "count" in b.attributes or "for_each" in b.attributes
            modules.append(f"{b.labels[0]} = module.{b.labels[0]}{'[*]' if many else ''}.rendered")
    lines = "\n".join(resources), "\n".join(modules)
    text.append(
        f'output "rendered" {{\nvalue = {{\nresources = {{\n{lines[0]}\n}}\nmodules = {{\n{lines[1]}\n}}\n}}\n}}\n'
    )
    (out / "main.tf").write_text("\n".join(text))


def render(environment: Path, variables: dict[str, object], work: Path) -> dict[str, list[dict]]:
    """Every resource of an environment or module, evaluated: {"module.path/aws_type.name": [values]}."""
    for module in sorted((TERRAFORM / "modules").iterdir()):
        translate(module, work / "modules" / module.name)
    out = work / environment.relative_to(TERRAFORM)
    if not out.exists():
        translate(environment, out)
    (out / "terraform.tfvars.json").write_text(json.dumps(variables))
    if "packages" in variables:
        _write_packages(out / str(variables["packages"]))
    quiet = {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    for command in (["init", "-backend=false"], ["apply", "-auto-approve"]):
        done = subprocess.run(
            ["terraform", *command, "-no-color", "-input=false"], cwd=out, capture_output=True, text=True, env=quiet
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    done = subprocess.run(["terraform", "output", "-json"], cwd=out, capture_output=True, text=True, env=quiet)
    found: dict[str, list[dict]] = {}
    _collect(json.loads(done.stdout)["rendered"]["value"], "", found)
    return found


def _write_packages(folder: Path) -> None:
    """What `headgate package lambda` writes, as far as Terraform reads it."""
    part = {"sha256": "0123456789ab" + "0" * 52, "sha256_base64": "ASNFZ4mrAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    layers = [{"name": name, "file": f"{name}.zip", **part} for name in ("powertools", "data_processing")]
    manifest = {
        "format": 1, "headgate": "0.1.0", "python": "3.12", "architecture": "x86_64",
        "function": {"file": "function.zip", **part}, "layers": layers,
    }  # fmt: skip
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _collect(tree: dict, where: str, found: dict[str, list[dict]]) -> None:
    for name, value in tree["resources"].items():
        many = value if isinstance(value, list) else [value]
        if isinstance(value, dict) and "arn" not in value:  # for_each
            many = list(value.values())
        found[f"{where}{name}"] = many
    for name, inner in tree["modules"].items():
        for one in inner if isinstance(inner, list) else [inner]:
            _collect(one, f"{where}{name}/", found)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """`rendered(environment)`: all its resources, evaluated with the test's variables; each once in a session."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    known: dict[str, dict[str, list[dict]]] = {}

    def get(environment: str) -> dict[str, list[dict]]:
        if environment not in known:
            file = Path(__file__).parent / f"{environment}.tfvars.json"
            work = tmp_path_factory.mktemp(environment)
            known[environment] = render(TERRAFORM / "environments" / environment, json.loads(file.read_text()), work)
        return known[environment]

    return get
