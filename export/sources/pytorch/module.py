"""PyTorch models as a source: any ``nn.Module``, or a program that ``torch.export`` made.

Inputs keep ``forward()``'s names and order, also where they are nested (``state`` = (h, c) becomes ``state_0``,
``state_1``); outputs keep their flattened order. Numbers, flags and None among the arguments are fixed in the graph.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from onnxferry.export.source import IN_TRAINING_MODE, NUDGE, Feeds, InputSpec, Noise, Strategy, check_axes, unique
from onnxferry.export.sources.pytorch.call import (
    NUMBERS,
    CallPlan,
    _array,
    _numpy_dtype,
    path_name,
    register_dataclasses,
    tensors_in,
)
from onnxferry.export.sources.pytorch.modes import evaluation_mode, exact_cuda, no_warnings_of_torch, without_onednn
from onnxferry.runtime.errors import ExportError, InputError, first_line

# Beyond this many parameters a second copy in float64 costs more memory than the extra evidence is worth.
FLOAT64_PARAMETER_LIMIT = 200_000_000


class TorchSource:
    """A ``torch.nn.Module`` with example inputs. Use :func:`evaluation_mode` around export and runs."""

    def __init__(
        self,
        module: torch.nn.Module,
        example_inputs: Any,
        *,
        dynamic_shapes: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise InputError(
                "expected a torch.nn.Module, a torch.export program, a Keras model or a fitted scikit-learn estimator, "
                f"got {type(module).__name__}"
            )
        module = unwrapped(module)
        call = CallPlan(module, example_inputs)
        self._start(module, call, call.flat_axes(dynamic_shapes), output_names)
        if any(m.training for m in module.modules()):
            self.notes.append(IN_TRAINING_MODE)

    def _start(self, module: torch.nn.Module, call: CallPlan, axes: Sequence[dict[int, str]], output_names: Sequence[str] | None) -> None:
        self.module = module
        self.call = call
        self.axes = axes
        self.notes: list[str] = [
            f"the argument {name} = {value!r} is no tensor: it is fixed in the graph" for name, value in call.fixed.items()
        ]
        self.inputs = tuple(_input_spec(n, t, a) for n, t, a in zip(self.call.names, self.call.tensors, self.axes, strict=True))
        check_axes(self.inputs)
        self.examples: Feeds = {n: _array(t, n) for n, t in zip(self.call.names, self.call.tensors, strict=True)}
        self.device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        self._float64: torch.nn.Module | None = None
        self._float64_failed = False
        self._rounded_failed = False
        self._renamed = tuple(output_names) if output_names is not None else None
        self.output_names = self._named_outputs(self._first_answer())

    def _first_answer(self) -> Any:
        try:
            return self._answer(self.module, self.examples)
        except Exception as error:
            raise ExportError(
                f"the model itself fails on the example inputs ({type(error).__name__}: {first_line(error, repr(error))}); "
                f"{self._other_inputs()}"
            ) from error

    def _other_inputs(self) -> str:
        """What to do where the model does not take the inputs: of weights that are no float32, say so."""
        dtypes = {str(p.dtype).removeprefix("torch.") for p in self.module.parameters() if p.is_floating_point()} - {"float32"}
        if "bfloat16" in dtypes:
            return "its weights are bfloat16, which ONNX Runtime does not run on every machine: export model.float()"
        if dtypes and not dtypes & {spec.dtype for spec in self.inputs}:
            return f"its weights are {min(dtypes)}: give inputs of that dtype, or export model.float()"
        return "give inputs that forward() accepts"

    def _named_outputs(self, answer: Any) -> tuple[str, ...]:
        register_dataclasses(answer)
        found = [(path_name(path), leaf) for path, leaf in pytree.tree_flatten_with_path(answer)[0] if leaf is not None]
        for name, leaf in found:
            if isinstance(leaf, NUMBERS):
                continue
            if not isinstance(leaf, torch.Tensor):
                where = f"output {name!r}" if name else "the output"
                raise ExportError(
                    f"{where} is a {type(leaf).__name__}, and a graph can only give tensors: "
                    "return a tensor, or tensors in a tuple, list or dict"
                )
            _numpy_dtype(leaf.dtype, f"output {name!r}" if name else "the output")
        if not found:
            raise ExportError("the model returns no tensor, so there is nothing to export")
        names = [name or "output" for name, _ in found]
        names = [f"output_{name}" if name[0].isdigit() else name for name in names]
        if self._renamed is not None:
            if len(self._renamed) != len(names):
                raise InputError(f"output_names gives {len(self._renamed)} names, the model has {len(names)} outputs ({', '.join(names)})")
            names = list(self._renamed)
            if len(set(names)) < len(names):
                raise InputError(f"output_names must be different from one another, got {', '.join(names)}")
        taken = set(self.call.names)
        return unique(f"{name}_out" if name in taken else name for name in names)

    def _answer(self, module: torch.nn.Module, feeds: Feeds, dtype: torch.dtype | None = None) -> Any:
        tensors = []
        for name in self.call.names:
            # A copy: a model may write into its input.
            tensor = torch.from_numpy(np.array(feeds[name], copy=True)).to(self.device)
            tensors.append(tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor)
        args, kwargs = self.call.arguments(tensors)
        # Not inference_mode: what a module caches in it cannot be used by a later export.
        with torch.no_grad(), self._mode(module), exact_cuda(), no_warnings_of_torch():
            return module(*args, **kwargs)

    def _mode(self, module: torch.nn.Module) -> AbstractContextManager[None]:
        return evaluation_mode(module)

    def capture_tensors(self) -> tuple[torch.Tensor, ...]:
        """The example as it is captured: an open axis of size 1 is doubled where the model takes that, for code that looks at sizes."""
        ones = {
            axis for spec in self.inputs for axis, size in zip(spec.shape, spec.traced, strict=True) if isinstance(axis, str) and size == 1
        }
        if not ones:
            return self.call.tensors
        larger = []
        for spec, tensor in zip(self.inputs, self.call.tensors, strict=True):
            for place, axis in enumerate(spec.shape):
                tensor = torch.cat([tensor, tensor], place) if axis in ones else tensor
            larger.append(tensor)
        try:
            self._answer(self.module, {name: tensor.detach().cpu().numpy() for name, tensor in zip(self.call.names, larger, strict=True)})
        except Exception:  # noqa: BLE001 - a model of one row only
            return self.call.tensors
        return tuple(larger)

    def capturing(self) -> AbstractContextManager[None]:
        """What must hold while :func:`torch.export.export` captures the module."""
        return nullcontext()

    def _run(self, module: torch.nn.Module, feeds: Feeds, dtype: torch.dtype | None = None) -> dict[str, np.ndarray]:
        leaves = tensors_in(self._answer(module, feeds, dtype))
        if len(leaves) != len(self.output_names):
            raise ExportError(
                f"the model gave {len(leaves)} outputs for one input and {len(self.output_names)} for another: "
                "a graph has the same outputs always"
            )
        return {name: _array(leaf, name) for name, leaf in zip(self.output_names, leaves, strict=True)}

    def mark_begins(self, names: Collection[str]) -> None:
        """These inputs tell where bags begin: made-up ones are such places, too."""
        self.inputs = tuple(dataclasses.replace(spec, begins=spec.name in names) for spec in self.inputs)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._run(self.module, feeds)

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        if self._float64_failed:
            return None
        try:
            if self._float64 is None:
                if sum(p.numel() for p in self.module.parameters()) > FLOAT64_PARAMETER_LIMIT:
                    self._float64_failed = True
                    return None
                self._float64 = copy.deepcopy(self.module).double()
            return self._run(self._float64, feeds, torch.float64)
        except Exception:  # noqa: BLE001 - many honest models cannot run in float64; then there is no such evidence
            self._float64_failed = True
            return None

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        try:
            module = copy.deepcopy(self.module)
        except Exception:  # noqa: BLE001 - a module that cannot be copied cannot be nudged
            return None
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    parameter.mul_(1 + NUDGE * noise)
        rng = np.random.default_rng(seed)
        moved = {}
        for name, array in feeds.items():
            if array.dtype.kind == "f":
                scale = float(np.abs(array[np.isfinite(array)]).max(initial=0.0)) or 1.0
                moved[name] = (array + NUDGE * scale * rng.standard_normal(array.shape)).astype(array.dtype)
            else:
                moved[name] = array
        return self._run(module, moved)

    def run_rounded(self, feeds: Feeds, seed: int, noise: Noise) -> dict[str, np.ndarray] | None:
        if self._rounded_failed:
            return None
        from onnxferry.export.sources.pytorch.rounding import RoundingNoise

        inner = noise.kernels.get("rnn_tanh")
        if inner is not None and any(isinstance(part, torch.nn.RNN) for part in self.module.modules()):
            # Step by step a recurrent layer is a product and a tanh, which the file has inside of one operator.
            noise = dataclasses.replace(noise, kernels={**noise.kernels, "tanh": inner})
        try:
            # Without oneDNN, a recurrent layer is run step by step: each of its steps rounds.
            with RoundingNoise(seed, noise), without_onednn():
                return self._run(self.module, feeds)
        except Exception:  # noqa: BLE001 - a compiled or quantized model cannot be run so; then there is no such evidence
            self._rounded_failed = True
            return None

    def strategies(self, opset: int) -> Sequence[Strategy]:
        from onnxferry.export.sources.pytorch.capture import module_strategies, script_strategies

        if isinstance(self.module, torch.jit.ScriptModule):
            return script_strategies(self, opset)
        return module_strategies(self, opset)

    def provenance(self) -> dict[str, Any]:
        return {
            "framework": "pytorch",
            "versions": framework_versions(),
            "model": type(self.module).__qualname__,
            "weights_sha256": weights_sha256(self.module.state_dict()),
        }


WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The model that ``torch.compile``, DataParallel, DistributedDataParallel or AveragedModel was given: it computes the same, and its
    ``forward()`` has the inputs' names.
    """
    while True:
        inner = module.module if isinstance(module, WRAPPERS) else getattr(module, "_orig_mod", None)
        if not isinstance(inner, torch.nn.Module):
            return module
        module = inner


def framework_versions() -> dict[str, str]:
    import onnx
    import onnxscript

    return {
        "torch": str(torch.__version__),
        "onnx": str(onnx.__version__),
        "onnxscript": str(onnxscript.__version__),
        "numpy": np.__version__,
    }


def weights_sha256(state: Mapping[str, Any]) -> str:
    """SHA-256 over all tensors of a state dict in order of their names: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if not isinstance(value, torch.Tensor):
            continue
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _input_spec(name: str, tensor: torch.Tensor, axes: Mapping[int, str]) -> InputSpec:
    shape = tuple(int(n) for n in tensor.shape)
    return InputSpec(name, _numpy_dtype(tensor.dtype, f"input {name!r}"), tuple(axes.get(i, n) for i, n in enumerate(shape)), shape)
