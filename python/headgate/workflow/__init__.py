"""Staged workflows: one definition compiles to Amazon States Language, and the local runner executes that ASL."""

from headgate.workflow._attempts import TaskRequest
from headgate.workflow._execution import Execution, ExecutionAlreadyExistsError, StateMachine
from headgate.workflow._failure import Finding
from headgate.workflow._lint import lint
from headgate.workflow._mocks import Mocks
from headgate.workflow._model import (
    ExecutionContext,
    GlueStep,
    LambdaStep,
    RetryConfiguration,
    StageResult,
    Workflow,
    WorkflowType,
    create_express_workflow,
    create_standard_workflow,
)
from headgate.workflow._ports import local_ports
from headgate.workflow._runner import LocalRunner
from headgate.workflow._stage import PERMANENT_ERROR, StageFailure, WorkflowHandler, output_key
from headgate.workflow._tasks import TaskFailure

WorkflowLambdaHandler = WorkflowHandler  # the task list's name
WorkflowConfiguration = Workflow  # the task list's name

__all__ = [
    "PERMANENT_ERROR", "Execution", "ExecutionAlreadyExistsError", "ExecutionContext", "Finding", "GlueStep",
    "LambdaStep", "LocalRunner", "Mocks", "RetryConfiguration", "StageFailure", "StageResult", "StateMachine",
    "TaskFailure", "TaskRequest", "Workflow", "WorkflowConfiguration", "WorkflowHandler", "WorkflowLambdaHandler",
    "WorkflowType", "create_express_workflow", "create_standard_workflow", "lint", "local_ports", "output_key",
]  # fmt: skip
