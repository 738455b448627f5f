"""Translators: a text in, its translation out.

    model = load("dates")
    model.translate("le 3 mars 2019")                        # "2019-03-03"
    model.translate(["2019年3月3日", "Mar 3, '19"], beam=4)    # a list
    model.explain("3 mars 2019")[0].attention                # what each byte was read from, float32 (bytes + 1, bytes of the text + 1)

The graph reads and writes bytes and contains the whole search. This class adds UTF-8, padding, and batches of texts of like length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from onnxferry.runtime.arguments import kind, whole_number
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import TRANSLATOR
from onnxferry.runtime.tasks.model import Model, not_as_promised, promised
from onnxferry.runtime.tasks.text_generator import text_bytes

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


REQUIRED = {"text": ("uint8", 2)}


OPTIONAL = {"text_length": ("int64", 1), "beam": ("int64", 0), "max_bytes": ("int64", 0), "length_penalty": ("float32", 0)}


_OUTPUTS = {"bytes": ("uint8", 3), "log_probability": ("float32", 2), "attention": ("float32", 4)}


MAX_BEAM = 256
"""Of a search; the graph takes no more."""


MAX_TEXT = 10_000
"""Bytes of a text: attention looks at all of them for each byte that is written."""


MAX_WRITTEN = 10_000
"""Bytes of a translation."""


@dataclass(frozen=True, eq=False)
class Translation:
    """One translation of a text."""

    text: str  # bytes that are not UTF-8 are U+FFFD
    log_probability: float  # of all its bytes and its end, nats
    attention: np.ndarray  # float32 (steps, places): what each of its bytes, and its end, was read from; the last place is the text's end
    finished: bool  # False: cut off at max_bytes

    @property
    def probability(self) -> float:
        """That the model gives exactly this translation, 0 … 1."""
        return float(np.exp(self.log_probability))


class Translator(Model):
    """Translates texts, and shows what each byte was read from.

    ``model.run`` takes the graph's own inputs: see ``onnxferry inspect``.
    """

    noun = TRANSLATOR.noun

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        _check_translator(engine)

    @overload
    def translate(  # type: ignore[overload-overlap]  # a str is a sequence of str too
        self, text: str | bytes, beam: int = 1, max_bytes: int | None = None, *, length_penalty: float = 1.0
    ) -> str: ...
    @overload
    def translate(
        self, text: Sequence[str | bytes], beam: int = 1, max_bytes: int | None = None, *, length_penalty: float = 1.0
    ) -> list[str]: ...
    def translate(
        self, text: str | bytes | Sequence[str | bytes], beam: int = 1, max_bytes: int | None = None, *, length_penalty: float = 1.0
    ) -> str | list[str]:
        """The likeliest translation that is found: a text for a text, a list for a list.

            model.translate("3 mars 2019")              # greedy: the likeliest byte at each step
            model.translate(texts, beam=4)              # the best of four that are followed at once

        ``beam``: 1 … 256. ``max_bytes``: of a translation, by default what the model was trained for. ``length_penalty``: translations are
        compared by their log-probability divided by their length to this power; 0: by the log-probability itself.
        Raises InputError for an empty text, and for arguments out of range.
        """
        alone = isinstance(text, str | bytes)
        if not alone and not isinstance(text, Sequence):
            raise InputError(f"translate takes a text or a list of texts, got {kind(text)}")
        texts = [text] if isinstance(text, str | bytes) else text
        found = self._searched(texts, beam, max_bytes, length_penalty, ["bytes"])
        made = [_decoded(outputs["bytes"][row, 0])[0] for outputs, row in found]
        return made[0] if alone else made

    def explain(self, text: str | bytes, beam: int = 1, max_bytes: int | None = None, *, length_penalty: float = 1.0) -> list[Translation]:
        """The ``beam`` translations that were followed, the best first, with their attention.

            best, *others = model.explain("2 marzo 2019", beam=3)
            best.attention.argmax(axis=1)       # the place in the text, as bytes, that each byte was read from

        Arguments and errors as of :meth:`translate`.
        """
        ((outputs, row),) = self._searched([text], beam, max_bytes, length_penalty, list(_OUTPUTS))
        made = []
        for column, written in enumerate(outputs["bytes"][row]):
            shown, finished = _decoded(written)
            steps = int(np.argmin(written)) + 1 if finished else len(written)
            attention = outputs["attention"][row, column, :steps]
            made.append(Translation(shown, float(outputs["log_probability"][row, column]), attention, finished))
        return made

    def _searched(
        self, texts: Sequence[str | bytes], beam: int, max_bytes: int | None, length_penalty: float, names: list[str]
    ) -> list[tuple[dict[str, np.ndarray], int]]:
        """For each text the outputs of its run, and its row in them."""
        options = search_feeds(beam, max_bytes, length_penalty)
        sources = [_source(text, number if len(texts) > 1 else None) for number, text in enumerate(texts, 1)]
        found: list[tuple[Any, int]] = [({}, 0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda at: len(sources[at]))
        size = max(1, self.good_batch // max(1, beam // 8))
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            outputs = self.engine.run({**_padded([sources[at] for at in chosen]), **options}, names)
            self._check(outputs, len(chosen))
            for row, at in enumerate(chosen):
                found[at] = outputs, row
        return found

    def _check(self, outputs: dict[str, np.ndarray], rows: int) -> None:
        for name in outputs:
            dtype, axes = _OUTPUTS[name]
            promised(self.engine, outputs, name, dtype, (rows, *[None] * (axes - 1)))


def search_feeds(beam: int = 1, max_bytes: int | None = None, length_penalty: float = 1.0) -> dict[str, np.ndarray]:
    """The graph's inputs for how it searches. Raises InputError for a value out of range."""
    if whole_number("beam", beam) > MAX_BEAM:
        raise InputError(f"beam must be 1 … {MAX_BEAM}, got {beam}")
    real = isinstance(length_penalty, int | float | np.integer | np.floating) and not isinstance(length_penalty, bool)
    if not real or not 0 <= length_penalty <= 10:
        raise InputError(f"length_penalty must be a number from 0 (none) to 10, got {length_penalty!r}")
    feeds: dict[str, np.ndarray] = {}  # what is as it is by default is left out: a short text takes less time than checking arrays
    if beam != 1:
        feeds = {"beam": np.array(beam, np.int64), "length_penalty": np.array(length_penalty, np.float32)}
    if max_bytes is not None:
        if whole_number("max_bytes", max_bytes) > MAX_WRITTEN:
            raise InputError(f"max_bytes must be 1 … {MAX_WRITTEN:,}, got {max_bytes}")
        feeds["max_bytes"] = np.array(max_bytes, np.int64)
    return feeds


