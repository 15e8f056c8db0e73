"""Staged workflows: one definition compiles to Amazon States Language, and the local runner executes that ASL."""

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
    lint,
)
from headgate.workflow._runner import Execution, LocalRunner
from headgate.workflow._stage import PERMANENT_ERROR, StageFailure, WorkflowHandler, output_key

WorkflowLambdaHandler = WorkflowHandler  # the task list's name
WorkflowConfiguration = Workflow  # the task list's name

__all__ = [
    "PERMANENT_ERROR", "Execution", "ExecutionContext", "GlueStep", "LambdaStep", "LocalRunner", "RetryConfiguration",
    "StageFailure", "StageResult", "Workflow", "WorkflowConfiguration", "WorkflowHandler", "WorkflowLambdaHandler",
    "WorkflowType", "create_express_workflow", "create_standard_workflow", "lint", "output_key",
]  # fmt: skip
