"""``onnxferry inspect``: show the inputs, outputs and contract of an .onnx file. Only the file is read, so that no ONNX Runtime
is needed, except for ``--placement``.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from onnxferry.runtime.artifact.contract import Contract, kind_of
from onnxferry.runtime.artifact.describe import describe
from onnxferry.runtime.artifact.variants import Ignored, Variant, variants_beside
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    LimitOption,
    ModelArgument,
    command,
    facts_table,
    new_app,
    new_table,
    plain,
    print_json,
    print_next,
    stdout,
    try_command,
)
from onnxferry.runtime.cli.parity_table import allowed_words, parity_table, stored_rows
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.onnx_file.summary import Limits, ModelSummary, raised_limits
from onnxferry.runtime.onnx_file.values import TensorSpec

app = new_app()


_LONGEST_VALUE = 300  # characters of a metadata value that are shown


@app.command()
def inspect(
    model: ModelArgument,
    placement: Annotated[bool, typer.Option("--placement", help="Also open the model, and show where each node runs.")] = False,
    device: DeviceOption = "auto",
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the inputs, outputs, operators and contract of an .onnx file, and its variants.

    Takes any ONNX file. The file is read within limits and nothing is run; files with operators from unknown domains, or with
    external data outside their folder, are refused.

    ```
    onnxferry inspect digits
    onnxferry inspect download.onnx --json
    onnxferry inspect digits --placement --device cuda
    ```

    With --placement the model is opened with ONNX Runtime; nodes are shown as they are assigned to devices, before fusions.

    With --json: model, bytes, ir_version, opsets, producer, graph, nodes, depth, functions, operators, parameters, inputs,
    optional_inputs, outputs, contract (null where the file has none), metadata (the other keys), variants (the files beside it that are
    named like one of its variants: variant, path, certified, reason why not); with
    --placement also placement: device, reason, nodes (node, operator, provider).
    """
    path = find_model(model)
    limits = raised_limits(limit or ())
    described = describe(path, limits)
    summary, contract = described.summary, described.contract
    variants, ignored = variants_beside(path, limits)
    placed = _placement(path, device, limits) if placement else None
    if as_json:
        document = {**_json(str(path), summary, contract), "variants": _variants_json(variants, ignored)}
        print_json(document | ({"placement": placed} if placed else {}))
        return
    console = stdout()
    _print_file(console, str(path), summary, contract)
    if contract:
        _print_contract(console, contract)
    else:
        _print_facts(console, "Metadata", {k: v[:_LONGEST_VALUE] for k, v in summary.metadata.items()})
    _print_variants(console, variants, ignored)
    if placed:
        _print_placement(console, placed)
    if contract:
        print_next(command("check", model), *try_command(kind_of(contract), model))
    else:
        print_next(command("check", model, "--allow-none"))


def _print_file(console: Console, path: str, summary: ModelSummary, contract: Contract | None) -> None:
    opsets = ", ".join(f"{domain} {version}" for domain, version in summary.opsets.items())
    facts = {
        "file": f"{path}, {human_bytes(summary.file_bytes)}",
        "what": _what(contract) if contract else "an ONNX model without an onnxferry contract",
        "classes": ", ".join(contract.labels) if contract else "",
        "license": contract.license if contract else "",
        "opsets": f"{opsets}  (IR version {summary.ir_version})",
        "made by": summary.producer,
        "graph": f"{summary.nodes} nodes" + (f", {summary.depth} deep" if summary.depth else "") + _functions(summary),
        "operators": "  ".join(f"{name.removeprefix('ai.onnx::')} ×{count}" for name, count in summary.operators.items()),
        "parameters": _parameters(summary),
    }
    console.print(facts_table(facts))
    defaults = contract.defaults if contract else {}
    table = new_table("", "name", "dtype", "shape", *(["default"] if defaults else []))
    for role, specs in (("input", summary.inputs), ("optional", summary.optional_inputs), ("output", summary.outputs)):
        for spec in specs:
            default = [plain(_default(defaults.get(spec.name)))] if defaults else []
            table.add_row(role, plain(spec.name), plain(spec.dtype), plain(_shape(spec)), *default)
    console.print(table)


def _default(array: np.ndarray | None) -> str:
    """One number; of several their count."""
    if array is None:
        return ""
    return str(array.reshape(-1)[0]) if array.size == 1 else f"{array.size:,} numbers"


def _placement(path: Path, device: str, limits: Limits) -> dict[str, Any]:
    """Opens the model; returns where it and each of its nodes run."""
    from onnxferry.runtime.engine.engine import Engine, PlacementWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlacementWarning)  # all of it is shown below
        engine = Engine(path, device=device, limits=limits, record_placement=True)
    with engine:
        nodes = [{"node": each.node, "operator": each.operator, "provider": each.provider} for each in engine.placement]
        return {"device": engine.device, "reason": engine.device_reason, "nodes": nodes}


def _print_placement(console: Console, placed: Mapping[str, Any]) -> None:
    counts = Counter(node["provider"] for node in placed["nodes"])
    _print_facts(
        console,
        "Placement",
        {"device": f"{placed['device']}, {placed['reason']}", "nodes": ", ".join(f"{count} on {name}" for name, count in counts.items())},
    )
    table = new_table("", "node", "operator", "runs on")
    for number, node in enumerate(placed["nodes"], 1):
        table.add_row(str(number), plain(node["node"]), plain(node["operator"]), node["provider"])
    console.print(table)


