"""The ``onnxferry`` command: a table of verbs, each imported only when it is called, and one place that reports errors."""

from __future__ import annotations

import difflib
import io
import itertools
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module

from onnxferry.runtime.errors import InputError, MissingExtraError, OnnxFerryError, help_page
from onnxferry.runtime.interruption import INTERRUPTED, ctrl_c
from onnxferry.runtime.machine.cpu import startable_threads

VERBS: Mapping[str, tuple[str, str]] = {
    "quickstart": ("onnxferry.export.cli.quickstart:app", "Train, export, verify and run a model in one command."),
    "train": ("onnxferry.train.cli.app:app", "Train a model family."),
    "export": ("onnxferry.export.cli.export:app", "Export a trained model to one verified .onnx file."),
    "check": ("onnxferry.runtime.cli.check:app", "Replay a file's golden samples on this machine."),
    "verify": ("onnxferry.export.cli.verify:app", "Compare a file with the model that it was exported from."),
    "evaluate": ("onnxferry.runtime.cli.tasks.evaluate:app", "Measure a classifier, a detector or a text generator."),
    "wrap": ("onnxferry.export.cli.wrap:app", "Give a file from elsewhere a contract and golden samples."),
    "convert": ("onnxferry.export.cli.convert:app", "Write a file in another opset or for an older runtime."),
    "optimize": ("onnxferry.export.cli.optimize:app", "Make faster or smaller variants, each with its certificate."),
    "generate": ("onnxferry.runtime.cli.tasks.generate:app", "Generate text."),
    "translate": ("onnxferry.runtime.cli.tasks.translate:app", "Translate texts."),
    "predict": ("onnxferry.runtime.cli.tasks.predict:app", "Classify images, or rows of a table."),
    "detect": ("onnxferry.runtime.cli.tasks.detect:app", "Find objects in images."),
    "run": ("onnxferry.runtime.cli.tasks.run:app", "Run any model on arrays, a table, an image or values."),
    "sample": ("onnxferry.runtime.cli.tasks.sample:app", "Generate images."),
    "reconstruct": ("onnxferry.runtime.cli.tasks.reconstruct:app", "Encode and decode images; score how unusual they are."),
    "inspect": ("onnxferry.runtime.cli.inspect:app", "Show the inputs, outputs and contract of a file."),
    "tune": ("onnxferry.runtime.cli.tune:app", "Find the fastest way to run a model on this machine."),
    "diff": ("onnxferry.export.cli.diff:app", "Show the differences between two .onnx files."),
    "bench": ("onnxferry.export.cli.bench:app", "Benchmark a model against other ways to run it."),
    "serve": ("onnxferry.runtime.cli.serve:app", "Serve models over HTTP and gRPC."),
    "deploy": ("onnxferry.runtime.cli.deploy:app", "Hand models over to Triton, KServe or MLServer."),
    "doctor": ("onnxferry.runtime.cli.doctor:app", "Find out what this machine can run, and how to fix it."),
    "embed": ("onnxferry.runtime.cli.embed:app", "Write a project that runs a model in another language."),
    "sign": ("onnxferry.runtime.cli.sign:signing_app", "Sign a model file or folder with a private key."),
    "verify-signature": ("onnxferry.runtime.cli.sign:verifying_app", "Verify who signed a model, and that nothing has changed."),
    "models": ("onnxferry.runtime.cli.models:app", "List the shipped models."),
    "demo": ("onnxferry.demo.cli:app", "Show the models in a browser, and one of your own."),
}
"""Verb to "module:attribute" (a typer app) and one line of help, in the order of the help."""


_EXTRAS = {
    "onnxruntime": "cpu",
    "torch": "train",
    "lightning": "train",
    "lightning_fabric": "train",
    "mlxtend": "train",
    "matplotlib": "train",
    "babel": "train",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "onnxslim": "export",
    "cryptography": "sign",
    "streamlit": "demo",
    "openvino": "bench",
    "uvicorn": "serve",
    "starlette": "serve",
    "grpc": "serve",
    "prometheus_client": "serve",
}
"""Package to the extra that brings it, for verbs that need more than the base install."""


