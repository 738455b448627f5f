"""Writes the contracts of the shipped variants anew: no tolerances for what the certificate measured, and what it says of OpenVINO here.

    python tests/bench/certify_backends.py [NAME ...] [--data NAME=DATA ...] [--seconds 1]

The graphs stay as they are. ``--data``: what to score on, as of ``onnxferry optimize``; without it, the variant is not certified for
OpenVINO, unless it takes noise, which is drawn. Afterwards: ``python tests/bench/release.py --sums``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.graphs.writer import write_artifact
from onnxferry.export.optimize.backends import on_openvino
from onnxferry.export.optimize.budget import parse_budget
from onnxferry.export.optimize.samples import SCORED, samples_for
from onnxferry.export.optimize.score import outputs_of
from onnxferry.export.optimize.timing import rotating
from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.tolerances import rms_limits
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay
from onnxferry.runtime.timing import time_call

ZOO = Path(__file__).parents[2] / "runtime" / "zoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of models' files without .onnx; all if none is given")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DATA")
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    data = dict(entry.split("=", 1) for entry in given.data)
    for path in sorted(ZOO.glob("*/*.int8.onnx")):
        name = path.name.removesuffix(".int8.onnx")
        if not given.names or name in given.names:
            print(path.name, _rewritten(path, path.with_name(f"{name}.onnx"), data.get(name), given.seconds))


def _run_seconds(engine: Engine, feeds: dict[str, Any]) -> float:
    engine.run(feeds)
    return time_call(engine.run, feeds)


def _rewritten(path: Path, original: Path, data: str | None, seconds: float) -> str:
    contract = describe(path).contract
    if contract is None:
        raise SystemExit(f"{path} has no contract")
    kind, certificate = kind_of(contract), {key: value for key, value in contract.certificate.items() if key != "backends"}
    found: dict[str, Any] = {}
    model = load_onnx(path)
    if kind.returns != "text" and (data or kind.takes == "noise"):
        with Engine(original, device="cpu") as engine:
            _, samples = samples_for(engine, kind, data, None, SCORED)
            expected = outputs_of(engine, samples.feeds)
            budget = parse_budget(certificate["budget"])
            runs = {size: _run_seconds(engine, rotating(samples.feeds, size, 1)[0]) for size in (1, 64)}
            found = on_openvino(path.read_bytes(), engine, budget, samples, expected, contract.goldens, runs, seconds)
    if found:
        certificate["backends"] = found
    limits = rms_limits(certificate)
    tolerances = {name: each for name, each in contract.tolerances.items() if name not in limits}

    def verify(file: Path) -> None:
        with Engine(file, device="cpu") as engine:
            replay(engine).raise_if_failed(file.name)

    write_artifact(model, contract.replace(certificate=certificate, tolerances=tolerances), path, verify=verify)
    return "certified for OpenVINO" if found else "written"


if __name__ == "__main__":
    main()
