"""Text for several clients: they write side by side in one batch, some bytes at a time, and come and go between two runs.

Each text is what ``TextGenerator.generate`` gives for its seed, up to float32's rounding: rows of a run do not see each other.
(The idea: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models", iteration-level scheduling.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.tasks.text_generator import READ_CHUNK, TextGenerator, WrittenText, sampling_feeds, stop_texts, text_bytes

BYTES_AT_ONCE = 24
"""Bytes that a run writes: a client that comes waits for no longer than that."""

MAX_BYTES = 65_536
"""Most bytes that a request may ask for."""


@dataclass(frozen=True)
class TextRequest:
    """What to write; as of :meth:`TextGenerator.generate`."""

    prompt: str = ""
    max_bytes: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: str | Sequence[str] | None = None


@dataclass(eq=False)
class _Writing:
    """One text on its way."""

    prompt: np.ndarray  # uint8, what is not read yet
    left: int  # bytes still to write
    sampling: dict[str, np.ndarray]
    generator: np.random.Generator
    text: WrittenText
    state: np.ndarray
    pieces: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)  # texts, None at the end, or an exception

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for texts that may share a run."""
        return tuple((name, value.tobytes()) for name, value in sorted(self.sampling.items()))


class TextQueue:
    """The texts that one model writes. ``rows``: how many share a run at most."""

    def __init__(self, model: TextGenerator, rows: int) -> None:
        self.engine, self.rows = model.engine, 1 if model.engine.per_row else rows
        nothing: dict[str, np.ndarray] = {"prompt": np.zeros((1, 0), np.uint8), "uniforms": np.zeros((1, 0), np.float32)}
        self._fresh = model.engine.run(nothing, ["state_after"])["state_after"][0]  # the state before any text
        self._active: list[_Writing] = []
        self._task: asyncio.Task[None] | None = None

    def check(self, request: TextRequest) -> _Writing:
        """Raises InputError for a request that makes no sense."""
        wanted = whole_number("max_bytes", request.max_bytes, 1)
        if wanted > MAX_BYTES:
            raise InputError(f"max_bytes must be at most {MAX_BYTES}, got {wanted}")
        seed = whole_number("seed", request.seed, 0)
        return _Writing(
            prompt=np.frombuffer(text_bytes("prompt", request.prompt), np.uint8),
            left=wanted,
            sampling=sampling_feeds(request.temperature, request.top_k, request.top_p),
            generator=np.random.Generator(np.random.PCG64(seed)),
            text=WrittenText(stop_texts(request.stop)),
            state=self._fresh,
        )

    async def stream(self, writing: _Writing) -> AsyncIterator[str]:
        """The text, piece by piece. Leaving the loop, or cancelling, takes the text out of the batch."""
        self._active.append(writing)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())
        try:
            while (piece := await writing.pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            if writing in self._active:
                self._active.remove(writing)

    async def whole(self, request: TextRequest) -> tuple[str, bool]:
        """All of the text, and whether a stop text ended it."""
        writing = self.check(request)
        text = "".join([piece async for piece in self.stream(writing)])
        return text, writing.text.done

    async def _write(self) -> None:
        while self._active:
            group = self._next_group()
            try:
                await self._step(group)
            except Exception as error:  # noqa: BLE001 (the clients' to see, whatever it is)
                for writing in group:
                    self._leave(writing)
                    writing.pieces.put_nowait(error)

    def _next_group(self) -> list[_Writing]:
        """Texts that share the next run: those like the one that has waited longest. They go to the end of the queue."""
        first = self._active[0]
        if len(first.prompt) > READ_CHUNK:  # the beginning of a long prompt is read in runs of its own
            group = [first]
        else:
            alike = (writing for writing in self._active if writing.group == first.group and len(writing.prompt) <= READ_CHUNK)
            group = [writing for writing, _ in zip(alike, range(self.rows), strict=False)]
        self._active = [writing for writing in self._active if writing not in group] + group
        return group

    async def _step(self, group: list[_Writing]) -> None:
        reading = len(group[0].prompt) > READ_CHUNK
        count = 0 if reading else min(BYTES_AT_ONCE, max(writing.left for writing in group))
        parts = [writing.prompt[:READ_CHUNK] for writing in group]
        prompts = np.zeros((len(group), max(len(part) for part in parts)), np.uint8)
        for target, part in zip(prompts, parts, strict=True):
            target[: len(part)] = part
        feeds = {
            **group[0].sampling,
            "prompt": prompts,
            "prompt_length": np.array([len(part) for part in parts], np.int64),
            "uniforms": np.stack([writing.generator.random(count, dtype=np.float32) for writing in group]),
            "state": np.stack([writing.state for writing in group]),
        }
        outputs = await self.engine.arun(feeds, ["bytes", "state_after"])
        for row, writing in enumerate(group):
            writing.prompt = writing.prompt[READ_CHUNK:]
            writing.state = outputs["state_after"][row]
            if count:
                self._written(writing, outputs["bytes"][row, : min(count, writing.left)])

    def _written(self, writing: _Writing, piece: np.ndarray) -> None:
        writing.left -= len(piece)
        text = writing.text.add(piece)
        done = writing.text.done or not writing.left
        if done:
            text += writing.text.end()
        if text:
            writing.pieces.put_nowait(text)
        if done:
            self._leave(writing)
            writing.pieces.put_nowait(None)

    def _leave(self, writing: _Writing) -> None:
        if writing in self._active:
            self._active.remove(writing)
