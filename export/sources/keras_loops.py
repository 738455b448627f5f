"""Keras' recurrent layers while a graph is captured: one operator a layer, for sequences of any length.

On its PyTorch backend Keras runs a recurrent layer step by step in Python, so a capture holds as many copies of the step as the
example has, and so does a ``TimeDistributed`` one. Inside :func:`loops_as_operators` a plain LSTM or GRU is PyTorch's own operator, and
every other layer (masks, cells of one's own, convolutional ones, other activations) is ``torch.ops.higher_order.scan``, which ONNX has
as Scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch


@contextmanager
def loops_as_operators() -> Iterator[None]:
    """For captures only. Layers that ask for ``unroll=True`` stay unrolled."""
    from keras.src import backend

    unrolled = backend.rnn

    def rnn(step_function: Callable[..., Any], inputs: Any, initial_states: Any, **options: Any) -> tuple[Any, Any, Any]:
        if options.get("unroll"):
            return unrolled(step_function, inputs, initial_states, **options)  # type: ignore[no-any-return]
        return _scanned(step_function, inputs, initial_states, **options)

    from keras.layers import TimeDistributed

    with mock.patch.multiple(backend, rnn=rnn, lstm=_lstm, gru=_gru), mock.patch.object(TimeDistributed, "call", _every_step_at_once):
        yield


def _every_step_at_once(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    """``TimeDistributed.call``: the steps as so many rows, in place of one call a step."""
    from keras import ops, tree

    x = ops.convert_to_tensor(inputs)
    options: dict[str, Any] = {}
    if self.layer._call_has_mask_arg and mask is not None:
        options["mask"] = mask.flatten(0, 1)
    if self.layer._call_has_training_arg:
        options["training"] = training
    return tree.map_structure(lambda y: y.unflatten(0, x.shape[:2]), self.layer.call(x.flatten(0, 1), **options))


def _scanned(
    step_function: Callable[..., Any],
    inputs: Any,
    initial_states: Any,
    go_backwards: bool = False,
    mask: torch.Tensor | None = None,
    constants: Any = None,
    unroll: bool = False,
    input_length: Any = None,
    time_major: bool = False,
    zero_output_for_mask: bool = False,
    return_all_outputs: bool = True,
) -> tuple[Any, Any, Any]:
    """``keras.backend.rnn``: where the mask is False, a step keeps the states, and gives the output before it (or zeros)."""
    from keras import tree

    sequences = [x if time_major else x.transpose(0, 1) for x in tree.flatten(inputs)]
    if mask is not None:
        mask = mask.to(torch.bool)
        sequences.append(mask if time_major else mask.transpose(0, 1))
    if go_backwards:
        sequences = [x.flip(0) for x in sequences]
    states = tree.flatten(initial_states)
    fixed = tree.flatten(list(constants or ()))
    variables = _variables(step_function)

    def step(values: Sequence[torch.Tensor], carried: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> tuple[Any, Any]:
        """The cell's output and new states, with its weights given."""
        from keras import StatelessScope

        own, rest = weights[: len(variables)], weights[len(variables) :]
        with StatelessScope(state_mapping=list(zip(variables, own, strict=True))):
            x = tree.pack_sequence_as(inputs, list(values))
            given = tree.pack_sequence_as(initial_states, list(carried))
            return step_function(x, tuple(given) + tuple(tree.pack_sequence_as(list(constants or ()), list(rest))))  # type: ignore[no-any-return]

    # Copies: to the capture, a variable's own tensor is a constant from outside, which the operator does not take.
    weights = [variable.value.clone() for variable in variables] + fixed
    count = len(sequences) - (mask is not None)
    output, _ = step([x[0] for x in sequences[:count]], states, weights)
    outputs = tree.flatten(output)
    before = [torch.zeros_like(each) for each in outputs] if mask is not None else []

    def body(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        carried, arguments = arguments[: len(states)], arguments[len(states) :]
        last, arguments = arguments[: len(before)], arguments[len(before) :]
        values, arguments = arguments[: len(sequences)], arguments[len(sequences) :]
        answer, new = step(values[:count], carried, arguments)
        found, new = tree.flatten(answer), tree.flatten(new)
        if mask is not None:
            kept = [torch.zeros_like(each) for each in found] if zero_output_for_mask else last
            found = [_where(values[-1], each, other) for each, other in zip(found, kept, strict=True)]
            new = [_where(values[-1], each, other) for each, other in zip(new, carried, strict=True)]
        return tuple(_copied(each) for each in (*new, *(found if before else ()), *found))

    flat = torch.ops.higher_order.scan(body, [_copied(x) for x in (*states, *before)], [x.contiguous() for x in sequences], tuple(weights))
    final, stacked = flat[: len(states)], flat[len(states) + len(before) :]
    last = tree.pack_sequence_as(output, [each[-1] for each in stacked])
    every = [each if time_major else each.transpose(0, 1) for each in stacked]
    return last, tree.pack_sequence_as(output, every), list(tree.pack_sequence_as(initial_states, list(final)))


def _copied(x: torch.Tensor) -> torch.Tensor:
    """An output of the operator must be no other output and no input of it, and lie in memory as the state before it."""
    return x.flatten().clone().view(x.shape)


def _where(mask: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.reshape(*mask.shape[:1], *[1] * (yes.dim() - 1)), yes, no)


def _variables(step_function: Callable[..., Any]) -> list[Any]:
    """The weights that a step reads: those of every layer in its closure."""
    cells = [cell.cell_contents for cell in getattr(step_function, "__closure__", None) or ()]
    found = {id(variable): variable for cell in cells for variable in getattr(cell, "weights", ())}
    return list(found.values())


def _plain(activation: Any, recurrent_activation: Any, mask: Any, unroll: bool) -> bool:
    from keras import activations

    return mask is None and not unroll and activation is activations.tanh and recurrent_activation is activations.sigmoid


def _lstm(
    inputs: torch.Tensor,
    initial_state_h: torch.Tensor,
    initial_state_c: torch.Tensor,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    batch_first: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """``keras.backend.lstm`` (batch, time, features). Gates stand in PyTorch's order: input, forget, cell, output."""
    if not (batch_first and _plain(activation, recurrent_activation, mask, unroll)):
        raise NotImplementedError  # Keras then runs its own loop over the steps: the protocol of keras.backend.lstm and gru
    weights = [_value(kernel).T, _value(recurrent_kernel).T]
    if bias is not None:
        weights += [_value(bias), torch.zeros_like(_value(bias))]
    x = inputs.flip(1) if go_backwards else inputs
    states = (initial_state_h.unsqueeze(0), initial_state_c.unsqueeze(0))
    outputs, h, c = torch._VF.lstm(x, states, weights, bias is not None, 1, 0.0, False, False, True)
    return h[0], outputs, [h[0], c[0]]


def _gru(
    inputs: torch.Tensor,
    initial_state: torch.Tensor,
    mask: Any,
    kernel: Any,
    recurrent_kernel: Any,
    bias: Any,
    activation: Any,
    recurrent_activation: Any,
    return_sequences: bool = False,
    go_backwards: bool = False,
    unroll: bool = False,
    reset_after: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """``keras.backend.gru`` (batch, time, features). Keras' gates are update, reset, new; PyTorch's reset, update, new."""
    if not (reset_after and _plain(activation, recurrent_activation, mask, unroll)):
        raise NotImplementedError  # Keras then runs its own loop over the steps: the protocol of keras.backend.lstm and gru

    def ordered(weight: torch.Tensor) -> torch.Tensor:
        update, reset, new = weight.chunk(3, dim=-1)
        return torch.cat([reset, update, new], dim=-1)

    weights = [ordered(_value(kernel)).T, ordered(_value(recurrent_kernel)).T]
    if bias is not None:
        weights += list(ordered(_value(bias)).unbind(0))
    x = inputs.flip(1) if go_backwards else inputs
    outputs, h = torch._VF.gru(x, initial_state.unsqueeze(0), weights, bias is not None, 1, 0.0, False, False, True)
    return h[0], outputs, [h[0]]


def _value(weight: Any) -> torch.Tensor:
    from keras import ops

    return ops.convert_to_tensor(weight)  # type: ignore[no-any-return]
