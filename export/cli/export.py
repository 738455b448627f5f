"""``onnxferry export``: carry a trained model to one proved .onnx file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onnxferry.export.cli.print_report import checked_report_name, print_report, write_report_file
from onnxferry.export.graphs.nodes import MAX_OPSET, OPSET
from onnxferry.export.graphs.writer import checked_target
from onnxferry.export.parity.report import ParityReport
from onnxferry.runtime.cli.console import JsonOption, command, new_app, plain, print_json, print_next, stderr, stdout, try_command
from onnxferry.runtime.errors import InputError, ParityError
from onnxferry.runtime.formats import human_bytes

app = new_app()


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run folder or checkpoint, pkg.module:make_model, a .pt2 program, a .keras model, or an .onnx file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The .onnx file to write.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SPEC",
            help="name:dtype[axes]; a named axis is dynamic. Once an input, by forward()'s names (state_0, batch_image for what is inside "
            "one); a single one may be called anything.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="State dict for the model that a factory makes: .safetensors or .pt.", show_default=False
        ),
    ] = None,
    samples: Annotated[
        list[Path] | None,
        typer.Option(
            "--samples",
            metavar="FILE",
            help="An .npz with one array an input, or a .csv with one column an input: compared too. Repeat for more.",
            show_default=False,
        ),
    ] = None,
    rtol: Annotated[
        float | None, typer.Option("--rtol", min=0.0, help="Relative tolerance; by dtype if not given.", show_default=False)
    ] = None,
    atol: Annotated[
        float | None, typer.Option("--atol", min=0.0, help="Absolute tolerance; by dtype if not given.", show_default=False)
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", min=OPSET, max=MAX_OPSET, help=f"ONNX operator set; {OPSET} if not given.", show_default=False)
    ] = None,
    golden: Annotated[str, typer.Option("--golden", help="Samples to carry in the file: auto, none, or an .npz file.")] = "auto",
    with_labels: Annotated[bool, typer.Option("--with-labels", help="A recogniser's class names as a string output too.")] = False,
    bits: Annotated[
        int | None,
        typer.Option("--bits", metavar="N", help="A text run's weights in 8, 16 or 32 bits; as trained if not given.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The model's name; the file's if not given.", show_default=False)] = "",
    description: Annotated[str, typer.Option("--description", help="One line for the contract.", show_default=False)] = "",
    license_: Annotated[str, typer.Option("--license", help="The model's licence, as an SPDX name.", show_default=False)] = "",
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write the parity report: .html with plots, or .json.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Carry a trained model to one .onnx file that is proved to do the same.

    The file is compared with the model on examples and on sizes that were never traced, before it is written. Where they
    differ, the exit code is 1, nothing is written, and the report says where, by how much, and what to try.

    ```
    onnxferry export runs/digits -o digits.onnx
    onnxferry export mypkg.models:make --weights w.safetensors --input "image:float32[batch,3,224,224]" -o model.onnx
    onnxferry export mypkg.models:make --input "ids:int64[batch,time]=0..30521" --samples real.npz -o model.onnx
    onnxferry export mypkg.models:fitted --samples test_rows.csv -o model.onnx      # scikit-learn
    onnxferry export model.keras -o model.onnx
    onnxferry export program.pt2 -o model.onnx
    onnxferry export theirs.onnx -o checked.onnx
    ```

    With --json: model, bytes, and the whole parity report (passed, strategy, mends, cases, outputs, failures, notes).
    """
    checked_target(out)
    checked_report_name(report_file)
    options = _Options(inputs or [], weights, samples or [], rtol, atol, opset, golden, with_labels, name, description, license_, bits)
    try:
        if as_json:
            report = _dispatch(source, out, options)
        else:
            with stderr().status(f"exporting {plain(source)}, and comparing"):
                report = _dispatch(source, out, options)
    except ParityError as error:
        if report_file is not None and isinstance(error.report, ParityReport):
            write_report_file(error.report, report_file, source)
            raise ParityError(f"{error}\n  the report: {report_file}", error.report) from error
        raise
    if report_file is not None:
        write_report_file(report, report_file, source)
    size = out.stat().st_size
    if as_json:
        print_json({"model": str(out), "bytes": size, **report.to_json()})
        return
    print_report(report, f"{out} ({human_bytes(size)})")
    if report_file is not None:
        stdout().print(f"the report: {plain(report_file)}", soft_wrap=True)
    from onnxferry.runtime.artifact.contract import kind_of
    from onnxferry.runtime.engine.engine import Engine

    with Engine(out, device="cpu") as engine:
        kind = kind_of(engine.contract)
        proved = bool(engine.contract and engine.contract.goldens)
    print_next(*([command("check", out)] if proved else ()), command("inspect", out), *try_command(kind, str(out)))


