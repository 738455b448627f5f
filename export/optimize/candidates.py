"""Candidate variants of a model: their tags, and how each graph is made."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxferry.export.optimize.backends import bfloat16_pays, rms_of
from onnxferry.export.optimize.resources import NOTHING_MORE, Making, as_source
from onnxferry.export.optimize.rewrites.calibration import ROOM
from onnxferry.export.optimize.rewrites.float16 import float16
from onnxferry.export.optimize.rewrites.gptq import Rounded, layer_moments, moments_bytes
from onnxferry.export.optimize.rewrites.integer_text import integer_text
from onnxferry.export.optimize.rewrites.layout import channels_last
from onnxferry.export.optimize.rewrites.quantize import (
    convolutional_layers,
    dynamic_lstm,
    float16_storage,
    inner_tensors,
    static_int8,
    with_names,
    with_weights_of,
)
from onnxferry.export.optimize.rewrites.quantize_text import eight_bit_loop, eight_bit_reading
from onnxferry.export.optimize.rewrites.ranges import Ranges, clipped_ranges, seen_values, whole_ranges
from onnxferry.export.optimize.rewrites.upsampling import join_upsampling, split_transposed_convolutions
from onnxferry.export.optimize.samples import Samples
from onnxferry.export.optimize.score import outputs_of
from onnxferry.runtime.artifact.variants import WEB
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.kinds import Kind


@dataclass(frozen=True)
class Candidate:
    """One variant, not made yet."""

    tag: str  # of its file's name
    what: str  # what it is
    build: Callable[[], onnx.ModelProto | None]  # None if it changes nothing in this model
    rows_alone: bool = False  # its rows would share a scale
    rung: str = ""  # how much of the model it takes, where a tag has several; the best one is written
    making: Making = NOTHING_MORE
    precision: str = ""  # that the same graph runs with, on OpenVINO; "" for ONNX Runtime, in the graph's own


def candidates_for(model: onnx.ModelProto, kind: Kind, goal: str, calibration: Samples, device: str = "cpu") -> list[Candidate]:
    """In the order in which they are tried; ``device`` ("cpu" or "cuda") has its own tags, so that files of both can share a folder.

    float16 is tried on CUDA alone: on the CPU ONNX Runtime casts to float32 and back around every operator. Text generators are left out:
    their loop is bound by kernel launches, not arithmetic, and float16's rounding errors would accumulate in their state.
    """
    found = [
        Candidate("slim", "onnxslim", lambda: slimmed(model)),
        Candidate("ort", "ONNX Runtime's offline optimiser", lambda: ort_optimised(model)),
        Candidate("exact", "exact rewrites", lambda: rewritten(model)),
    ]
    if goal == "smaller":
        found.append(Candidate("float16-storage", "weights stored in float16", lambda: float16_storage(model)))
    if goal == "faster" and device == "cpu" and kind.returns != "text" and bfloat16_pays():
        found.append(Candidate("bf16", "bfloat16 on OpenVINO", lambda: model, precision="bfloat16"))
    operators = {node.op_type for node in model.graph.node}
    if kind.returns == "text":
        found.append(Candidate("int8", "the loop's weights in 8 bits, a scale a block", lambda: eight_bit_loop(model)))
        found.append(Candidate("int8-batch", "all products in integers, for many rows and long prompts", lambda: integer_text(model)))
    if kind.returns == "translation":
        found.append(Candidate("int8", "the step's weights in 8 bits", lambda: eight_bit_loop(model), rung="step"))
        found.append(Candidate("int8", "what the text gives in 8 bits too", lambda: eight_bit_reading(eight_bit_loop(model)), rung="text"))
    if "LSTM" in operators and kind.returns != "text":
        found.append(Candidate("int8", "LSTM in 8 bits as it runs", lambda: dynamic_lstm(model), rows_alone=True, rung="lstm"))
    base = with_names(arranged(model)) if "Conv" in operators or "ConvTranspose" in operators else None  # a copy of all weights
    layers = [] if base is None else convolutional_layers(base)
    if base is not None and layers and kind.returns != "text":
        feeds = calibration.feeds
        moments = functools.cache(lambda: layer_moments(base, feeds))  # the same for all rungs
        # Of objects that come in another order no distance is known.
        ranges = functools.cache(lambda: ranges_that_pay(base, feeds, clip=kind.returns != "boxes"))
        rounded: Rounded = {}
        kept, compensating = moments_bytes(base)
        making = Making(kept, compensating + ROOM)
        steps: list[tuple[str, str, dict[str, Any]]] = [
            ("between", "convolutions in 8 bits, and what lies between", {}),
            ("conv", "convolutions in 8 bits, the rest in float32", {"carry": False}),
            ("all", "convolutions and dense layers in 8 bits", {"gemm": True}),
        ]
        if len(layers) > 1:
            # The first one reads the image itself: few products, and no later layer makes up for what it loses.
            steps.append(("rest", "8 bits but in the first convolution", {"skip": layers[:1], "gemm": True}))
        if len(layers) > 2:
            steps.append(("inner", "8 bits but in the first and the last convolution", {"skip": (layers[0], layers[-1]), "gemm": True}))
        if len(layers) > 1 and kind.returns == "boxes":
            # What the last one says is where a box lies: a step of 8 bits is some tenths of a pixel there.
            steps.append(("last", "8 bits but in the last convolution", {"skip": layers[-1:]}))

        def quantising(options: dict[str, Any]) -> Callable[[], onnx.ModelProto]:
            return lambda: static_int8(base, feeds, moments=moments(), ranges=ranges(), rounded=rounded, **options)

        found += [Candidate("int8", what, quantising(options), rung=rung, making=making) for rung, what, options in steps]
    if device == "cpu":
        return found
    # A file certified for the CPU may lie there already.
    found = [replace(candidate, tag=f"{candidate.tag}-{device}") for candidate in found]
    if layers and kind.returns != "text":
        exact = rewritten(model)
        found.append(Candidate("float16", "the network in float16", lambda: float16(model), rung="plain"))
        if exact is not None:
            found.append(Candidate("float16", "float16 after exact rewrites", lambda: float16(exact), rung="exact"))
    return found


def ranges_that_pay(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], clip: bool = True) -> Ranges:
    """Ranges of inner tensors for 8 bits: with what lies far out cut off, or whole where the outputs on ``feeds`` are nearer then.

    Compared with the weights as they are: what rounding them does is the same for both, and hides the difference. ``clip``: False for
    whole ones without a comparison.
    """
    seen = seen_values(model, inner_tensors(model), feeds)
    whole, clipped = whole_ranges(seen), clipped_ranges(seen)
    if not clip:
        return whole
    with Engine(model.SerializeToString(), device="cpu") as engine:
        expected = outputs_of(engine, feeds)
    off = []
    for ranges in (whole, clipped):
        made = with_weights_of(model, static_int8(model, feeds, moments={}, ranges=ranges))
        with Engine(made.SerializeToString(), device="cpu") as engine:
            shares = rms_of(expected, outputs_of(engine, feeds)).values()
            off.append(sum(math.log(max(share, 1e-9)) for share in shares))  # all outputs count alike
    return clipped if off[1] < off[0] else whole


def for_web(found: Sequence[Candidate]) -> list[Candidate]:
    """The same as candidates of one file, for the browser. Code there runs no rows one by one."""
    return [replace(each, tag=WEB, rung=f"{each.tag} {each.rung}".strip()) for each in found if not each.rows_alone]


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """All exact rewrites; None if none applies."""
    if not {"ConvTranspose", "Resize"} & {node.op_type for node in model.graph.node}:
        return None  # without a copy of the weights
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made if split_transposed_convolutions(made) + join_upsampling(made) else None


def arranged(model: onnx.ModelProto) -> onnx.ModelProto:
    """Prepared for 8 bits: all exact rewrites, and operators between convolutions with channels last."""
    made = onnx.ModelProto()
    made.CopyFrom(rewritten(model) or model)
    channels_last(made)
    return made


def slimmed(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Simplified by onnxslim; None if it removes no node. Raises ModuleNotFoundError if it is not installed."""
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in copy.graph.input}
    defaults = [tensor for tensor in model.graph.initializer if tensor.name in given]
    for tensor in list(copy.graph.initializer):
        if tensor.name in given:  # onnxslim would take an input with a default for a constant
            copy.graph.initializer.remove(tensor)
    with contextlib.redirect_stdout(io.StringIO()):
        made = onnxslim.slim(copy)
    if isinstance(made, onnx.ModelProto):
        made.graph.initializer.extend(defaults)
    if not isinstance(made, onnx.ModelProto) or len(made.graph.node) >= len(model.graph.node):
        return None
    return made


def ort_optimised(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Optimized by ONNX Runtime for any machine (its extended level; the next one is for one processor)."""
    import onnxruntime as ort

    with as_source(model) as source, tempfile.TemporaryDirectory(prefix="onnxferry-") as folder:
        target = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        if not isinstance(source, bytes):
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        made = onnx.load(target)
    return made if len(made.graph.node) < len(model.graph.node) else None
