"""Which node of a graph runs on which provider: on the GPU, or on the CPU with copies between the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxferry.runtime.engine import ort
from onnxferry.runtime.errors import DeviceError


@dataclass(frozen=True)
class Placement:
    """Where one node of the graph runs, as ONNX Runtime assigns it, before it fuses the nodes of a provider."""

    node: str  # its name; "" where it has none
    operator: str  # with its domain, except ONNX's own: "Conv", "com.microsoft::Gelu"
    provider: str  # short: cpu, cuda …

    def __str__(self) -> str:
        return f"{self.node or '(no name)'} ({self.operator})"


class PlacementWarning(UserWarning):
    """Some nodes of a model that was opened on a GPU run on the CPU."""


def placements(session: Any) -> tuple[Placement, ...]:
    """For a session that was opened with ``SessionSettings(record_placement=True)``; subgraphs included.

    Raises DeviceError if this version of ONNX Runtime cannot report it.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        version = ort.onnxruntime().__version__
        raise DeviceError(f"ONNX Runtime {version} cannot tell where nodes run; pip install -U the onnxruntime wheel that is installed")
    found = []
    for group in session.get_provider_graph_assignment_info():
        for node in group.get_nodes():
            operator = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            found.append(Placement(node.name, operator, ort.short_name(group.ep_name)))
    return tuple(found)


def fallback_message(found: Sequence[Placement], name: str) -> str | None:
    """A warning that names the nodes on the CPU; None if all run on the GPU."""
    fallen = [str(each) for each in found if each.provider == "cpu"]
    if not fallen:
        return None
    shown = ", ".join(fallen[:8]) + (f" and {len(fallen) - 8} more" if len(fallen) > 8 else "")
    return f"{len(fallen)} of {len(found)} nodes of {name} run on the CPU, not on the GPU: {shown}; all: `onnxferry inspect --placement`"
