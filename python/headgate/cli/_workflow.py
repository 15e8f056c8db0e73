"""`headgate workflow`: run, look at, resume, redrive and check state machines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate._registry import load_module
from headgate._text import json_text
from headgate.cli._files import is_file, parse_json, read_json, read_text
from headgate.cli._workflow_graph import add_graph_arguments, draw_graph
from headgate.cli._workflow_serve import add_serve_arguments, serve_workflow
from headgate.errors import ConfigError, InvalidInputError, StageFailedError

if TYPE_CHECKING:
    import argparse

    from headgate.wiring import App
    from headgate.workflow import Execution, LocalRunner

ACTIONS = (
    "run", "serve", "graph", "list", "show", "history", "resume", "redrive", "stop", "lint", "succeed", "fail",
    "heartbeat", "take",
)  # fmt: skip
_VALUED = ("--config", "--id")  # options of the command itself that take a value
EXIT_OK, EXIT_FAILED = 0, 1


def with_default_action(arguments: list[str], more: tuple[str, ...] = ()) -> list[str]:
    """`workflow NAME ...` as it was before there were actions: `workflow run NAME --json ...`.

    Args:
        arguments: of the command line.
        more: further actions, beside `ACTIONS`.
    """
    if not arguments or arguments[0] != "workflow":
        return arguments
    place = 1
    while place < len(arguments) and arguments[place].startswith("-"):
        place += 2 if arguments[place] in _VALUED else 1
    if place >= len(arguments) or arguments[place] in (*ACTIONS, *more):
        return arguments
    return ["workflow", "run", "--json", *arguments[1:]]


def add_workflow(add: Callable[..., Any], shared: argparse.ArgumentParser) -> Any:
    """Register the command; further actions may be added to what is returned."""
    command = add("workflow", _help, "Run state machines, look at their executions, and check definitions.")
    command.set_defaults(parser=command)
    actions = command.add_subparsers(metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
        found = actions.add_parser(name, parents=[shared], help=text, description=text)
        found.set_defaults(run=run)
        return found

    run = action("run", _run, "Run a configured workflow, or a definition in a file, to its end.")
    run.add_argument("name", help="a workflow of the configuration, or a file: machine.asl.json")
    run.add_argument("--id", help="execution id; the same id runs once")
    run.add_argument("--asl", action="store_true", help="print Amazon States Language instead of running")
    run.add_argument("--input", metavar="JSON", help="the input: JSON, @FILE, or - for standard input")
    run.add_argument("--type", choices=("STANDARD", "EXPRESS"), help="of the state machine (default: STANDARD)")
    _with_handlers(run)
    listing = action("list", _list, "The latest executions.")
    listing.add_argument("--workflow", help="only those of this state machine")
    listing.add_argument("--limit", type=int, default=20, help="how many (default: %(default)s)")
    listing.add_argument("--json", action="store_true")
    for name, step, text in (
        ("show", _show, "An execution: status, input, output, error."),
        ("history", _history, "The events of an execution, as Step Functions shows them."),
    ):
        found = action(name, step, text)
        found.add_argument("id")
        found.add_argument("--json", action="store_true")
    for name, step, text in (
        ("resume", _resume, "Go on with an execution that was interrupted; without ID, with all of them."),
        ("redrive", _redrive, "Go on with a failed execution from where it failed."),
    ):
        found = action(name, step, text)
        found.add_argument("id", nargs="?" if name == "resume" else None)
        _with_handlers(found)
    stop = action("stop", _stop, "End a running execution as ABORTED.")
    stop.add_argument("id")
    stop.add_argument("--error", help="an error's name")
    stop.add_argument("--cause", help="the reason")
    check = action("lint", _lint, "What Step Functions refuses in a definition, and what may go wrong.")
    check.add_argument("file", help="a definition in JSON, - for standard input, or a configured workflow")
    check.add_argument("--type", choices=("STANDARD", "EXPRESS"), default="STANDARD")
    check.add_argument("--json", action="store_true")
    add_serve_arguments(action("serve", _serve, "The local pipe: an execution for each message of a queue."))
    add_graph_arguments(action("graph", _graph, "Draw a state machine as Mermaid or SVG."))
    _add_answers(action)
    return actions


def _add_answers(action: Callable[..., Any]) -> None:
    succeed = action("succeed", _succeed, "Answer a task token with a result.")
    succeed.add_argument("token")
    succeed.add_argument("--output", metavar="JSON", default="{}", help="the task's result (default: %(default)s)")
    fail = action("fail", _fail, "Answer a task token with an error.")
    fail.add_argument("token")
    fail.add_argument("--error", default="", help="the error's name")
    fail.add_argument("--cause", default="", help="the reason")
    beat = action("heartbeat", _heartbeat, "Tell that a task is still being worked on.")
    beat.add_argument("token")
    take = action("take", _take, "Take the longest waiting task of an activity: its token and its input.")
    take.add_argument("activity", help="its name or ARN")


def _with_handlers(command: Any) -> None:
    command.add_argument("--handlers", metavar="MODULE", help="a module whose functions are the Lambda functions")
    command.add_argument("--mocks", metavar="FILE", help="outcomes of tasks by state and attempt, JSON")
    command.add_argument("--virtual-time", action="store_true", help="waits and retries take no time")
    command.add_argument("--json", action="store_true", help="print the whole execution with its history")


def _help(options: argparse.Namespace) -> int:
    options.parser.print_help()
    return 2


def _print(value: Any) -> None:
    print(json_text(value))


def _open(options: argparse.Namespace) -> App:
    from headgate.cli._main import _app

    return _app(options)


# --- running


def _serve(options: argparse.Namespace) -> int:
    return serve_workflow(_open(options), options)


def _graph(options: argparse.Namespace) -> int:
    return draw_graph(options, lambda name: _open(options).workflow(name)[0].to_asl())


def _run(options: argparse.Namespace) -> int:
    app = _open(options)
    if is_file(options.name):
        definition = read_json(options.name)
        if options.asl:
            _print(definition)
            return EXIT_OK
        runner = _runner(app, options)
        data = _json_argument(options.input or "{}")
        name = Path(options.name).name.removesuffix(".json").removesuffix(".asl") if options.name != "-" else "stdin"
        return _report(options, runner, lambda: runner.start(name, definition, data, _id(options), kind=_kind(options)))
    workflow, configured, data = app.workflow(options.name)
    definition = workflow.to_asl()
    if options.asl:
        _print(definition)
        return EXIT_OK
    runner = _runner(app, options, configured)
    if options.input is not None:
        data = _json_argument(options.input)
    kind = options.type or str(workflow.type)
    return _report(options, runner, lambda: runner.start(workflow.name, definition, data, _id(options), kind=kind))


def _id(options: argparse.Namespace) -> str:
    """The execution's id, made here so that it can be shown whatever becomes of it."""
    import uuid

    options.id = options.id or str(uuid.uuid4())
    return str(options.id)