def _print_contract(console: Console, contract: Contract) -> None:
    goldens = contract.goldens
    size = sum(golden.nbytes() for golden in goldens)
    tolerances = "; ".join(f"{name}: {allowed_words(t.rtol, t.atol)}" for name, t in contract.tolerances.items())
    samples = f"{len(goldens)} samples, {human_bytes(size)}" if goldens else "none: nothing to check it by"
    _print_facts(console, "Contract", {"options": dict(contract.options), "golden": samples, "tolerances": tolerances})
    _print_facts(console, "Metrics", contract.metrics)
    _print_parity(console, contract.parity)
    _print_facts(console, "Provenance", contract.provenance)
    _print_facts(console, "Certificate", contract.certificate)


def _print_parity(console: Console, parity: Mapping[str, Any]) -> None:
    """In the words of the export; as it stands in the file where it is not as the export writes it."""
    rows = stored_rows(parity)
    if rows is None:
        _print_facts(console, "Parity with the source", parity)
        return
    cases, other, dropped = (parity.get(key) for key in ("cases", "untraced_shapes", "dropped"))
    facts = {
        "verdict": f"{'passed' if parity.get('passed') else 'failed'}: {cases} inputs compared, {other} at sizes never traced",
        "made by": parity.get("strategy", ""),
        "left out": f"{dropped} generated inputs, which the model itself does not take" if dropped else "",
        "NaN, infinity": _nonfinite(parity.get("nonfinite")),
    }
    _print_facts(console, "Parity with the source", facts)
    console.print(parity_table(rows))


def _nonfinite(found: Any) -> str:
    if not isinstance(found, Mapping) or not found:
        return ""
    other = [str(name) for name, verdict in found.items() if verdict != "same"]
    return f"answered otherwise by {', '.join(other)}" if other else "answered as the source does"


def _print_variants(console: Console, variants: tuple[Variant, ...], ignored: tuple[Ignored, ...]) -> None:
    facts = {other.tag: f"not a variant of this file: {other.reason}" for other in ignored}
    _print_facts(console, "Beside it", {**{variant.tag: variant.words() for variant in variants}, **facts})


def _variants_json(variants: tuple[Variant, ...], ignored: tuple[Ignored, ...]) -> list[dict[str, Any]]:
    certified = [{"variant": v.tag, "path": str(v.path), "certified": True, "reason": ""} for v in variants]
    return certified + [{"variant": o.tag, "path": str(o.path), "certified": False, "reason": o.reason} for o in ignored]


def _print_facts(console: Console, title: str, facts: Mapping[str, Any]) -> None:
    flat = {f"  {name}": value for name, value in _flatten(facts)}
    if flat:
        console.print(f"\n{title}", style="bold")
        console.print(facts_table(flat))


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested objects as dotted names; numbers short, anything else as JSON, cut where it is long."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, f"{value:.6g}"
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield prefix + name, text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} …"


def _what(contract: Contract) -> str:
    name = " ".join(filter(None, (contract.name, contract.version)))
    family = f" ({contract.family})" if contract.family else ""
    return f"{contract.kind}{family}: {name}" + (f". {contract.description}" if contract.description else "")


def _functions(summary: ModelSummary) -> str:
    return f", {summary.functions} functions" if summary.functions else ""


def _parameter_counts(summary: ModelSummary) -> Counter[str]:
    """Elements of all initializers by dtype, most first."""
    counts: Counter[str] = Counter()
    for initializer in summary.initializers:
        counts[initializer.dtype] += math.prod(initializer.shape)
    return Counter(dict(counts.most_common()))


def _parameters(summary: ModelSummary) -> str:
    counts = _parameter_counts(summary)
    outside = sum(1 for initializer in summary.initializers if initializer.location)
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in counts.items()) or "none"
    return kinds + (f"; {outside} tensors lie in files of their own" if outside else "")


def _shape(spec: TensorSpec) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in spec.shape)})" if spec.ranked else "of any rank"


def _json(path: str, summary: ModelSummary, contract: Contract | None) -> dict[str, Any]:
    def specs(of: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape if spec.ranked else None} for spec in of]

    return {
        "model": path,
        "bytes": summary.file_bytes,
        "ir_version": summary.ir_version,
        "opsets": summary.opsets,
        "producer": summary.producer,
        "graph": summary.graph_name,
        "nodes": summary.nodes,
        "depth": summary.depth,
        "functions": summary.functions,
        "operators": summary.operators,
        "parameters": _parameter_counts(summary),
        "inputs": specs(summary.inputs),
        "optional_inputs": specs(summary.optional_inputs),
        "outputs": specs(summary.outputs),
        "contract": contract
        and {
            "schema": contract.schema,
            "kind": contract.kind,
            "name": contract.name,
            "family": contract.family,
            "description": contract.description,
            "labels": contract.labels,
            "options": contract.options,
            "tolerances": {name: {"rtol": t.rtol, "atol": t.atol} for name, t in contract.tolerances.items()},
            "goldens": len(contract.goldens),
            "defaults": {name: array.tolist() for name, array in contract.defaults.items()},
            "metrics": contract.metrics,
            "parity": contract.parity,
            "provenance": contract.provenance,
            "certificate": contract.certificate,
        },
        "metadata": {key: value for key, value in summary.metadata.items() if not key.startswith("onnxferry.")},
    }