_FILE_OPTIONS = frozenset(
    [
        *("--data", "--feeds", "--grid", "--init", "--key", "--ort-web", "--others", "--out", "-o", "--picture", "--plot", "--python"),
        *("--report", "--samples", "--signature", "--static", "--tls-cert", "--tls-key", "--tokens", "--trace", "--variants", "--weights"),
    ]
)
"""Options whose value is a file or a folder. Python takes an empty name for the current folder, which is never what was meant."""

_FILE_ARGUMENTS = frozenset(("export", "wrap", "convert", "verify", "deploy", "sign", "verify-signature"))
"""Verbs whose arguments are files or folders. Those of the other verbs that take models and images say it themselves."""


class _UsageError(Exception):
    """A command line that makes no sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line, ``sys.argv`` if not given, and returns its exit code: 0 only on success.

    1 for an error that the user can fix, reported on stderr, with the page that explains it in the last line; 2 for a command
    line that makes no sense; 130 for Ctrl-C, of a training too. With ``--json``, an error is a JSON document on stdout too:
    ``{"error": {"type": "InputError", "message": "…", "code": "OF-INPUT", "help": "…"}}``. Any other exception is a bug and keeps its
    traceback.
    """
    _stand_in_for_closed_streams()
    _drop_useless_sizes()
    _import_numpy_without_threads()
    if argv is None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that knows few letters shows ? for the others
                stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Images beyond Pillow's limit are refused with a message of our own; Pillow's warning about them would come before.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    begun = _documents_printed()

    def interrupted() -> None:
        _fail("Interrupted", "interrupted", INTERRUPTED, "", as_json=_wants_json(arguments) and _documents_printed() == begun)
        sys.stdout.flush()
        sys.stderr.flush()

    try:
        with ctrl_c(interrupted):
            code = _run(arguments)
        sys.stdout.flush()
        return code
    except OnnxFerryError as error:
        failure = type(error).__name__, str(error), error.exit_code, error.code
    except _UsageError as error:
        failure = "UsageError", str(error), 2, ""
    except KeyboardInterrupt:
        failure = "Interrupted", "interrupted", INTERRUPTED, ""
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does. Python flushes stdout once more on its way out: give it somewhere.
        _to_nowhere()
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        failure = (
            "MissingExtraError",
            str(MissingExtraError(package, _EXTRAS[package], f"onnxferry {arguments[0]}")),
            1,
            MissingExtraError.code,
        )
    except OSError as error:  # a full disk, a folder that may not be written, …
        _give_up_stdout(error)
        failure = type(error).__name__, _words(error), 1, ""
    return _fail(*failure, as_json=_wants_json(arguments) and _documents_printed() == begun)


def _to_nowhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _give_up_stdout(error: OSError) -> None:
    """Where stdout itself cannot be written (a file on a full disk), so that neither the error's document nor Python's last flush fails."""
    if error.filename is not None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _to_nowhere()


def _words(error: OSError) -> str:
    if "No usable temporary directory" in str(error):  # of Python's tempfile, which lists all places that it tried
        return "temporary files are needed, and none can be written: set TMPDIR to a folder that this user may write in"
    return f"{error.filename}: {error.strerror}" if error.filename else f"cannot write: {error.strerror}" if error.strerror else str(error)


def _stand_in_for_closed_streams() -> None:
    """Output without a reader goes nowhere (``>&-``). A closed stdin stays None: who reads it says so.

    The descriptors are taken as well, or the next file that is opened would get them, and what libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (open until the process ends)


def _import_numpy_without_threads() -> None:
    """Under a tight limit on processes. numpy's OpenBLAS starts a thread a CPU, and interrupts the process where it cannot."""
    room = startable_threads()
    if room is not None and room < (os.cpu_count() or 1):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _drop_useless_sizes() -> None:
    """COLUMNS=0, which some terminals and task runners set, would make tables of no width, and rich print nothing."""
    for name in ("COLUMNS", "LINES"):
        value = os.environ.get(name)
        if value is not None and not (value.strip().isdecimal() and int(value) > 0):
            del os.environ[name]


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether stdout is read by a program, which also holds where the command line cannot be parsed."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several training processes, which share one stdout
    return "--json" in options and first