def _kind(options: argparse.Namespace) -> str:
    return options.type or "STANDARD"


def _report(options: argparse.Namespace, runner: LocalRunner, step: Callable[[], Execution]) -> int:
    """Run a step, show what became of the execution, and say how it ended."""
    failed = None
    try:
        execution = step()
    except StageFailedError as error:
        failed = error
        execution = runner.describe(options.id)
    _show_execution(execution, whole=options.json)
    if failed is not None:
        raise failed
    return EXIT_OK


def _show_execution(execution: Execution, *, whole: bool) -> None:
    doc = asdict(execution)
    if not whole:
        events = doc.pop("history")
        doc["events"] = len(events)
        doc = {k: v for k, v in doc.items() if v is not None}
    _print(doc)


def _runner(app: App, options: argparse.Namespace, configured: LocalRunner | None = None) -> LocalRunner:
    from headgate._core import ManualClock
    from headgate.workflow import LocalRunner, Mocks, local_ports

    functions: dict[str, Any] = dict(configured.functions) if configured is not None else {}
    if options.handlers:
        functions |= _handlers(options.handlers)
    mocks = None
    if options.mocks:
        found = read_json(options.mocks)
        if not isinstance(found, dict):
            message = f"{options.mocks}: expected an object of state names with their outcomes"
            raise InvalidInputError(message)
        mocks = Mocks(found)
    clock = ManualClock(app.clock.now_us()) if options.virtual_time else app.clock
    bucket = configured.bucket if configured is not None else "workflow"
    ports = local_ports(store=app.store, objects=app.objects, bucket=bucket, clock=clock)
    return LocalRunner(app.database, functions, clock, objects=app.objects, bucket=bucket, ports=ports, mocks=mocks)


