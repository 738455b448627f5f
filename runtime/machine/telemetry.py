"""Usage data that libraries would send: switched off before they are imported."""

from __future__ import annotations

import os

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
"""The environment variable that ONNX Runtime reads as it is imported; its own ``disable_telemetry_events()`` comes too late."""


def disable_telemetry() -> None:
    """ONNX Runtime 1.29 and newer collects usage data and uploads it, unless this stands in the environment before it is imported.

    What the user has set is kept, and child processes inherit it.
    """
    os.environ.setdefault(TELEMETRY_OFF, "1")
