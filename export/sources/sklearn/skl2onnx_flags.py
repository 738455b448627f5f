"""A correction of skl2onnx for newer versions of onnx."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from skl2onnx.common import _container


@contextmanager
def plain_flags() -> Iterator[None]:
    """skl2onnx 1.20 hands numpy's flags to onnx for whole numbers, which newer ones of onnx refuse (histogram gradient boosting)."""
    make = getattr(_container, "make_node", None)
    if make is None:
        yield
        return

    def make_node(*arguments: Any, **attributes: Any) -> Any:
        plain = {
            name: [int(each) if isinstance(each, np.bool_ | bool) else each for each in value] if isinstance(value, list) else value
            for name, value in attributes.items()
        }
        return make(*arguments, **plain)

    _container.make_node = make_node
    try:
        yield
    finally:
        _container.make_node = make