def _source(text: Any, number: int | None) -> np.ndarray:
    """A text as uint8 (n,). ``number``: of several, for messages."""
    which = "text" if number is None else f"text {number}"
    found = np.frombuffer(text_bytes(which, text), np.uint8)
    if not found.size:
        raise InputError(f"the {which} is empty: give at least one character to translate")
    if found.size > MAX_TEXT:
        raise InputError(f"the {which} has {found.size:,} bytes, at most {MAX_TEXT:,} are read; give it sentence by sentence")
    return found


def _padded(sources: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    if len(sources) == 1:
        return {"text": sources[0][None]}
    text = np.zeros((len(sources), max(len(source) for source in sources)), np.uint8)
    for row, source in zip(text, sources, strict=True):
        row[: len(source)] = source
    return {"text": text, "text_length": np.array([len(source) for source in sources], np.int64)}


def _decoded(written: np.ndarray) -> tuple[str, bool]:
    """uint8 (steps,) as text, and whether it has its end."""
    text, end, _ = written.tobytes().partition(b"\0")
    return text.decode("utf-8", errors="replace"), bool(end)


def _check_translator(engine: Runner) -> None:
    """Raises ArtifactError where the graph is not the translator that its contract says it is."""
    required = {spec.name: spec for spec in engine.inputs}
    optional = {spec.name: spec for spec in engine.optional_inputs}
    outputs = {spec.name: spec for spec in engine.outputs}
    for found, wanted, words in (
        (required, REQUIRED, "an input"),
        (optional, OPTIONAL, "an optional input"),
        (outputs, _OUTPUTS, "an output"),
    ):
        for name, (dtype, axes) in wanted.items():
            if name not in found or found[name].dtype != dtype or len(found[name].shape) != axes:
                raise not_as_promised(engine, Translator.noun, f"{words} {name}, {dtype} with {axes} axes")
    if set(required) != set(REQUIRED):
        raise not_as_promised(engine, Translator.noun, f"no required inputs but {', '.join(REQUIRED)}")