class _Options:
    """What the command line asked for, beside source and target."""

    def __init__(
        self,
        inputs: Sequence[str],
        weights: Path | None,
        samples: Sequence[Path],
        rtol: float | None,
        atol: float | None,
        opset: int | None,
        golden: str,
        with_labels: bool,
        name: str,
        description: str,
        license_: str,
        bits: int | None,
    ) -> None:
        from onnxferry.export.sources.input_spec import parsed_inputs, samples_from_file

        self.inputs = parsed_inputs(inputs)
        self.weights = weights
        self.samples = [samples_from_file(path) for path in samples]
        self.rtol, self.atol, self.opset = rtol, atol, opset
        self.with_labels = with_labels
        self.bits = bits
        self.golden: bool | list[dict[str, np.ndarray]] = golden == "auto"
        if golden not in ("auto", "none"):
            self.golden = [samples_from_file(golden)]
        self.texts: dict[str, Any] = {"name": name or None, "description": description, "license": license_}

    def refuse(self, what: str, **given: object) -> None:
        """Raise for options that make no sense with this source."""
        for option, value in given.items():
            if not (value is None or value is False or value == [] or value == ""):  # 0 is something that was given
                raise InputError(f"--{option} makes no sense with {what}: it brings its own")

    def common(self, line: Sequence[str]) -> dict[str, Any]:
        """What all models that are captured here are exported with, by export_model's names."""
        return {
            "dynamic_shapes": self.axes or None,
            "rtol": self.rtol,
            "atol": self.atol,
            "samples": self.samples[1:],
            "golden": self.golden,
            "opset": self.opset or OPSET,
            "command": line,
            **self.texts,
        }

    def rename(self, old: str, new: str) -> None:
        """Call an input so, in its description and in all samples."""

        def renamed(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {new if name == old else name: array for name, array in sample.items()}

        self.inputs = [dataclasses.replace(d, name=new) if d.name == old else d for d in self.inputs]
        self.samples = [renamed(sample) for sample in self.samples]
        if not isinstance(self.golden, bool):
            self.golden = [renamed(sample) for sample in self.golden]

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        return {d.name: d.axes for d in self.inputs if d.axes}


def _dispatch(source: str, out: Path, options: _Options) -> ParityReport:
    from onnxferry.export.sources.factory import FACTORY

    path = Path(source)
    line = ["onnxferry", *sys.argv[1:]]
    ours = path.is_dir() or path.suffix.lower() in (".pt", ".pth", ".ckpt")
    if not ours:
        options.refuse("a model that is no recogniser of ours", **{"with-labels": options.with_labels})
        if options.bits is not None:
            raise InputError("--bits is for the runs of text generators; see onnxferry optimize for other models in 8 bits")
    if path.suffix.lower() == ".onnx":
        return _wrap(path, out, options, line)
    if path.suffix.lower() == ".pt2":
        return _export_program(path, out, options, line)
    if path.suffix.lower() == ".keras":
        return _export_keras(path, out, options, line)
    if ours:
        from onnxferry.export.families.checkpoint import export_checkpoint

        options.refuse(
            "a checkpoint of ours",
            input=options.inputs,
            weights=options.weights,
            samples=options.samples,
            rtol=options.rtol,
            atol=options.atol,
            opset=options.opset,
        )
        return export_checkpoint(
            path, out, golden=options.golden, with_labels=options.with_labels, command=line, bits=options.bits, **options.texts
        )
    if FACTORY.fullmatch(source):
        return _export_factory(source, out, options, line)
    if path.suffix.lower() in (".pkl", ".pickle", ".joblib"):
        raise InputError(
            f"{path.name} may run code as it is read, so it is not opened here; name a function of yours that does: pkg.module:load_model"
        )
    if path.exists():
        raise InputError(
            f"{source} is nothing that can be exported; expected a run folder, a .pt, .pt2, .keras or .onnx file, or pkg.module:make_model"
        )
    raise InputError(f"there is no {source}; expected a run folder, a .pt, .pt2, .keras or .onnx file, or pkg.module:make_model")


def _examples(options: _Options) -> dict[str, np.ndarray]:
    """The first sample, and drawn values for described inputs that it lacks."""
    drawn = {d.name: d.example(number) for number, d in enumerate(options.inputs)}
    return {**drawn, **(options.samples[0] if options.samples else {})}


def _export_factory(source: str, out: Path, options: _Options, line: Sequence[str]) -> ParityReport:
    import torch

    from onnxferry.export.pipeline.export import export_model
    from onnxferry.export.source import is_keras, is_sklearn
    from onnxferry.export.sources.factory import as_called, model_from_factory, only_argument

    model = model_from_factory(source, options.weights)
    arrays = _examples(options)
    if is_keras(model) or is_sklearn(model):
        if is_sklearn(model) and not arrays:
            raise InputError("give rows to compare on, best of a test set: --samples FILE.csv, or FILE.npz with one array of rows")
        return export_model(model, arrays or None, out, **options.common(line))
    given = next(iter(arrays), "")
    own = only_argument(model, arrays)
    if own is not None:
        options.rename(given, own)
        arrays = {own: arrays[given]}
    examples = {name: torch.from_numpy(array) for name, array in arrays.items()}
    program = isinstance(model, torch.export.ExportedProgram)
    if not examples and not program:
        raise InputError('say what the model takes: --input "x:float32[batch,3,224,224]", or --samples FILE.npz with one array an input')
    hint = "inputs go by the names of its arguments, and what is inside one by state_0 or batch_image"
    report = export_model(model, as_called(model, examples, hint) or None, out, **options.common(line))
    if own is not None:
        report.notes = [*report.notes, f"the input {given!r} is called {own!r} in the file, as in forward()"]
    return report


def _export_program(path: Path, out: Path, options: _Options, line: Sequence[str]) -> ParityReport:
    import torch

    from onnxferry.export.pipeline.export import export_model
    from onnxferry.export.sources.pytorch.program import program_from_file

    options.refuse("a torch.export program", weights=options.weights)
    examples = {name: torch.from_numpy(array) for name, array in _examples(options).items()}
    return export_model(program_from_file(path), examples or None, out, **options.common(line))


def _export_keras(path: Path, out: Path, options: _Options, line: Sequence[str]) -> ParityReport:
    from onnxferry.export.pipeline.export import export_model
    from onnxferry.export.sources.keras import keras_from_file

    options.refuse("a Keras model", weights=options.weights)
    return export_model(keras_from_file(path), _examples(options) or None, out, **options.common(line))


def _wrap(path: Path, out: Path, options: _Options, line: Sequence[str]) -> ParityReport:
    from onnxferry.export.pipeline.export import wrap_onnx

    options.refuse("an .onnx file", weights=options.weights, opset=options.opset)
    if out.exists() and out.samefile(path):
        raise InputError(f"{out} would be written over its own source: give another name")
    return wrap_onnx(
        path,
        out,
        examples=_examples(options),
        axes=options.axes,
        samples=options.samples[1:],
        rtol=options.rtol,
        atol=options.atol,
        golden=options.golden,
        command=line,
        **options.texts,
    )
