"""Deploy, roll back and try out an environment of infra/terraform.

    deploy.py deploy ENVIRONMENT --image URI | --packages DIR    apply, then try it out; a failure rolls back
    deploy.py rollback ENVIRONMENT                               what was deployed before
    deploy.py smoke ENVIRONMENT                                  invoke every function, changing nothing

What is deployed is written to environments/.deployments/ENVIRONMENT.jsonl of infra/terraform; its last line runs.
boto3 finds credentials, region and endpoint as usual, so that all three work against local endpoints too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).resolve().parents[1] / "terraform" / "environments"
CLOSED = {"source": "smoke", "detail-type": "Scheduled Event", "time": "2026-05-24T12:00:00Z"}  # a Sunday
# Function of the environment's output -> (event, what its answer has to be).
SMOKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "collect": (CLOSED, {"statusCode": 200}),
    "heal": ({"dry_run": True}, {"statusCode": 200}),
    "consume": ({"Records": []}, {"batchItemFailures": []}),
    "checkpoint": ({}, {"statusCode": 200}),
}


class DeployError(Exception):
    """What went wrong, in one sentence."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["deploy", "rollback", "smoke"])
    parser.add_argument("environment")
    parser.add_argument("--image")
    parser.add_argument("--packages")
    parser.add_argument("--functions", help="JSON of function names for smoke, instead of Terraform's output")
    options = parser.parse_args(arguments)
    try:
        folder = ENVIRONMENTS / options.environment
        if not folder.is_dir():
            known = ", ".join(sorted(p.name for p in ENVIRONMENTS.iterdir() if p.is_dir()))
            raise DeployError(f"there is no environment {options.environment!r}; expected one of {known}")
        if options.action == "deploy":
            deploy(folder, options.image, options.packages)
        elif options.action == "rollback":
            rollback(folder)
        else:
            smoke(json.loads(options.functions) if options.functions else functions_of(folder))
    except DeployError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    return 0


def deploy(folder: Path, image: str | None, packages: str | None) -> None:
    """Apply an image or zips; where the functions do not answer then, what was deployed before comes back."""
    if (image is None) == (packages is None):
        raise DeployError("expected either --image URI or --packages DIR")
    if packages is not None and not (Path(packages) / "manifest.json").is_file():
        raise DeployError(f"{packages} has no manifest.json; `headgate package lambda --out {packages}` writes it")
    wanted = {"image_uri": image} if image is not None else {"packages": str(Path(str(packages)).resolve())}
    apply(folder, wanted)
    try:
        smoke(functions_of(folder))
    except DeployError as error:
        if not record_of(folder):
            raise DeployError(f"{error}; there is nothing before it to roll back to") from None
        apply(folder, record_of(folder)[-1]["variables"])
        raise DeployError(f"{error}; what was deployed before runs again") from None
    append(folder, wanted)


def rollback(folder: Path) -> None:
    """Apply what was deployed before the last deployment."""
    record = record_of(folder)
    if len(record) < 2:
        raise DeployError("there is nothing to roll back to: fewer than two deployments are recorded")
    wanted = record[-2]["variables"]
    apply(folder, wanted)
    smoke(functions_of(folder))
    append(folder, wanted)


def apply(folder: Path, variables: dict[str, str]) -> None:
    words = [part for name, value in variables.items() for part in ("-var", f"{name}={value}")]
    terraform(folder, "init", "-input=false")
    terraform(folder, "apply", "-input=false", "-auto-approve", *words)
    print(f"applied {', '.join(f'{k}={v}' for k, v in variables.items())}")


def functions_of(folder: Path) -> dict[str, str | None]:
    """Handler -> name of the deployed function."""
    found: dict[str, str | None] = json.loads(terraform(folder, "output", "-json", "functions"))
    return found


def terraform(folder: Path, *words: str) -> str:
    program = os.environ.get("TERRAFORM", "terraform")
    try:
        done = subprocess.run([program, *words], cwd=folder, check=False, text=True, stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise DeployError(f"{program} is not installed") from None
    if done.returncode != 0:
        raise DeployError(f"terraform {words[0]} failed with exit code {done.returncode}")
    return done.stdout


def smoke(functions: dict[str, str | None]) -> None:
    """Invoke every function.

    Raises:
        DeployError: names each that did not answer as it should.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("lambda")
    wrong = []
    for handler, name in functions.items():
        if name is None:
            continue
        event, expected = SMOKE[handler]
        try:
            answer = client.invoke(FunctionName=name, Payload=json.dumps(event).encode())
            body = json.loads(answer["Payload"].read())
        except (BotoCoreError, ClientError, ValueError) as error:
            wrong.append(f"{name}: {type(error).__name__}")
            continue
        if answer.get("FunctionError") or any(body.get(key) != value for key, value in expected.items()):
            said = body.get("errorType") or body.get("error") or body.get("statusCode")
            wrong.append(f"{name}: expected {json.dumps(expected)}, got {said}")
        else:
            print(f"{name}: ok")
    if wrong:
        raise DeployError(f"smoke test failed: {'; '.join(wrong)}")


def record_of(folder: Path) -> list[dict[str, Any]]:
    """Earlier deployments, the first one first."""
    path = record_path(folder)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(folder: Path, variables: dict[str, str]) -> None:
    path = record_path(folder)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "variables": variables}) + "\n")


def record_path(folder: Path) -> Path:
    return folder.parent / ".deployments" / f"{folder.name}.jsonl"


if __name__ == "__main__":
    sys.exit(main())
