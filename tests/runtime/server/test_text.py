"""Several texts in one batch are each what they would be alone."""

from __future__ import annotations

import asyncio

import pytest

from onnxferry.runtime import load
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.text import TextQueue, TextRequest


@pytest.fixture(scope="module")
def model():
    with load("shakespeare", threads=1, device="cpu") as opened:
        yield opened


def test_texts_of_all_kinds_side_by_side(model) -> None:
    requests = [
        TextRequest("To be", 70, seed=1),
        TextRequest("", 10, seed=2),
        TextRequest("ROMEO:\n" * 30, 50, seed=3),
        TextRequest("x" * 5000, 20, seed=4),  # longer than what one run reads
        TextRequest("To be", 40, temperature=0.5, top_k=5, seed=5),
        TextRequest("First", 60, seed=6, stop=" "),
        TextRequest("深度", 30, temperature=0),
    ]

    async def all_of_them() -> list[str]:
        queue = TextQueue(model, 4)
        made = await asyncio.gather(*(queue.whole(request) for request in requests))
        assert not queue._active
        return [text for text, _ in made]

    alone = [
        model.generate(r.prompt, r.max_bytes, r.temperature, r.top_k, r.top_p, r.seed, stop=r.stop) for r in requests
    ]  # fmt: skip
    assert asyncio.run(all_of_them()) == alone


def test_who_leaves_frees_a_place(model) -> None:
    async def leave() -> int:
        queue = TextQueue(model, 2)
        async for _ in (stream := queue.stream(queue.check(TextRequest("", 5000)))):
            break
        await stream.aclose()
        task = asyncio.create_task(queue.whole(TextRequest("", 5000)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        text, _ = await queue.whole(TextRequest("To be", 10))
        return len(text) + len(queue._active)

    assert asyncio.run(leave()) == 10


def test_an_error_reaches_every_client_of_its_batch_and_the_queue_goes_on(model) -> None:
    class Broken:
        def __init__(self, engine) -> None:
            self.engine, self.broken, self.per_row = engine, True, False

        def run(self, *arguments):
            return self.engine.run(*arguments)

        async def arun(self, *arguments):
            if self.broken:
                raise InputError("broken")
            return await self.engine.arun(*arguments)

    async def check() -> None:
        queue = TextQueue(model, 4)
        queue.engine = broken = Broken(model.engine)
        found = await asyncio.gather(*(queue.whole(TextRequest("", 10, seed=s)) for s in range(3)), return_exceptions=True)
        assert [str(error) for error in found] == ["broken"] * 3
        broken.broken = False
        assert (await queue.whole(TextRequest("", 10)))[0]

    asyncio.run(check())
