"""What the verbs of the command line share: options, tables, a progress bar, JSON, and the next commands to paste.

Tables and JSON go to stdout, progress and errors to stderr. Text from files and file names is untrusted: ``plain`` makes it
safe to print, and no markup is interpreted in it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer.core
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.formats import json_text
from onnxferry.runtime.kinds import Kind


def _known_device(device: str) -> str:
    # The engine's own message mentions providers, which only a call can take.
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {device!r}; expected auto, cpu or cuda")
    return device


ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="An .onnx file, or the name of a shipped model.", show_default=False)]


DeviceOption = Annotated[
    str, typer.Option("--device", callback=_known_device, help="auto, cpu or cuda. With cuda it is an error if the model cannot run there.")
]


ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads; all that this process may use if not given.", show_default=False)
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, for programs; an error too.")]


LimitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=NUMBER",
        help="Raise a limit for a file you trust: depth, nodes, tensor_bytes …, as the error names it. Repeat for more.",
        show_default=False,
    ),
]


class _Command(typer.core.TyperCommand):
    """A command whose help shows flags without a value: ``--json``, not ``--json <bool>``, which would be refused."""

    def get_params(self, ctx: Any) -> Any:
        return _flags_without_value(super().get_params(ctx))


class _Group(typer.core.TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _flags_without_value(super().get_params(ctx))


def _flags_without_value(params: Any) -> Any:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


_Function = TypeVar("_Function", bound=Callable[..., Any])


class App(typer.Typer):
    """The app of one verb, or of one with sub-commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": _Group, "add_completion": False, **settings})

    def command(self, *args: Any, **settings: Any) -> Callable[[_Function], _Function]:
        return super().command(*args, **{"cls": _Command, **settings})


def new_app(*, no_args_is_help: bool = False) -> App:
    """The app of one verb."""
    return App(no_args_is_help=no_args_is_help, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def read_stdin(what: str) -> bytes:
    """All of stdin. ``what`` is read from it, for the message. Raises InputError where it is closed."""
    if sys.stdin is None:
        raise InputError(f"stdin is closed, so {what} cannot be read from it (-); give it as an argument")
    return sys.stdin.buffer.read()


def stdout() -> Console:
    return Console(markup=False, highlight=False, emoji=False)


def stderr() -> Console:
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def plain(value: object) -> str:
    """Text in which everything that a terminal would act on (escapes, line ends, direction marks) is escaped."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def print_error(message: str) -> None:
    """``error:`` and the message on stderr. Only the first line, which can stand alone, is marked; no line is wrapped."""
    console = stderr()
    for i, line in enumerate(message.splitlines() or [""]):
        console.print(Text("error: ", "bold red") + Text(plain(line), "default") if i == 0 else Text(plain(line)), soft_wrap=True)


def print_next(*commands: str) -> None:
    """Commands to paste, after success."""
    console = stdout()
    console.print(Text("\nNext:", "bold"))
    for command in commands:
        console.print(Text(f"  {plain(command)}"), soft_wrap=True)


documents_printed = 0
"""JSON documents that have gone to stdout: see ``main``, which prints an error as one only where there was none yet."""


def print_json(document: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """One JSON document on stdout; not-a-number and infinities, which JSON lacks, as null.

    ``indent``: None for all of it in one line. In ASCII where stdout's encoding lacks one of its characters.
    """
    global documents_printed
    sys.stdout.write(json_text(document, indent, sys.stdout.encoding or "ascii") + "\n")
    documents_printed += 1


def try_command(kind: Kind, model: str) -> tuple[str, ...]:
    """An example of the command that runs a model of this kind; none for a kind that has no verb."""
    return (command(kind.verb, model, *kind.arguments),) if kind.verb else ()


def command(*words: object) -> str:
    """A command line to paste, quoted where it must be."""
    line = [str(word) for word in ("onnxferry", *words)]
    return subprocess.list2cmdline(line) if os.name == "nt" else shlex.join(line)  # cmd.exe takes single quotes for letters


def new_table(*columns: str, right: tuple[str, ...] = (), title: str = "") -> Table:
    """A table; the columns in ``right`` are numbers."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def facts_table(facts: Mapping[str, object]) -> Table:
    """Two columns, names and values, without a head. Empty values are left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in ("", None):
            table.add_row(plain(name), value if isinstance(value, Text) else plain(value))
    return table


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that advances the bar. On stderr, gone when done, and nothing at all where stderr is no terminal."""
    console = stderr()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal or total < 2) as progress:
        task = progress.add_task(label, total=total)
        yield lambda steps: progress.advance(task, steps)