def _handlers(name: str) -> dict[str, Callable[[Any], Any]]:
    """The functions of a module: its `functions`, if it has such an object, or all of its public functions."""
    sys.path.insert(0, str(Path.cwd()))
    module_name, _, attribute = name.removesuffix(".py").partition(":")
    try:
        module = load_module(module_name.replace("/", "."))
    except ImportError as error:
        message = f"--handlers {name}: {error}"
        raise ConfigError(message) from None
    finally:
        sys.path.pop(0)
    found = getattr(module, attribute or "functions", None)
    if isinstance(found, dict):
        return found
    if attribute:
        message = f"--handlers {name}: {attribute} is no mapping of names to functions"
        raise ConfigError(message)
    return {
        key: value
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def _resume(options: argparse.Namespace) -> int:
    app = _open(options)
    base = _runner(app, options)
    names = [options.id] if options.id else base.running()
    code = EXIT_OK
    for name in names:
        runner = _runner_of(app, options, base, name)
        try:
            execution = runner.resume(name)
        except StageFailedError as error:
            print(f"headgate: {error}", file=sys.stderr)
            code = EXIT_FAILED
            execution = runner.describe(name)
        _show_execution(execution, whole=options.json)
    return code


def _redrive(options: argparse.Namespace) -> int:
    app = _open(options)
    runner = _runner_of(app, options, _runner(app, options), options.id)
    return _report(options, runner, lambda: runner.redrive(options.id))


def _runner_of(app: App, options: argparse.Namespace, base: LocalRunner, execution_id: str) -> LocalRunner:
    """The runner for an execution: with the functions of its workflow, if that is a configured one."""
    name = base.describe(execution_id, history=False).workflow
    for key in app.config.workflows:
        workflow, configured, _ = app.workflow(key)
        if workflow.name == name:
            return _runner(app, options, configured)
    return base


# --- looking


def _list(options: argparse.Namespace) -> int:
    runner = _reader(_open(options))
    found = runner.executions(options.workflow, limit=options.limit)
    if options.json:
        _print([asdict(execution) for execution in found])
        return EXIT_OK
    for execution in found:
        print(f"{execution.id}  {execution.status:9}  {execution.workflow}  {_time(execution.started_us)}")
    return EXIT_OK


def _time(at_us: int) -> str:
    from headgate._core import format_timestamp

    return str(format_timestamp(at_us))


def _reader(app: App) -> LocalRunner:
    from headgate.workflow import LocalRunner

    return LocalRunner(app.database, {}, app.clock)


def _show(options: argparse.Namespace) -> int:
    _show_execution(_reader(_open(options)).describe(options.id), whole=options.json)
    return EXIT_OK


def _history(options: argparse.Namespace) -> int:
    events = _reader(_open(options)).history(options.id)
    if options.json:
        _print(events)
        return EXIT_OK
    for event in events:
        print(f"{event['id']:6}  {event['timestamp']}  {event['type']:28}  {event['state'] or ''}".rstrip())
    return EXIT_OK


def _stop(options: argparse.Namespace) -> int:
    _show_execution(_reader(_open(options)).stop(options.id, options.error, options.cause), whole=False)
    return EXIT_OK


def _lint(options: argparse.Namespace) -> int:
    from headgate.workflow import lint

    kind = options.type
    if is_file(options.file):
        text: Any = read_text(options.file)
    else:
        workflow, _, _ = _open(options).workflow(options.file)
        text, kind = workflow.to_asl(), str(workflow.type)
    findings = lint(text, kind)
    errors = [finding for finding in findings if finding.severity == "error"]
    if options.json:
        _print([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.severity}: {finding}")
        if not findings:
            print("no findings")
    return EXIT_FAILED if errors else EXIT_OK


# --- task tokens


def _succeed(options: argparse.Namespace) -> int:
    _reader(_open(options)).send_task_success(options.token, _json_argument(options.output))
    return EXIT_OK


def _fail(options: argparse.Namespace) -> int:
    _reader(_open(options)).send_task_failure(options.token, options.error, options.cause)
    return EXIT_OK


def _heartbeat(options: argparse.Namespace) -> int:
    _reader(_open(options)).send_task_heartbeat(options.token)
    return EXIT_OK


def _take(options: argparse.Namespace) -> int:
    found = _reader(_open(options)).get_activity_task(options.activity)
    _print(None if found is None else {"taskToken": found[0], "input": found[1]})
    return EXIT_OK


# --- arguments


def _json_argument(text: str) -> Any:
    """JSON of the command line: as it stands, @FILE, or - for standard input."""
    if text.startswith("@"):
        return read_json(text[1:])
    return parse_json(read_text("-") if text == "-" else text, "expected JSON, @FILE or -")
