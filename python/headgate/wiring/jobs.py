"""The jobs of a configuration: checkpoints, workflows, exports, and what the stores forget."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from headgate._registry import PLANS
from headgate.backends.exports import export_items
from headgate.backends.retention import Retention, prune
from headgate.checkpoint import CheckpointRun, update
from headgate.checkpoint._places import is_remote, local_path
from headgate.errors import ConfigError
from headgate.wiring.references import load_reference, make_parent_folder
from headgate.wiring.stores import Stores
from headgate.workflow import (
    Execution,
    LocalRunner,
    RetryConfiguration,
    Workflow,
    glue_script,
    local_functions,
    local_ports,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.checkpoint._run import Mode
    from headgate.ports import Json


class Jobs(Stores):
    """The methods of `App` that run by the clock or by a command."""

    # --- checkpoints

    def checkpoint(self, name: str, progress: Callable[[int, int], None] | None = None) -> CheckpointRun:
        """One run of a configured checkpoint; exports the pipeline's new items first where that is configured.

        Args:
            name: of the section [checkpoints.NAME].
            progress: called with the files done and the files to do.

        Raises:
            ConfigError: there is no such checkpoint, or its source, target or schema cannot be used.
        """
        where = f"checkpoints.{name}"
        if name not in self.config.checkpoints:
            message = f"{where}: there is no such checkpoint"
            raise ConfigError(message)
        c = self.config.checkpoints[name]
        for key in ("source", "target"):
            if not getattr(c, key):
                message = f"{where}.{key}: missing; expected a path"
                raise ConfigError(message)
        source, target = self._place(c.source), self._place(c.target)
        if c.export:
            self.export_items(local_path(source))
        if not is_remote(target):
            make_parent_folder(target)
        known = c.schema in ("", "infer", *PLANS)
        schema = (c.schema or None) if known else load_reference(f"{where}.schema", c.schema)
        return update(
            source,
            target,
            schema=schema,
            mode=cast("Mode", c.mode),
            settle_s=0 if c.export else c.settle_s,  # exported files appear complete, by a rename
            follow_symlinks=c.follow_symlinks,
            progress=progress,
        )

    def _place(self, url: str) -> str:
        """Paths are relative to the configuration; URLs of other machines are what they are."""
        return url if is_remote(url) else local_path(self.config.locate(url))

    def export_items(self, folder: str) -> int:
        """Write the pipeline's new items to a folder; see `headgate.export_items`."""
        return export_items(self.embedded_store, folder)

    # --- workflows

    def workflow(self, name: str) -> tuple[Workflow, LocalRunner, Json]:
        """A configured workflow, its runner and its input.

        Raises:
            ConfigError: there is no such workflow, or a function that it names cannot be loaded.
        """
        where = f"workflows.{name}"
        if name not in self.config.workflows:
            message = f"{where}: there is no such workflow"
            raise ConfigError(message)
        w = self.config.workflows[name]
        retry = RetryConfiguration(max_attempts=w.retry_attempts, interval_s=w.retry_interval_s)
        workflow: Workflow = load_reference(f"{where}.definition", w.definition)(retry)
        functions = load_reference(f"{where}.functions", w.functions)(self.objects, self.clock)
        data = {k: self.config.locate(v) if k == "events" else v for k, v in w.input.items()}
        jobs = {job: glue_script(self.config.locate(script)) for job, script in w.jobs.items()}
        known = local_functions(workflow, self.objects, self.clock, functions, jobs)
        ports = local_ports(store=self.store, objects=self.objects, bucket=workflow.bucket, clock=self.clock)
        runner = LocalRunner(
            self.database, known, self.clock, objects=self.objects, bucket=workflow.bucket, ports=ports
        )
        return workflow, runner, data

    def run_workflow(self, name: str, execution_id: str | None = None) -> Execution:
        """Run a configured workflow to its end."""
        workflow, runner, data = self.workflow(name)
        return runner.start(workflow.name, workflow.to_asl(), data, execution_id, kind=str(workflow.type))

    def resume_workflows(self) -> int:
        """Go on with what was running of the configured workflows, as far as it goes without waiting. Returns how
        many."""
        count = 0
        for name in self.config.workflows if self.is_embedded else ():
            workflow, runner, _ = self.workflow(name)
            count += len(runner.run_due(workflow.name))
        return count

    # --- retention

    @property
    def retention(self) -> Retention:
        """How long each kind of thing is kept."""
        r = self.config.retention
        return Retention(r.outbox_days, r.history_days, r.dead_letter_days, r.raw_days, r.execution_days)

    def prune(self) -> dict[str, int]:
        """Forget what is past its time, done keys included; how much of each store."""
        if not self.is_embedded:
            return {}  # the table expires its items itself
        objects = self.config.locate(self.config.backends.objects)
        folder = None if objects.startswith("s3://") else local_path(objects)  # a bucket has rules of its own
        gone = prune(self.database, folder, self.retention, self.clock)
        return {**gone, "done keys": self.ledger.prune()}
