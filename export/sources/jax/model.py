"""What the user gives as a JAX model, as a function of arrays.

A function, jitted or not; a Flax NNX module, an Equinox module; a Flax Linen module bound to its variables, or the pair
(module, variables).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from onnxferry.runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class JaxModel:
    """``call`` takes what the model takes; ``weights`` are its arrays, for the provenance."""

    call: Callable[..., Any]
    kind: str  # the class or function, for the provenance
    weights: tuple[np.ndarray, ...]
    signature: inspect.Signature
    notes: tuple[str, ...] = ()


def as_function(model: Any) -> JaxModel:
    """Raises InputError for a Linen module without variables."""
    flax = sys.modules.get("flax")
    if flax is not None:
        if _is(model, "flax.nnx", "Module"):
            return _nnx(model)
        if isinstance(model, tuple) and len(model) == 2 and _is(model[0], "flax.linen", "Module"):
            return _linen(*model)
        if _is(model, "flax.linen", "Module"):
            return _bound(model)
    if _is(model, "equinox", "Module"):
        return _equinox(model)
    inner = inspect.unwrap(model)
    return JaxModel(model, getattr(inner, "__qualname__", type(model).__qualname__), _closed_over(inner), _signature(model))


def _is(model: Any, module: str, name: str) -> bool:
    package = sys.modules.get(module)
    return package is not None and isinstance(model, getattr(package, name, ()))


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)])


def _arrays(tree: Any) -> tuple[np.ndarray, ...]:
    leaves = jax.tree.leaves(tree)
    plain = [
        leaf for leaf in leaves if isinstance(leaf, jax.Array | np.ndarray) and not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
    return tuple(np.asarray(leaf) for leaf in plain)


def _closed_over(function: Any) -> tuple[np.ndarray, ...]:
    """The arrays that a function keeps in its closure or as a partial's arguments."""
    cells = [cell.cell_contents for cell in (getattr(function, "__closure__", None) or ()) if _filled(cell)]
    return _arrays([cells, getattr(function, "args", ()), getattr(function, "keywords", {})])


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _nnx(model: Any) -> JaxModel:
    """A copy in evaluation mode, rebuilt inside each trace, so that it may write to its own state there."""
    from flax import nnx

    notes: tuple[str, ...] = ()
    modes = [
        m
        for _, m in nnx.iter_graph(model)
        if getattr(m, "deterministic", True) is False or getattr(m, "use_running_average", True) is False
    ]
    if any(_trains(module) for module in modes):
        notes = ("the model was in training mode: it was exported in evaluation mode",)
    copy = nnx.clone(model)
    copy.eval()
    graph, state = nnx.split(copy)

    def call(*args: Any, **kwargs: Any) -> Any:
        # Copied, so that the variables belong to the trace: recurrent layers count the keys that they draw.
        return nnx.merge(graph, state, copy=True)(*args, **kwargs)

    return JaxModel(call, type(model).__qualname__, _arrays(nnx.state(model, nnx.Not(nnx.RngState))), _signature(model.__call__), notes)


def _trains(module: Any) -> bool:
    """Whether training changes what the module answers: dropout of nothing does not count."""
    return not (hasattr(module, "rate") and not module.rate)


def _linen(module: Any, variables: Any) -> JaxModel:
    def call(*args: Any, **kwargs: Any) -> Any:
        return module.apply(variables, *args, **kwargs)

    return JaxModel(call, type(module).__qualname__, _arrays(variables), _signature(module.__call__))


def _bound(module: Any) -> JaxModel:
    if module.scope is None:
        raise InputError(
            f"{type(module).__name__} is a Flax Linen module without variables: "
            "give the pair (module, variables), or module.bind(variables)"
        )
    return _linen(*module.unbind())


def _equinox(model: Any) -> JaxModel:
    import equinox as eqx

    copy = eqx.nn.inference_mode(model)
    before = [leaf for leaf in jax.tree.leaves(model, is_leaf=lambda each: isinstance(each, bool)) if isinstance(leaf, bool)]
    after = [leaf for leaf in jax.tree.leaves(copy, is_leaf=lambda each: isinstance(each, bool)) if isinstance(leaf, bool)]
    notes = ("the model was in training mode: it was exported in inference mode",) if before != after else ()
    return JaxModel(copy, type(model).__qualname__, _arrays(model), _signature(type(model).__call__.__get__(copy)), notes)
