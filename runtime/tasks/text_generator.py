"""Text generators: a prompt in, its continuation out, whole, piece by piece, or as a batch.

    model = load("shakespeare")
    model.generate("To be", max_bytes=200, temperature=0.8, seed=0)
    for piece in model.stream("To be"):
        print(piece, end="", flush=True)
    model.score("To be, or not to be")          # mean nats a byte

The graph reads and writes bytes and contains the whole sampling loop. This class adds UTF-8, the uniform random numbers (PCG64, one
for each byte), stop texts, and passes the state from one run to the next.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.engine.batches import per_row_run
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import TEXT_GENERATOR
from onnxferry.runtime.tasks.model import Model, not_as_promised, promised

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


READ_CHUNK = 4096
"""Bytes of a prompt, or of a text that is scored, in one run. Each has 256 scores, whose memory this bounds."""


WRITE_CHUNK = 1024
"""Bytes written in one run by ``generate``."""


STOP_PLAN = (64, 128, 256, 512, WRITE_CHUNK)
"""Bytes written run by run where a stop text may come: at most about half of them were not needed."""


STREAM_CHUNK = 24
"""Bytes written in one run by ``stream`` by default; the first run writes fewer, so that something shows soon."""


REQUIRED = {"prompt": ("uint8", 2), "uniforms": ("float32", 2)}


OPTIONAL = {
    "prompt_length": ("int64", 1),
    "temperature": ("float32", 0),
    "top_k": ("int64", 0),
    "top_p": ("float32", 0),
    "state": ("float32", 3),
}


_OUTPUTS = {"bytes": "uint8", "log_probabilities": "float32", "next_logits": "float32", "state_after": "float32"}


class TextGenerator(Model):
    """Generates text after a prompt, and scores how likely a text is.

    ``model.run`` takes the graph's own inputs: see ``onnxferry inspect``. A file whose contract says ``rows_alone`` (an int8 one,
    whose activations share one scale over the batch) runs row by row, so that no text depends on its neighbours.
    """

    noun = TEXT_GENERATOR.noun

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        _check_generator(engine)
        self._run = per_row_run(engine)

    def run(self, feeds: Mapping[str, np.ndarray], *, timeout: float | None = None) -> dict[str, np.ndarray]:
        return self._run(feeds) if timeout is None else per_row_run(self.engine, timeout)(feeds)

    def generate(
        self,
        prompt: str | bytes = "",
        max_bytes: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        *,
        stop: str | Sequence[str] | None = None,
    ) -> str:
        """The continuation of ``prompt`` alone, of at most ``max_bytes`` bytes of UTF-8.

            model.generate("ROMEO:", max_bytes=500, stop="\n\n")    # one speech

        ``temperature``: 1 samples from the model's distribution, lower is safer, 0 always takes the likeliest byte. ``top_k``: only
        the k likeliest bytes; ``top_p``: only the likeliest that hold this share. The same arguments give the same text, on one
        machine to the byte. A character that ``max_bytes`` would cut is left out; bytes that are not UTF-8 become U+FFFD.
        ``stop``: one text or several; generation ends before the first of them that is complete.

        Raises InputError for arguments out of range.
        """
        text = WrittenText(stop_texts(stop))
        pieces = self._run_all(self._steps([prompt], max_bytes, temperature, top_k, top_p, seed, STOP_PLAN if stop else [WRITE_CHUNK]))
        return "".join(_shown(pieces, text))

    def generate_batch(
        self,
        prompts: Sequence[str | bytes],
        max_bytes: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        *,
        stop: str | Sequence[str] | None = None,
    ) -> list[str]:
        """The continuations of several prompts, of any lengths, written side by side: row r as by ``generate(…, seed=seed + r)``.

        (A tuned model may write one text and several with different ones of its certified files.)
        """
        if isinstance(prompts, str | bytes):
            raise InputError("prompts must be a list of texts; for a single one use generate()")
        stops = stop_texts(stop)
        if not prompts:
            return []
        texts = [WrittenText(stops) for _ in prompts]
        written: list[list[str]] = [[] for _ in prompts]
        for piece in self._run_all(self._steps(prompts, max_bytes, temperature, top_k, top_p, seed, STOP_PLAN if stop else [WRITE_CHUNK])):
            for text, parts, row in zip(texts, written, piece, strict=True):
                parts.append(text.add(row))
            if all(text.done for text in texts):
                break
        return ["".join((*parts, text.end())) for text, parts in zip(texts, written, strict=True)]

    def stream(
        self,
        prompt: str | bytes = "",
        max_bytes: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        bytes_at_once: int | None = None,
        *,
        stop: str | Sequence[str] | None = None,
    ) -> Iterator[str]:
        """What :meth:`generate` returns, piece by piece, each of whole characters. Arguments are checked at the call.

        ``bytes_at_once``: as many are written between two pieces; None for a few at first and then about 24. What may be the
        beginning of a ``stop`` is held back until it is known.
        """
        text = WrittenText(stop_texts(stop))
        steps = self._steps([prompt], max_bytes, temperature, top_k, top_p, seed, _stream_plan(bytes_at_once))
        return _shown(self._run_all(steps), text)

    def astream(
        self,
        prompt: str | bytes = "",
        max_bytes: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        bytes_at_once: int | None = None,
        *,
        stop: str | Sequence[str] | None = None,
    ) -> AsyncIterator[str]:
        """:meth:`stream` for coroutines: the event loop goes on while the model writes.

            async for piece in model.astream("To be"):
                await response.write(piece)

        Cancelling the task that iterates stops the model before its next operator; leaving the loop stops it between two pieces.
        """
        text = WrittenText(stop_texts(stop))
        steps = self._steps([prompt], max_bytes, temperature, top_k, top_p, seed, _stream_plan(bytes_at_once))
        return self._astream(steps, text)

    def score(self, text: str | bytes) -> float:
        """Mean negative log-likelihood of a text's bytes, each given all before it (the first: the start of a line): nats a byte.

        Raises InputError for an empty text, which has no score.
        """
        data = np.frombuffer(text_bytes("text", text), np.uint8)
        if not data.size:
            raise InputError("an empty text has no score: give at least one byte")
        total, feeds = 0.0, {"uniforms": np.zeros((1, 0), np.float32)}
        for start in range(0, data.size, READ_CHUNK):
            part = data[None, start : start + READ_CHUNK]
            outputs = self._run({**feeds, "prompt": part}, ["log_probabilities", "state_after"])
            total -= float(promised(self.engine, outputs, "log_probabilities", "float32", part.shape).sum(dtype=np.float64))
            feeds["state"] = outputs["state_after"]
        return total / data.size

    def _steps(
        self,
        prompts: Sequence[str | bytes],
        max_bytes: int,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        seed: int,
        plan: Sequence[int],
    ) -> _Steps:
        """Checks everything now; then the runs that write, as many bytes in each as ``plan`` says, whose last number is repeated."""
        read = [np.frombuffer(text_bytes("prompt", prompt), np.uint8) for prompt in prompts]
        wanted = whole_number("max_bytes", max_bytes, 1)
        options = sampling_feeds(temperature, top_k, top_p)
        first = whole_number("seed", seed, 0)
        generators = [np.random.Generator(np.random.PCG64(first + row)) for row in range(len(prompts))]
        return _steps(read, wanted, options, generators, plan)

    def _run_all(self, steps: _Steps) -> Iterator[np.ndarray]:
        """Runs the steps; yields what each writes, uint8 (batch, n)."""
        outputs: dict[str, np.ndarray] | None = None
        while (step := _next(steps, outputs)) is not None:
            outputs = self._run(*step)
            if "bytes" in outputs:
                yield self._written(step, outputs)

    def _written(self, step: tuple[dict[str, np.ndarray], list[str]], outputs: dict[str, np.ndarray]) -> np.ndarray:
        return promised(self.engine, outputs, "bytes", "uint8", step[0]["uniforms"].shape)

    async def _astream(self, steps: _Steps, text: WrittenText) -> AsyncIterator[str]:
        outputs: dict[str, np.ndarray] | None = None
        while not text.done and (step := _next(steps, outputs)) is not None:
            outputs = await self.engine.arun(*step)
            if "bytes" in outputs and (shown := text.add(self._written(step, outputs)[0])):
                yield shown
        if rest := text.end():
            yield rest


_Steps: TypeAlias = "Generator[tuple[dict[str, np.ndarray], list[str]], dict[str, np.ndarray], None]"
"""Gives the inputs of each run and the outputs that are wanted, and is sent what came out."""


def _next(steps: _Steps, outputs: dict[str, np.ndarray] | None) -> tuple[dict[str, np.ndarray], list[str]] | None:
    try:
        return next(steps) if outputs is None else steps.send(outputs)
    except StopIteration:
        return None


def _steps(
    prompts: list[np.ndarray], wanted: int, options: dict[str, np.ndarray], generators: list[np.random.Generator], plan: Sequence[int]
) -> _Steps:
    feeds = {**options}
    longest = max(len(prompt) for prompt in prompts)
    nothing = np.zeros((len(prompts), 0), np.float32)
    start = 0
    # All of a long prompt but its last stretch is read in runs that write nothing.
    while longest - start > READ_CHUNK:
        feeds.update(_stretch(prompts, start), uniforms=nothing)
        outputs = yield feeds, ["state_after"]
        feeds["state"] = outputs["state_after"]
        start += READ_CHUNK
    feeds.update(_stretch(prompts, start))
    done = turn = 0
    while done < wanted:
        count = min(wanted - done, plan[min(turn, len(plan) - 1)])
        feeds["uniforms"] = np.stack([generator.random(count, dtype=np.float32) for generator in generators])
        outputs = yield feeds, ["bytes", "state_after"]
        feeds.update(_stretch(prompts, longest), state=outputs["state_after"])
        done, turn = done + count, turn + 1


class WrittenText:
    """One text that is being written: whole characters, up to the first of ``stops`` that is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        # Holds back the bytes of a character until it is whole; what is held back at the end is never shown.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = stops
        self._held = ""  # may be the beginning of a stop
        self.done = False

    def add(self, piece: np.ndarray) -> str:
        """``piece``: uint8 (n,). Returns the text that is now certain."""
        if self.done:
            return ""
        text = self._held + self._decoder.decode(piece.tobytes())
        # The first that is complete, and of those that end together the longest: so it does not depend on how the text is cut.
        found = min(((start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0), default=None)
        if found is not None:
            self.done, self._held = True, ""
            return text[: found[1]]
        certain = len(text) - self._beginning(text)
        self._held = text[certain:]
        return text[:certain]

    def end(self) -> str:
        """The rest, when nothing more is written."""
        rest, self._held = self._held, ""
        return rest

    def _beginning(self, text: str) -> int:
        """How many characters at the end of ``text`` a stop may begin with."""
        longest = max(map(len, self._stops), default=1) - 1
        return next((n for n in range(min(longest, len(text)), 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)


def _shown(pieces: Iterator[np.ndarray], text: WrittenText) -> Iterator[str]:
    """The text of the first row, piece by piece."""
    for piece in pieces:
        if shown := text.add(piece[0]):
            yield shown
        if text.done:
            return
    if rest := text.end():
        yield rest


def stop_texts(stop: object) -> tuple[str, ...]:
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Sequence) else (stop,)
    for each in stops:
        if not isinstance(each, str) or not each:
            raise InputError(f"stop must be a text or a list of texts, none of them empty, got {stop!r}")
    return stops


def _stream_plan(bytes_at_once: int | None) -> list[int]:
    return [STREAM_CHUNK // 3, STREAM_CHUNK] if bytes_at_once is None else [whole_number("bytes_at_once", bytes_at_once, 1)]


def sampling_feeds(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> dict[str, np.ndarray]:
    """The graph's inputs for how a byte is chosen. Raises InputError for a value out of range."""
    # As float32, which the graph has: a share that becomes 0 there would leave no byte to choose.
    if not _is_real(temperature) or not (_is_finite32(temperature) and temperature >= 0):
        raise InputError(f"temperature must be a finite number >= 0 (0: always the likeliest byte), got {temperature!r}")
    feeds = {"temperature": np.array(temperature, np.float32)}
    if top_k is not None:
        feeds["top_k"] = np.array(min(whole_number("top_k", top_k, 1), 256), np.int64)
    if top_p is not None:
        if not _is_real(top_p) or not 0 < top_p <= 1 or np.float32(top_p) == 0:
            raise InputError(f"top_p must be above 0 and at most 1, got {top_p!r}")
        feeds["top_p"] = np.array(top_p, np.float32)
    return feeds


def _is_finite32(value: float) -> bool:
    return abs(value) <= float(np.finfo(np.float32).max)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _stretch(prompts: list[np.ndarray], start: int) -> dict[str, np.ndarray]:
    """Bytes ``start`` to ``start + READ_CHUNK`` of every prompt, padded, with their lengths."""
    parts = [prompt[start : start + READ_CHUNK] for prompt in prompts]
    padded = np.zeros((len(parts), max(len(part) for part in parts)), np.uint8)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return {"prompt": padded, "prompt_length": np.array([len(part) for part in parts], np.int64)}


def text_bytes(name: str, text: object) -> bytes:
    if isinstance(text, str):
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the {name} holds half a character (a lone surrogate) at {error.start}; give whole ones, or bytes") from error
    if isinstance(text, bytes | bytearray | memoryview):
        return bytes(text)
    several = "; for several texts use generate_batch()" if name == "prompt" and isinstance(text, list | tuple) else ""
    raise InputError(f"the {name} must be a str or bytes, got {type(text).__name__}{several}")


def _check_generator(engine: Runner) -> None:
    """Raises ArtifactError where the graph is not the text generator that its contract says it is."""
    required = {spec.name: spec for spec in engine.inputs}
    optional = {spec.name: spec for spec in engine.optional_inputs}
    outputs = {spec.name: spec for spec in engine.outputs}
    for found, wanted, words in ((required, REQUIRED, "an input"), (optional, OPTIONAL, "an optional input")):
        for name, (dtype, rank) in wanted.items():
            if name not in found or found[name].dtype != dtype or len(found[name].shape) != rank:
                raise not_as_promised(engine, TextGenerator.noun, f"{words} {name}, {dtype} with {rank} axes")
    if set(required) != set(REQUIRED):
        raise not_as_promised(engine, TextGenerator.noun, f"no required inputs but {', '.join(REQUIRED)}")
    for name, dtype in _OUTPUTS.items():
        if name not in outputs or outputs[name].dtype != dtype:
            raise not_as_promised(engine, TextGenerator.noun, f"an output {name}, {dtype}")
