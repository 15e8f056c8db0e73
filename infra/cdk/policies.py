"""Roles with exactly what their owners do."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_iam as iam
from constructs import Construct


def allow(actions: Sequence[str], resources: Sequence[str], **conditions: object) -> iam.PolicyStatement:
    """A statement that allows actions on resources."""
    return iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions or None)


def role(scope: Construct, name: str, service: str, statements: Sequence[iam.PolicyStatement]) -> iam.Role:
    """A role for an AWS service with one inline policy."""
    return iam.Role(
        scope,
        name,
        assumed_by=iam.ServicePrincipal(service),
        inline_policies={"own": iam.PolicyDocument(statements=list(statements))},
    )


def stage_data(bucket_arn: str) -> list[iam.PolicyStatement]:
    """Reading and writing the outputs of stages. Without ListBucket a missing object reads as 403 instead of 404."""
    return [
        allow(["s3:GetObject", "s3:PutObject"], [f"{bucket_arn}/executions/*"]),
        allow(["s3:ListBucket"], [bucket_arn], StringLike={"s3:prefix": ["executions/*"]}),
    ]


def stage_function(key: str, bucket_arn: str, checkpoints: Sequence[str]) -> list[iam.PolicyStatement]:
    """What the function of a key reads and writes: outputs of stages, and what its stage keeps beside them.

    Args:
        key: the function key.
        bucket_arn: of the workflow bucket.
        checkpoints: `bucket/key` of the checkpoints that the ETL stage reads.
    """
    statements = stage_data(bucket_arn)
    if key == "etlLambda" and checkpoints:
        statements.append(allow(["s3:GetObject"], [f"arn:aws:s3:::{place}" for place in checkpoints]))
    if key == "storeLambda":
        statements.append(allow(["s3:GetObject", "s3:PutObject"], [f"{bucket_arn}/candidates/*"]))
    if key == "reactiveLambda":
        statements += [
            allow(["s3:DeleteObject", "s3:GetObject", "s3:PutObject"], [f"{bucket_arn}/reactions/*"]),
            allow(["s3:ListBucket"], [bucket_arn], StringLike={"s3:prefix": ["reactions/*"]}),
        ]
    return statements


def function_logs(region: str, account: str, function: str) -> list[iam.PolicyStatement]:
    """A function's own log group, and traces, which know no resources."""
    group = f"arn:aws:logs:{region}:{account}:log-group:/aws/lambda/{function}:*"
    return [
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], [group]),
        allow(["xray:PutTraceSegments", "xray:PutTelemetryRecords"], ["*"]),
    ]


def state_machine(functions: Sequence[str], jobs: Sequence[str]) -> list[iam.PolicyStatement]:
    """Invoking its own functions and jobs, and delivering logs and traces. No right on S3: it touches no object."""
    statements = [
        allow(["lambda:InvokeFunction"], functions),
        # Log delivery and traces know no resources.
        allow(
            [
                "logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery",
                "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies",
                "logs:DescribeLogGroups", "xray:PutTraceSegments", "xray:PutTelemetryRecords",
                "xray:GetSamplingRules", "xray:GetSamplingTargets",
            ],
            ["*"],
        ),
    ]  # fmt: skip
    if jobs:
        statements.append(
            allow(["glue:StartJobRun", "glue:GetJobRun", "glue:GetJobRuns", "glue:BatchStopJobRun"], jobs)
        )
    return statements


def pipe(queue_arn: str, machine_arn: str, invocation_type: str) -> list[iam.PolicyStatement]:
    """Reading its queue, and starting its state machine: a synchronous start is another action."""
    start = "states:StartSyncExecution" if invocation_type == "REQUEST_RESPONSE" else "states:StartExecution"
    return [
        allow(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], [queue_arn]),
        allow([start], [machine_arn]),
    ]


def glue_job(bucket_arn: str, region: str, account: str) -> list[iam.PolicyStatement]:
    """The stage's data, the job's script, its temporary files, and its logs."""
    return [
        *stage_data(bucket_arn),
        allow(["s3:GetObject"], [f"{bucket_arn}/scripts/*"]),
        allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], [f"{bucket_arn}/temporary/*"]),
        allow(
            ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"],
            [f"arn:aws:logs:{region}:{account}:log-group:/aws-glue/*"],
        ),
        allow(["cloudwatch:PutMetricData"], ["*"], StringEquals={"cloudwatch:namespace": "Glue"}),
    ]
