"""What a byte costs at the least: the same layers and head in a bare session that does one step.

Not a peer: somebody would still have to draw the byte and to run it in a loop. The states and the byte go in, the states and the
scores come out; the byte that is fed next is known from an untimed run, so that drawing it is not in the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxferry.export.bench.contenders.base import Call, Feeds, fastest
from onnxferry.export.bench.workloads import BenchModel
from onnxferry.export.families.rnn.graph import GATE_ORDER
from onnxferry.export.graphs.nodes import OPSET, ir_version
from onnxferry.train.families.rnn import HIGHEST_UNIFORM, VOCABULARY, Rnn
from scoreboard.rebuilt import rebuild_text


def step_graph(network: Rnn, operator: bool) -> onnx.ModelProto:
    """``byte`` int64 (batch,), the state's slots float32 (batch, width) → ``logits`` (batch, 256), the slots after it.

    ``operator``: each layer is one LSTM or GRU operator; else an LSTM's layer is written out as Gemm, Sigmoid and Tanh.
    """
    config = network.config
    weights = {name: w.detach().numpy() for name, w in network.state_dict().items()}
    order = GATE_ORDER[config.cell]
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []

    def keep(name: str, array: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), list(outputs), **attributes))
        return outputs[0]

    def gates(name: str) -> np.ndarray:
        blocks = np.split(weights[name], len(order))
        return np.concatenate([blocks[gate] for gate in order])

    axis = keep("axis", np.array([0], np.int64))
    value = add("Gather", [keep("embedding", weights["embed.weight"]), "byte"], ["embedded"], axis=0)
    total = ""
    slots = [f"slot_{slot}" for slot in range(config.slots)]
    after = [f"after_{slot}" for slot in range(config.slots)]
    for layer in range(config.depth):
        name = f"layers.{layer}"
        w, r = gates(f"{name}.weight_ih_l0"), gates(f"{name}.weight_hh_l0")
        wb, rb = gates(f"{name}.bias_ih_l0"), gates(f"{name}.bias_hh_l0")
        mine = slice(layer * config.parts, (layer + 1) * config.parts)
        if operator:
            before = [add("Unsqueeze", [slot, axis], [f"{slot}_in"]) for slot in slots[mine]]
            finals = [f"{slot}_out" for slot in slots[mine]]
            attributes = {"hidden_size": config.width, **({} if config.cell == "lstm" else {"linear_before_reset": 1})}
            parameters = [keep(f"w_{layer}", w[None]), keep(f"r_{layer}", r[None]), keep(f"b_{layer}", np.concatenate([wb, rb])[None])]
            step = add("Unsqueeze", [value, axis], [f"input_{layer}"])
            add(config.cell.upper(), [step, *parameters, "", *before], ["", *finals], **attributes)
            for final, out in zip(finals, after[mine], strict=True):
                add("Squeeze", [final, axis], [out])
        else:
            h, c = slots[mine]
            read = add("Gemm", [value, keep(f"w_{layer}", w), keep(f"b_{layer}", wb + rb)], [f"read_{layer}"], transB=1)
            opened = add("Gemm", [h, keep(f"r_{layer}", r), read], [f"gates_{layer}"], transB=1)
            parts = [f"{gate}_{layer}" for gate in "iofn"]
            add("Split", [opened], parts, axis=1, num_outputs=4)
            i, o, f = (add("Sigmoid", [part], [f"{part}_open"]) for part in parts[:3])
            kept = add("Mul", [f, c], [f"kept_{layer}"])
            new = add("Mul", [i, add("Tanh", [parts[3]], [f"new_{layer}"])], [f"added_{layer}"])
            add("Add", [kept, new], [after[mine][1]])
            add("Mul", [o, add("Tanh", [after[mine][1]], [f"shown_{layer}"])], [after[mine][0]])
        heard = after[mine][0]
        total = add("Add", [total, heard], [f"total_{layer}"]) if total and config.skip else heard
        value = total
    head = weights["head.weight"]
    matrix = weights["embed.weight"] @ head if config.tied else head
    add("Gemm", [value, keep("head", matrix), keep("head_bias", weights["bias"])], ["logits"], transB=1)

    def info(name: str, *shape: int | str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    graph = helper.make_graph(
        nodes,
        "one_step",
        [info("byte", kind=TensorProto.INT64), *(info(slot, config.width) for slot in slots)],
        [info("logits", VOCABULARY), *(info(slot, config.width) for slot in after)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=ir_version(OPSET))


class OneStep:
    """A run is as many steps as the others write bytes."""

    precision = "float32"

    def __init__(self, model: BenchModel, threads: int | None) -> None:
        import onnxruntime

        self.network, start = rebuild_text(model.path)
        self.start = start.numpy()
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        forms = {"operators": True} if self.network.config.cell == "gru" else {"operators": True, "cells": False}
        self.sessions = {
            name: onnxruntime.InferenceSession(
                step_graph(self.network, operator).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            for name, operator in forms.items()
        }
        self.how = ""

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        self.feeds = feeds
        first = next(iter(self.sessions.values()))
        known = [self._written(first, feed) for feed in feeds]
        ways = {name: self._caller(session, known) for name, session in self.sessions.items()}
        best = fastest(ways, len(feeds))
        self.how = f"{best}, one step a run, the byte not drawn"
        return ways[best]

    def named(self, result: Any) -> dict[str, np.ndarray]:
        i, scores = result
        drawn = [_draw(logits, self.feeds[i], step) for step, logits in enumerate(scores)]
        return {"bytes": np.stack(drawn, axis=1).astype(np.uint8)}

    def _before(self, batch: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The slots of a text that has not begun, and the scores of its first byte."""
        import torch

        state = np.repeat(self.start, batch, axis=0)
        slots = {f"slot_{slot}": np.ascontiguousarray(state[:, slot]) for slot in range(state.shape[1])}
        return slots, self.network.logits_of(torch.from_numpy(state)).numpy()

    def _written(self, session: Any, feed: Feeds) -> np.ndarray:
        """int64 (steps, batch): the bytes that this text consists of."""
        slots, logits = self._before(len(feed["uniforms"]))
        written = []
        for step in range(feed["uniforms"].shape[1]):
            byte = _draw(logits, feed, step)
            written.append(byte)
            logits, *after = session.run(None, {"byte": byte, **slots})
            slots = dict(zip(slots, after, strict=True))
        return np.stack(written)

    def _caller(self, session: Any, known: Sequence[np.ndarray]) -> Call:
        names = [output.name for output in session.get_outputs()]
        slots, first = self._before(known[0].shape[1])
        slot_names = list(slots)

        def call(i: int) -> tuple[int, list[np.ndarray]]:
            scores = [first]
            feed: dict[str, np.ndarray] = dict(slots)
            for byte in known[i]:
                feed["byte"] = byte
                logits, *after = session.run(names, feed)
                scores.append(logits)
                feed = dict(zip(slot_names, after, strict=True))
            return i, scores[:-1]  # the last is of the byte after the text

        return call


def _draw(logits: np.ndarray, feed: Feeds, step: int) -> np.ndarray:
    """The byte, int64 (batch,), that the uniform numbers of this step pick from logits (batch, 256)."""
    scaled = logits / feed["temperature"]
    running = np.exp(scaled - scaled.max(axis=1, keepdims=True)).cumsum(axis=1)
    draws = np.minimum(feed["uniforms"][:, step], np.float32(HIGHEST_UNIFORM))
    picked: np.ndarray = (running > draws[:, None] * running[:, -1:]).argmax(axis=1)
    return picked