def _documents_printed() -> int:
    """How many JSON documents have gone to stdout: one is the answer, and an error after it goes to stderr alone."""
    console = sys.modules.get("onnxferry.runtime.cli.console")
    return 0 if console is None else console.documents_printed


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if arguments[1:] and arguments[0] == "help":
            return _call(arguments[1], ["--help"])
        _print_help()
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"onnxferry {version('onnxferry')}\n")
        return 0
    return _call(arguments[0], arguments[1:])


def _call(verb: str, arguments: list[str]) -> int:
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean `onnxferry {near[0]}`?" if near else f"expected one of {', '.join(VERBS)}"
        raise _UsageError(f"unknown {'option' if verb.startswith('-') else 'verb'} {verb!r}; {hint}")
    _refuse_empty_names(verb, arguments)
    if verb in ("train", "quickstart"):
        _threads_wait_asleep()
    from typer import Abort, BadParameter

    # typer used to import click and now contains a copy of it: its base class of all usage errors is reached through the one
    # of them that typer exports in both.
    usage_error: type[Exception] = BadParameter.__mro__[1]
    module, _, attribute = VERBS[verb][0].partition(":")
    app = getattr(import_module(module), attribute)
    try:
        result = app(arguments, prog_name=f"onnxferry {verb}", standalone_mode=False)
    except Abort as error:
        raise KeyboardInterrupt from error
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been printed
            return 2
        hint = (
            "; --resume takes no value, --out names the run"
            if verb == "train" and "--resume" in arguments and "extra arg" in str(error)
            else ""
        )
        raise _UsageError(_usage(error, verb) + hint) from error
    if result == INTERRUPTED:  # typer's own end of a Ctrl-C, without a message
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _refuse_empty_names(verb: str, arguments: Sequence[str]) -> None:
    """Raises InputError where a file's name is empty, as that of a shell variable that is not set."""
    for before, argument in itertools.pairwise(("", *arguments)):
        option = before if argument == "" else argument.removesuffix("=") if argument.endswith("=") else None
        if option in _FILE_OPTIONS:
            where = f"the value of {option}"
        elif argument == "" and not before.startswith("-") and verb in _FILE_ARGUMENTS:
            where = "an argument"
        else:
            continue
        raise InputError(f"{where} is empty, expected the name of a file or folder; is a variable of the command line not set?")


def _threads_wait_asleep() -> None:
    """PyTorch's threads that wait for one another sleep instead of spinning, which takes the core from the one that is waited for.

    Beside 9 other processes on 2 cores, an epoch of 126 photos took 2 s so, and 11 to 70 s without. Read when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


def _usage(error: BaseException, verb: str) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    return f"{message.rstrip('.?')}; see `{context.command_path if context else f'onnxferry {verb}'} --help`"


def _fail(kind: str, message: str, exit_code: int, code: str, *, as_json: bool) -> int:
    """Prints an error. ``code``: that of its class; none for what is no OnnxFerryError."""
    from onnxferry.runtime.cli.console import print_error, print_json

    explained = {"code": code, "help": help_page(code)} if code else {}
    if as_json:
        try:
            print_json({"error": {"type": kind, "message": message} | explained})
        except OSError:  # stdout is on a full disk, for example
            _to_nowhere()
    print_error(f"{message}\nhelp: {help_page(code)}" if code else message)
    return exit_code


def _print_help() -> None:
    from onnxferry.runtime.cli.console import facts_table, print_next, stdout

    console = stdout()
    console.print("Train, export to ONNX, verify that it does the same, run it without torch.\n", soft_wrap=True)
    console.print("usage: onnxferry VERB [OPTIONS]\n", style="bold")
    console.print(facts_table({f"  {verb}": line for verb, (_, line) in VERBS.items()}))
    console.print("\n  VERB --help  its options and examples\n  --version    the installed version")
    print_next("onnxferry doctor")
