"""Staged workflows: one definition compiles to Amazon States Language, and the local runner executes that ASL."""

from headgate.workflow._attempts import TaskRequest
from headgate.workflow._bridge import BridgeHandler, InputStage, bridge, write_input
from headgate.workflow._context import ExecutionContext, StageResult, failure_key, output_key
from headgate.workflow._errors import PERMANENT_ERROR, PERMANENT_ERRORS, HeadgatePermanentError, StageFailure
from headgate.workflow._execution import Execution, ExecutionAlreadyExistsError, StateMachine
from headgate.workflow._failure import Finding
from headgate.workflow._graph import to_mermaid
from headgate.workflow._lifecycle import EmbeddedBucket, LifecycleRule
from headgate.workflow._lint import lint
from headgate.workflow._local import WorkflowRun, glue_script, local_functions, stage_output
from headgate.workflow._messages import unwrap_input
from headgate.workflow._mocks import Mocks
from headgate.workflow._model import (
    GlueStep,
    LambdaStep,
    MigrationMode,
    RetryConfiguration,
    Workflow,
    WorkflowStepType,
    WorkflowType,
    create_express_workflow,
    create_standard_workflow,
)
from headgate.workflow._naming import Naming, NamingStrategy, workflow_bucket_name
from headgate.workflow._pipe import LocalPipe, PipeResult
from headgate.workflow._ports import local_ports
from headgate.workflow._runner import LocalRunner
from headgate.workflow._stage import FunctionStage, WorkflowHandler, stage
from headgate.workflow._svg import to_svg
from headgate.workflow._tasks import TaskFailure

WorkflowLambdaHandler = WorkflowHandler  # an older name, kept
WorkflowConfiguration = Workflow  # an older name, kept

__all__ = [
    "PERMANENT_ERROR", "PERMANENT_ERRORS", "BridgeHandler", "EmbeddedBucket", "Execution",
    "ExecutionAlreadyExistsError", "ExecutionContext", "Finding", "FunctionStage", "GlueStep",
    "HeadgatePermanentError", "InputStage", "LambdaStep", "LifecycleRule", "LocalPipe", "LocalRunner",
    "MigrationMode", "Mocks", "Naming", "NamingStrategy", "PipeResult", "RetryConfiguration", "StageFailure",
    "StageResult", "StateMachine", "TaskFailure", "TaskRequest", "Workflow", "WorkflowConfiguration",
    "WorkflowHandler", "WorkflowLambdaHandler", "WorkflowRun", "WorkflowStepType", "WorkflowType", "bridge",
    "create_express_workflow", "create_standard_workflow", "failure_key", "glue_script", "lint", "local_functions",
    "local_ports", "output_key", "stage", "stage_output", "to_mermaid", "to_svg", "unwrap_input",
    "workflow_bucket_name", "write_input",
]  # fmt: skip
