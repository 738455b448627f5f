"""Recurrent layers kept whole while torch captures and decomposes a program.

torch 2.13 finds the shapes of ``aten.lstm`` and ``aten.gru`` by running their decompositions, an unrolled loop, which
freezes the number of steps in everything that reads the result's size (pytorch issue 191855), and its remedy for the
capture, a while_loop, is lost on the second export of a process, because the operator's dispatch is cached. Their
shapes are plain arithmetic, so they are computed as such here, for the time of an export only.

``torch.nn.RNN`` has no translation in onnxscript at all; one is given here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from onnxscript import opset18
from torch._decomp import decomposition_table

# Its annotations know nothing of the constants that it takes in place of tensors.
op: Any = opset18


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def _output(x: torch.Tensor, hidden: torch.Tensor, bidirectional: bool) -> torch.Tensor:
    """Shape of a recurrent layer's output: time and batch as in the input, all directions side by side."""
    return x.new_empty((*x.shape[:2], hidden.shape[-1] * (2 if bidirectional else 1)))


def _lstm(x: torch.Tensor, states: Sequence[torch.Tensor], *rest: Any) -> tuple[torch.Tensor, ...]:
    return _output(x, states[0], bool(rest[-2])), torch.empty_like(states[0]), torch.empty_like(states[1])


def _one_state(x: torch.Tensor, state: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    return _output(x, state, bool(rest[-2])), torch.empty_like(state)


_SHAPES: Mapping[Any, Callable[..., tuple[torch.Tensor, ...]]] = {
    torch.ops.aten.lstm.input: _lstm,
    torch.ops.aten.gru.input: _one_state,
    torch.ops.aten.rnn_tanh.input: _one_state,
    torch.ops.aten.rnn_relu.input: _one_state,
}


@contextmanager
def recurrent_layers_kept() -> Iterator[None]:
    """Inside, torch computes the shapes of recurrent layers by :data:`_SHAPES`. For captures only: no values are computed."""
    kernels = {layer: layer.py_kernels.get(_COMPOSITE) for layer in _SHAPES}
    decompositions = {layer: decomposition_table.get(layer) for layer in _SHAPES}
    try:
        for layer, shape in _SHAPES.items():
            layer.py_kernels[_COMPOSITE] = shape
            decomposition_table[layer] = shape
            layer._dispatch_cache.clear()
        yield
    finally:
        for layer in _SHAPES:
            _restore(layer.py_kernels, _COMPOSITE, kernels[layer])
            _restore(decomposition_table, layer, decompositions[layer])
            layer._dispatch_cache.clear()


def _restore(table: Any, key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _rnn(activation: str) -> Callable[..., Any]:
    """A translation of ``aten.rnn_tanh`` or ``aten.rnn_relu`` to ONNX's RNN, one node a layer."""

    def translate(
        x: Any,
        hx: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        directions = 2 if bidirectional else 1
        per_direction = 4 if has_biases else 2
        if batch_first:
            x = op.Transpose(x, perm=[1, 0, 2])
        last = []
        for layer in range(num_layers):
            groups = [params[per_direction * i : per_direction * (i + 1)] for i in range(layer * directions, (layer + 1) * directions)]
            weights = [op.Concat(*(op.Unsqueeze(group[k], [0]) for group in groups), axis=0) for k in range(2)]
            bias = (
                op.Concat(*(op.Unsqueeze(op.Concat(group[2], group[3], axis=0), [0]) for group in groups), axis=0) if has_biases else None
            )
            state = op.Slice(hx, [layer * directions], [(layer + 1) * directions], [0])
            y, final = op.RNN(
                x,
                weights[0],
                weights[1],
                bias,
                None,
                state,
                hidden_size=hx.shape[2],
                direction="bidirectional" if bidirectional else "forward",
                activations=[activation] * directions,
            )
            # (time, directions, batch, hidden) -> (time, batch, directions * hidden)
            x = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1])
            last.append(final)
        if batch_first:
            x = op.Transpose(x, perm=[1, 0, 2])
        return x, op.Concat(*last, axis=0)

    return translate


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.rnn_tanh.input: _rnn("Tanh"),
    torch.ops.aten.rnn_relu.input: _rnn("Relu"),
}
"""For ``torch.onnx.export(custom_translation_table=…)``."""
