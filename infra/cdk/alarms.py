"""Alarms of the workflows: executions, queues, dead letters, functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

_PERIOD_S = 300


def alarm(
    scope: Construct, name: str, topic_arn: str, description: str, *, namespace: str = "", metric: str = "",
    dimensions: Mapping[str, str] | None = None, statistic: str = "Sum", above: float = 0,
    queries: Sequence[cloudwatch.CfnAlarm.MetricDataQueryProperty] = (),
) -> None:  # fmt: skip
    """Raised when a metric, or the last of several queries, is above a number in one period of five minutes."""
    given = (
        {"metrics": list(queries)}
        if queries
        else {
            "namespace": namespace, "metric_name": metric, "statistic": statistic, "period": _PERIOD_S,
            "dimensions": [
                cloudwatch.CfnAlarm.DimensionProperty(name=k, value=v) for k, v in (dimensions or {}).items()
            ],
        }
    )  # fmt: skip
    cloudwatch.CfnAlarm(
        scope, f"{name}Alarm", alarm_description=description, comparison_operator="GreaterThanThreshold",
        threshold=above, evaluation_periods=1, treat_missing_data="notBreaching", alarm_actions=[topic_arn],
        ok_actions=[topic_arn], **given,
    )  # fmt: skip


def of_machine(scope: Construct, name: str, machine_arn: str, topic_arn: str, *, express: bool) -> None:
    """Failed and timed-out executions; Express ones that come near their five minutes."""
    of = {"namespace": "AWS/States", "dimensions": {"StateMachineArn": machine_arn}}
    alarm(
        scope,
        f"{name}Failed",
        topic_arn,
        "More than five executions failed in five minutes",
        **of,
        metric="ExecutionsFailed",
        above=5,
    )
    alarm(scope, f"{name}TimedOut", topic_arn, "An execution timed out", **of, metric="ExecutionsTimedOut")
    if express:
        text = "An Express execution took more than four of its five minutes"
        alarm(scope, f"{name}Slow", topic_arn, text, **of, metric="ExecutionTime", statistic="Maximum", above=240_000)


def of_queue(scope: Construct, name: str, queue: str, letters: str, topic_arn: str) -> None:
    """Messages that wait too long, are too many, or are dead letters."""
    depth = "ApproximateNumberOfMessagesVisible"
    alarm(scope, f"{name}Letters", topic_arn, "A message became a dead letter", namespace="AWS/SQS", metric=depth,
          dimensions={"QueueName": letters}, statistic="Maximum")  # fmt: skip
    alarm(scope, f"{name}Depth", topic_arn, "More than 1,000 messages wait", namespace="AWS/SQS", metric=depth,
          dimensions={"QueueName": queue}, statistic="Maximum", above=1000)  # fmt: skip
    alarm(scope, f"{name}Age", topic_arn, "A message has waited for more than an hour", namespace="AWS/SQS",
          metric="ApproximateAgeOfOldestMessage", dimensions={"QueueName": queue}, statistic="Maximum",
          above=3600)  # fmt: skip


def of_function(scope: Construct, name: str, function: str, timeout_s: float, topic_arn: str) -> None:
    """More than 5 % errors, throttles, runs of more than 80 % of the time-out."""
    of = {"namespace": "AWS/Lambda", "dimensions": {"FunctionName": function}}
    alarm(scope, f"{name}Throttled", topic_arn, "Invocations were throttled", **of, metric="Throttles")
    alarm(scope, f"{name}Slow", topic_arn, "A run took more than 80 % of the time-out", **of, metric="Duration",
          statistic="Maximum", above=timeout_s * 800)  # fmt: skip
    parts = cloudwatch.CfnAlarm

    def query(identifier: str, metric: str) -> cloudwatch.CfnAlarm.MetricDataQueryProperty:
        stat = parts.MetricStatProperty(
            metric=parts.MetricProperty(
                namespace="AWS/Lambda", metric_name=metric,
                dimensions=[parts.DimensionProperty(name="FunctionName", value=function)],
            ),
            period=_PERIOD_S, stat="Sum",
        )  # fmt: skip
        return parts.MetricDataQueryProperty(id=identifier, metric_stat=stat, return_data=False)

    ratio = parts.MetricDataQueryProperty(
        id="ratio", expression="100 * errors / runs", label="errors, %", return_data=True
    )
    alarm(scope, f"{name}Failing", topic_arn, "More than 5 % of the invocations failed",
          queries=[query("errors", "Errors"), query("runs", "Invocations"), ratio], above=5)  # fmt: skip
