"""One stack: the bucket, the functions, and for each workflow its queue, state machine, pipe and alarms.

Every name is explicit, and ARNs are made from names: a role's policy says in the template what it allows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import alarms
import aws_cdk as cdk
import policies
from aws_cdk import aws_events as events
from aws_cdk import aws_glue as glue
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_pipes as pipes
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as stepfunctions
from constructs import Construct
from settings import Settings

from headgate.workflow import GlueStep, Naming, Workflow, WorkflowType, workflow_bucket_name
from headgate.workflow._naming import pipe_name, state_machine_log_group, state_machine_name

LOG_DAYS = logs.RetentionDays.TWO_WEEKS
OUTPUT_DAYS = 7
VISIBILITY_S = 600  # longer than an Express execution: a message is not brought again while it is handled
MAX_RECEIVES = 3
_FAILED = ["FAILED", "TIMED_OUT", "ABORTED"]


class WorkflowStack(cdk.Stack):
    """What the workflows need on AWS.

    Args:
        scope: the app.
        settings: see `Settings`.
        workflows: their bucket and naming are replaced by those of the settings.
    """

    def __init__(self, scope: Construct, settings: Settings, workflows: Sequence[Workflow]) -> None:
        super().__init__(
            scope, settings.stack_name, env=cdk.Environment(account=settings.account, region=settings.region),
            synthesizer=cdk.DefaultStackSynthesizer(generate_bootstrap_version_rule=False),
        )  # fmt: skip
        self._settings = settings
        naming = Naming(settings.name, settings.environment, settings.naming, settings.existing_functions)
        self.bucket_name_ = workflow_bucket_name(settings.environment, settings.account)
        self._bucket_arn = f"arn:aws:s3:::{self.bucket_name_}"
        self.workflows = [dataclasses.replace(w, bucket=self.bucket_name_, naming=naming) for w in workflows]
        self._make_bucket()
        self._topic_arn = self._make_topic()
        self._layers = list(self._make_layers())
        timeouts: dict[str, float] = {}
        for workflow in self.workflows:
            for name, timeout_s in _functions(workflow.to_asl()).items():
                timeouts[name] = max(timeout_s, timeouts.get(name, 0))
        keys = {naming.function_name(key): key for key in self._keys()}
        for name, timeout_s in sorted(timeouts.items()):
            if name not in settings.existing_functions.values():
                self._make_function(keys[name], name, timeout_s)
        for job in sorted({s.job_name for w in self.workflows for s in w.steps if isinstance(s, GlueStep)}):
            self._make_job(job)
        for workflow in self.workflows:
            self._make_workflow(workflow)

    def _keys(self) -> set[str]:
        given = {s.function_key for w in self.workflows for s in w.steps if not isinstance(s, GlueStep)}
        return given | {"workflowInputLambda", "workflowBridgeLambda"}

    def _make_bucket(self) -> None:
        """Private, TLS only; outputs of stages end after a week."""
        s3.Bucket(
            self, "Bucket", bucket_name=self.bucket_name_, encryption=s3.BucketEncryption.S3_MANAGED, enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=cdk.RemovalPolicy.RETAIN if self._settings.keep_bucket else cdk.RemovalPolicy.DESTROY,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="outputs", prefix="executions/", expiration=cdk.Duration.days(OUTPUT_DAYS),
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(1),
                ),
                # When somebody was reacted to, for five minutes; a later reaction removes it, if there is one.
                s3.LifecycleRule(id="reactions", prefix="reactions/", expiration=cdk.Duration.days(1)),
            ],
        )  # fmt: skip

    def _make_topic(self) -> str:
        """Alarms and failures. Its own key, which CloudWatch and EventBridge may use: alias/aws/sns lets no service
        publish. EventBridge sends no aws:SourceAccount with an encrypted topic, so its statements have no condition."""
        from aws_cdk import aws_iam as iam

        name = f"{self.stack_name}-alerts"
        arn = f"arn:aws:sns:{self.region}:{self.account}:{name}"
        services = {
            "cloudwatch.amazonaws.com": {"StringEquals": {"aws:SourceAccount": self.account}},
            "events.amazonaws.com": None,
        }

        def statements(actions: list[str], resource: str) -> list[iam.PolicyStatement]:
            return [
                iam.PolicyStatement(
                    actions=actions,
                    resources=[resource],
                    principals=[iam.ServicePrincipal(service)],
                    conditions=condition,
                )
                for service, condition in services.items()
            ]

        key = kms.Key(self, "AlertsKey", description=f"{name} topic", enable_key_rotation=True)
        for statement in statements(["kms:GenerateDataKey*", "kms:Decrypt"], "*"):
            key.add_to_resource_policy(statement)
        topic = sns.CfnTopic(self, "Alerts", topic_name=name, kms_master_key_id=key.key_arn)
        document = iam.PolicyDocument(statements=statements(["sns:Publish"], arn))
        sns.CfnTopicPolicy(self, "AlertsPolicy", topics=[topic.ref], policy_document=document)
        for number, email in enumerate(self._settings.emails):
            sns.CfnSubscription(self, f"AlertsTo{number}", topic_arn=topic.ref, protocol="email", endpoint=email)
        return topic.ref

    def _make_layers(self) -> Iterator[lambda_.CfnLayerVersion]:
        """The layers of `headgate package lambda`; their ids carry the content, so that the same content stays."""
        manifest, folder = self._settings.manifest(), Path(self._settings.code)
        if manifest is None:
            return
        for layer in manifest["layers"]:
            asset = cdk.aws_s3_assets.Asset(self, f"{layer['name']}Zip", path=str(folder / layer["file"]))
            yield lambda_.CfnLayerVersion(
                self, f"{layer['name']}{layer['sha256'][:12]}", layer_name=f"{self.stack_name}-{layer['name']}",
                compatible_runtimes=[f"python{manifest['python']}"], compatible_architectures=["x86_64"],
                content=lambda_.CfnLayerVersion.ContentProperty(
                    s3_bucket=asset.s3_bucket_name, s3_key=asset.s3_object_key
                ),
            )  # fmt: skip

    def _make_function(self, key: str, name: str, timeout_s: float) -> None:
        group = logs.CfnLogGroup(self, f"{key}Logs", log_group_name=f"/aws/lambda/{name}", retention_in_days=14)
        role = policies.role(
            self, f"{key}Role", "lambda.amazonaws.com",
            [
                *policies.stage_function(key, self._bucket_arn, self._settings.checkpoints),
                *policies.function_logs(self.region, self.account, name),
            ],
        )  # fmt: skip
        entry = self._settings.entry_point(key)
        manifest, folder = self._settings.manifest(), Path(self._settings.code)
        if manifest is not None:
            zipped = self.node.try_find_child("FunctionZip") or cdk.aws_s3_assets.Asset(
                self, "FunctionZip", path=str(folder / manifest["function"]["file"])
            )
            code = {
                "code": lambda_.CfnFunction.CodeProperty(s3_bucket=zipped.s3_bucket_name, s3_key=zipped.s3_object_key),
                "handler": entry, "runtime": f"python{manifest['python']}",
                "layers": [layer.ref for layer in self._layers],
            }  # fmt: skip
        else:
            code = {
                "code": lambda_.CfnFunction.CodeProperty(image_uri=self._settings.code), "package_type": "Image",
                "image_config": lambda_.CfnFunction.ImageConfigProperty(command=[entry]),
            }  # fmt: skip
        function = lambda_.CfnFunction(
            self, key, function_name=name, role=role.role_arn, timeout=int(timeout_s), memory_size=1024,
            tracing_config=lambda_.CfnFunction.TracingConfigProperty(mode="Active"), **code,
        )  # fmt: skip
        function.node.add_dependency(group)
        alarms.of_function(self, key, name, timeout_s, self._topic_arn)

    def _make_job(self, job: str) -> None:
        script = self._settings.glue_scripts.get(job, "scripts/stage_job.py")
        role = policies.role(
            self, f"{job}JobRole", "glue.amazonaws.com",
            policies.glue_job(self._bucket_arn, self.region, self.account),
        )  # fmt: skip
        glue.CfnJob(
            self, f"{job}Job", name=job, role=role.role_arn, glue_version="5.0", worker_type="G.1X",
            number_of_workers=2, timeout=120, max_retries=0,  # the state machine retries
            command=glue.CfnJob.JobCommandProperty(
                name="glueetl", python_version="3", script_location=f"s3://{self.bucket_name_}/{script}"
            ),
            default_arguments={
                "--TempDir": f"s3://{self.bucket_name_}/temporary/", "--enable-metrics": "true",
                "--enable-continuous-cloudwatch-log": "true", "--job-language": "python",
            },
        )  # fmt: skip
        pattern = {"source": ["aws.glue"], "detail-type": ["Glue Job State Change"],
                   "detail": {"jobName": [job], "state": ["FAILED", "TIMEOUT", "ERROR"]}}  # fmt: skip
        self._make_rule(f"{job}JobFailed", f"{self.stack_name}-{job}-failed", pattern)

    def _make_workflow(self, workflow: Workflow) -> None:
        express = workflow.type is WorkflowType.EXPRESS
        name = state_machine_name(workflow.name, str(workflow.type))
        arn = f"arn:aws:states:{self.region}:{self.account}:stateMachine:{name}"
        group = logs.CfnLogGroup(
            self, f"{name}Logs", log_group_name=state_machine_log_group(workflow.name, str(workflow.type)),
            retention_in_days=14,
        )  # fmt: skip
        definition = workflow.to_asl()
        functions = [self._function_arn(f) for f in sorted(_functions(definition))]
        jobs = [
            f"arn:aws:glue:{self.region}:{self.account}:job/{s.job_name}"
            for s in workflow.steps
            if isinstance(s, GlueStep)
        ]
        role = policies.role(
            self, f"{name}Role", "states.amazonaws.com", policies.state_machine(functions, sorted(set(jobs)))
        )
        machine = stepfunctions.CfnStateMachine(
            self, name, state_machine_name=name, state_machine_type=str(workflow.type), role_arn=role.role_arn,
            definition_string=json.dumps(definition),
            tracing_configuration=stepfunctions.CfnStateMachine.TracingConfigurationProperty(enabled=True),
            logging_configuration=stepfunctions.CfnStateMachine.LoggingConfigurationProperty(
                level="ALL", include_execution_data=True,
                destinations=[
                    stepfunctions.CfnStateMachine.LogDestinationProperty(
                        cloud_watch_logs_log_group=stepfunctions.CfnStateMachine.CloudWatchLogsLogGroupProperty(
                            log_group_arn=group.attr_arn
                        )
                    )
                ],
            ),
        )  # fmt: skip
        self._make_pipe(workflow, arn).node.add_dependency(machine)
        alarms.of_machine(self, name, arn, self._topic_arn, express=express)
        if not express:
            pattern = {"source": ["aws.states"], "detail-type": ["Step Functions Execution Status Change"],
                       "detail": {"status": _FAILED, "stateMachineArn": [arn]}}  # fmt: skip
            self._make_rule(f"{name}FailureRule", f"{name}-failures", pattern)

    def _make_pipe(self, workflow: Workflow, machine_arn: str) -> pipes.CfnPipe:
        """The queue, its dead letters, and the pipe that starts an execution for each message."""
        stem = f"{self.stack_name}-{workflow.source_queue or workflow.name}"
        letters = sqs.CfnQueue(
            self, f"{workflow.name}Letters", queue_name=f"{stem}-dead-letters", sqs_managed_sse_enabled=True,
            message_retention_period=1_209_600,
        )  # fmt: skip
        queue = sqs.CfnQueue(
            self, f"{workflow.name}Queue", queue_name=stem, sqs_managed_sse_enabled=True,
            visibility_timeout=VISIBILITY_S,
            redrive_policy={"deadLetterTargetArn": letters.attr_arn, "maxReceiveCount": MAX_RECEIVES},
        )  # fmt: skip
        queue_arn = f"arn:aws:sqs:{self.region}:{self.account}:{stem}"
        role = policies.role(
            self, f"{workflow.name}PipeRole", "pipes.amazonaws.com",
            policies.pipe(queue_arn, machine_arn, workflow.invocation_type),
        )  # fmt: skip
        alarms.of_queue(self, workflow.name, stem, f"{stem}-dead-letters", self._topic_arn)
        pipe = pipes.CfnPipe(
            self, f"{workflow.name}Pipe", name=pipe_name(workflow.name), role_arn=role.role_arn, source=queue_arn,
            target=machine_arn,
            source_parameters=pipes.CfnPipe.PipeSourceParametersProperty(
                sqs_queue_parameters=pipes.CfnPipe.PipeSourceSqsQueueParametersProperty(batch_size=1)
            ),
            target_parameters=pipes.CfnPipe.PipeTargetParametersProperty(
                step_function_state_machine_parameters=pipes.CfnPipe.PipeTargetStateMachineParametersProperty(
                    invocation_type=workflow.invocation_type
                )
            ),
        )  # fmt: skip
        pipe.node.add_dependency(queue)
        return pipe

    def _make_rule(self, identifier: str, name: str, pattern: dict[str, object]) -> None:
        """A rule that tells the alerts topic."""
        target = events.CfnRule.TargetProperty(id="alerts", arn=self._topic_arn)
        events.CfnRule(self, identifier, name=name, event_pattern=pattern, targets=[target])

    def _function_arn(self, name: str) -> str:
        return name if name.startswith("arn:") else f"arn:aws:lambda:{self.region}:{self.account}:function:{name}"


def _functions(definition: dict[str, object]) -> dict[str, float]:
    """Function name -> the longest time that a state gives it."""
    found: dict[str, float] = {}
    for state in definition["States"].values():  # type: ignore[attr-defined]
        name = state.get("Parameters", {}).get("FunctionName")
        if name:
            found[name] = max(float(state.get("TimeoutSeconds", 60)), found.get(name, 0))
    return found
