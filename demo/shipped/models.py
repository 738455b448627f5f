"""The shipped models, opened once for everybody, and their held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import streamlit as st

from onnxferry.demo.words.language import marked
from onnxferry.runtime import Model, load
from onnxferry.runtime.artifact.zoo import ZooModel, zoo_model, zoo_names
from onnxferry.runtime.errors import ArtifactError
from onnxferry.runtime.files import UNREADABLE, read_npz

Kind = TypeVar("Kind", bound=Model)


@dataclass(frozen=True, eq=False)
class Examples:
    """Images that the model never learnt from. Empty arrays where the model ships none of a kind."""

    images: np.ndarray  # uint8 (n, height, width, channels)
    labels: np.ndarray  # int64 (n,): the truth, as indices of the model's labels
    predicted: np.ndarray  # int64 (n,): what the model said when it was shipped; of recognisers
    strange: np.ndarray  # uint8 (m, height, width, channels): images of another kind; of autoencoders

    @property
    def mistakes(self) -> np.ndarray:
        """Positions of what the model gets wrong, int64."""
        return np.flatnonzero(self.predicted != self.labels) if len(self.predicted) == len(self.labels) else np.zeros(0, np.int64)

    @property
    def right(self) -> np.ndarray:
        """Positions of the others, int64."""
        return np.setdiff1d(np.arange(len(self.images)), self.mistakes)


def shipped(names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are there, in that order."""
    there = zoo_names()
    return [name for name in names if name in there]


def not_shipped(name: str) -> str:
    """The one line for a model that is not there yet, as Markdown."""
    return marked("model.missing", name=name)


def card(name: str) -> ZooModel:
    """The shipped model, not opened. Raises ArtifactError where its card is unreadable or it is not there."""
    return zoo_model(name)


def opened(name: str, kind: type[Kind]) -> Kind:
    """The shipped model, opened at the first call in this process and then shared: engines serve any number of threads.

    Raises ArtifactError where it is not there or not of that kind, MissingExtraError without an ONNX Runtime.
    """
    return opened_file(path_of(name), kind)


@st.cache_resource(show_spinner=False)
def path_of(name: str) -> Path:
    """Where a shipped model's file is. Raises ArtifactError where it is not there."""
    return zoo_model(name).path


def opened_file(path: Path, kind: type[Kind]) -> Kind:
    """As :func:`opened`, for a file that ships beside a model."""
    return _checked(_open(str(path)), path, kind)


def loaded(path: Path, kind: type[Kind]) -> Kind:
    """A file that does not ship, opened at each call."""
    return _checked(load(path, threads=1), path, kind)


def _checked(model: Model, path: Path, kind: type[Kind]) -> Kind:
    if not isinstance(model, kind):
        raise ArtifactError(f"{path.name} is a {type(model).__name__}, expected a {kind.__name__}; install onnxferry again")
    return model


@st.cache_resource(show_spinner=False)
def _open(path: str) -> Model:
    # One thread: these networks answer in a millisecond or two; two that wait for one another take three times as long on a busy machine.
    return load(path, threads=1)


def examples(name: str) -> Examples:
    """Held-out examples of a shipped model; empty where it has none. Raises ArtifactError for a file that is damaged."""
    return _read_examples(str(zoo_model(name).path.with_name("examples.npz")))


@st.cache_resource(show_spinner=False)
def _read_examples(path: str) -> Examples:
    arrays: dict[str, np.ndarray] = {}
    if Path(path).is_file():
        try:
            arrays = read_npz(Path(path))
        except UNREADABLE as error:
            raise ArtifactError(f"{path} cannot be read ({error}); install onnxferry again") from error
    nothing, no_images = np.zeros(0, np.int64), np.zeros((0, 1, 1, 1), np.uint8)
    images = arrays.get("images", no_images)
    return Examples(
        images=_four_axes(images),
        labels=arrays.get("labels", nothing).astype(np.int64),
        predicted=arrays.get("predicted", nothing).astype(np.int64),
        strange=_four_axes(arrays.get("strange", no_images)),
    )


def _four_axes(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images
