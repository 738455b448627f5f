"""The options of ``onnxferry train``: those of a family and of a run are made from their dataclasses, those of images stand here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from onnxferry.train.cli.run import command_line
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.options import Option, options_of
from onnxferry.train.presets import PRESETS

DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "Run"
"""The groups of --help, in this order."""


Given: TypeAlias = Mapping[str, Any]
"""What the user set of a family's options, by field name."""


Data = Annotated[Path | None, typer.Option(help="where the set's files are, or your own data", rich_help_panel=DATA)]
ImageSetName = Annotated[
    str,
    typer.Option(help="digits-5k, mnist or fashion-mnist; none with --data: your own images, one sub-folder a class", rich_help_panel=DATA),
]
Color = Annotated[
    bool | None,
    typer.Option(
        "--color/--grayscale", help="keep the colours of a folder of images, or read them as grey (the default)", rich_help_panel=DATA
    ),
]
Validation = Annotated[
    int | None, typer.Option(min=0, help="images held out to choose the best epoch; 0: none, the last epoch is kept", rich_help_panel=DATA)
]
Limit = Annotated[int | None, typer.Option(min=1, help="train on at most so many images, evenly over the classes", rich_help_panel=DATA)]
Preset = Annotated[str, typer.Option(help="quick (minutes on two cores) or full (the best result)", rich_help_panel=TRAINING)]
Seed = Annotated[int, typer.Option(help="of the data's split and order, the initial weights and all noise", rich_help_panel=TRAINING)]
Out = Annotated[Path, typer.Option(help="the run's folder", rich_help_panel=RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="the result as one JSON line on stdout", rich_help_panel=RUN)]


def with_options(family: str, config: type, options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds to a command the options of the dataclasses ``config`` (the network), ``options`` (its training) and LoopConfig (the run).

    The command gets them as two arguments: ``given``, the fields of the first two that the user set, and ``run``, a LoopConfig.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name not in ("given", "run")]
        of_family = [_preset_parameter(found, MODEL, family) for found in options_of(config)]
        of_family += [_preset_parameter(found, TRAINING, family) for found in options_of(options)]
        of_run = [_parameter(found, RUN) for found in options_of(LoopConfig)]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            chosen = {p.name: values.pop(p.name) for p in of_family}
            run = LoopConfig(out=values["out"], command=command_line(), **{p.name: values.pop(p.name) for p in of_run})
            function(**values, given={name: value for name, value in chosen.items() if value is not None}, run=run)

        parameters = sorted([*own, *of_family, *of_run], key=_rank)
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _rank(parameter: inspect.Parameter) -> int:
    (info,) = parameter.annotation.__metadata__
    return (DATA, MODEL, TRAINING, RUN).index(info.rich_help_panel)


def _parameter(found: Option, group: str) -> inspect.Parameter:
    return _made(found, found.type, found.default, group)


def _preset_parameter(found: Option, group: str, family: str) -> inspect.Parameter:
    """An option whose default depends on --preset: None where the user sets nothing, and the help names both values."""
    values = {name: preset.get(found.name, found.default) for name, preset in PRESETS[family].items()}
    if len(set(values.values())) > 1:
        shown: str | bool = ", ".join(f"{name}: {value}" for name, value in values.items())
    elif found.type is bool:
        shown = "on" if found.default else False
    else:
        shown = str(found.default)
    return _made(found, found.type | None, None, group, shown)


def _made(found: Option, kind: Any, default: object, group: str, shown: bool | str = True) -> inspect.Parameter:
    flag = f"--{found.name.replace('_', '-')}"
    names = (f"{flag}/--no-{flag[2:]}" if found.default else flag,) if found.type is bool else ()
    info = typer.Option(*names, help=found.help, min=found.min, max=found.max, show_default=shown, rich_help_panel=group)
    return inspect.Parameter(found.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
