"""The workflows on AWS: `cdk deploy -c environment=dev -c account=123456789012 -c code=IMAGE_URI`.

`python app.py` synthesises the template without credentials or a network.

Context values:
    environment  dev, prod, ... (default: dev)
    account, region  where to deploy (default: of the credentials; both are needed to synthesise offline)
    code         the container image's URI, or the folder of `headgate package lambda` (default: ../../build/lambda)
    checkpoints  bucket/key of the checkpoints that the ETL stage reads, comma-separated
    emails       who is told of failures, comma-separated
    naming       EXPLICIT, or DUAL with function names in `existing`, as key=name,key=name
"""

from __future__ import annotations

import aws_cdk as cdk
from stack import Settings, WorkflowStack

from headgate.pipelines.scoring import reactive_workflow, scoring_workflow


def main() -> None:
    app = cdk.App()

    def context(name: str, default: str) -> str:
        return str(app.node.try_get_context(name) or default)

    existing = dict(part.split("=", 1) for part in context("existing", "").split(",") if part)
    settings = Settings(
        name="Headgate",
        environment=context("environment", "dev"),
        account=context("account", "123456789012"),
        region=context("region", "us-east-1"),
        code=context("code", "../../build/lambda"),
        emails=tuple(email for email in context("emails", "").split(",") if email),
        checkpoints=tuple(place for place in context("checkpoints", "").split(",") if place),
        naming=context("naming", "EXPLICIT"),
        existing_functions=existing,
    )
    WorkflowStack(app, settings, [scoring_workflow(), reactive_workflow()])
    app.synth()


if __name__ == "__main__":
    main()
