"""How a PyTorch model is run for its answers: in evaluation mode, without TF32, and without torch's own warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch


@contextmanager
def evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and every sub-module's own mode back after."""
    modes = [(m, m.training) for m in module.modules()]
    root = module.training
    try:
        if root:
            module.eval()  # not the attribute alone: some models merge weights when eval() is called
        for m, _ in modes:
            m.training = False
        yield
    finally:
        if root:
            module.train()
        for m, training in modes:
            m.training = training


@contextmanager
def buffers_kept(module: Any) -> Iterator[None]:
    """Every buffer's values back after, whatever ``forward()`` wrote into them inside (a counter, a cache)."""
    modules = list(module.modules()) if isinstance(module, torch.nn.Module) else []
    held = [
        (owner, name, buffer, buffer.detach().clone())
        for owner in modules
        for name, buffer in owner._buffers.items()
        if buffer is not None and not torch.nn.parameter.is_lazy(buffer)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, values in held:
                owner._buffers[name] = buffer
                if buffer.shape == values.shape and not torch.equal(buffer, values):
                    buffer.copy_(values)


@contextmanager
def exact_cuda() -> Iterator[None]:
    """TF32 off: it would put errors of 1e-3 into the source and blame the file for them."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


@contextmanager
def without_onednn() -> Iterator[None]:
    """PyTorch's own kernels only. Not ``torch.backends.mkldnn.flags``, which warns of GPUs."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def no_warnings_of_torch() -> Iterator[None]:
    """What torch's layers warn of in their own code (a prototype inside) stays off the screen; what the model's own code warns of does not.

    The filters are left alone: where they change, Python shows again what it showed before.
    """
    home, show = Path(torch.__file__).parent, warnings.showwarning

    def shown(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
        if home not in Path(filename).parents:
            show(message, category, filename, *rest, **more)

    with mock.patch.object(warnings, "showwarning", shown):
        yield
