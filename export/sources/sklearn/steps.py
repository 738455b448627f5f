"""A pipeline's steps, by name and from its end."""

from __future__ import annotations

from typing import Any


def words(model: Any) -> str:
    """``StandardScaler + LogisticRegression``."""
    steps = getattr(model, "steps", None)
    if steps:
        return " + ".join(words(step) for _, step in steps)
    return model if isinstance(model, str) else type(model).__name__  # a step may be "passthrough"


def final_step(model: Any) -> Any:
    """The estimator at the end of a pipeline, and of one in it."""
    while getattr(model, "steps", None):
        model = model.steps[-1][1]
    return model
