"""What Lightning Fabric prints of several processes: how it starts them, and which of PyTorch's functions it should not call any more."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Fabric's log has warnings and errors only; from now on, a deprecation that only Fabric's authors can end is not shown."""
    # Fabric gathers a metric's values of all processes with it, several times an epoch (lightning_fabric 2.6, PyTorch 2.13).
    warnings.filterwarnings("ignore", message="torch.distributed.nn.functional.all_gather is deprecated")
    log = logging.getLogger("lightning_fabric")
    before = log.level
    log.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(before)
