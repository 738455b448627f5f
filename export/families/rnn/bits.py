"""Weights rounded before export."""

from __future__ import annotations

import copy
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from onnxferry.export.graphs.weight_storage import row_rounded
from onnxferry.runtime.errors import InputError

N = TypeVar("N", bound=nn.Module)

BITS = (8, 16, 32)


def rounded(network: N, bits: int | None) -> N:
    """The network with its weights as ``bits`` hold them: a copy, or itself for 32 and None.

    8: matrices in 8 bits with a scale a row, biases as they are; 16: all in half precision. Raises InputError for other
    numbers, and for weights that half precision cannot hold (beyond 65,504).
    """
    if bits is not None and bits not in BITS:
        raise InputError(f"weights cannot be stored in {bits} bits; expected 8, 16 or 32")
    if bits is None or bits == 32:
        return network
    made = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            value = parameter.detach().cpu().numpy()
            if bits == 16:
                if np.abs(value).max() > np.finfo(np.float16).max:
                    raise InputError(f"the weight {name!r} holds numbers beyond half precision's range (65,504); take --bits 8 or 32")
                parameter.copy_(parameter.half().float())
            elif value.ndim == 2:
                parameter.copy_(torch.from_numpy(row_rounded(value).value()))
    return made
