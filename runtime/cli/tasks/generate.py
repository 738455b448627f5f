"""``onnxferry generate``: continue a text."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Annotated

import typer
from rich.text import Text

from onnxferry.runtime.cli.console import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    command,
    new_app,
    plain,
    print_json,
    print_next,
    read_stdin,
    stderr,
    stdout,
)
from onnxferry.runtime.tasks.loading import load_as
from onnxferry.runtime.tasks.text_generator import WRITE_CHUNK, TextGenerator

app = new_app()


STDIN = "-"


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from stdin.", show_default=False)] = "",
    max_bytes: Annotated[int, typer.Option(help="How many bytes to generate at most.")] = 200,
    temperature: Annotated[
        float, typer.Option(help="1 samples from the model's distribution; lower is safer; 0 takes the likeliest byte.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Only the K likeliest bytes.", show_default=False)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Only the likeliest bytes that together have this probability.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End before this text. Repeat for more.", show_default=False)
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it is generated.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text after a prompt. The continuation goes to stdout; a terminal also shows the prompt.

    ```
    onnxferry generate shakespeare "To be" --stream
    onnxferry generate shakespeare --temperature 0.5 --seed 7 --max-bytes 1000
    onnxferry generate shakespeare "ROMEO:" --max-bytes 1000 --stop JULIET --stop TYBALT
    onnxferry generate model.onnx - < letter.txt
    ```

    With --json:

    ```
    {"model": "shakespeare", "device": "cpu", "prompt": "To be",
     "text": ", or not ...", "seed": 0, "seconds": 0.02,
     "bytes_per_second": 10250.1}
    ```
    """
    given: str | bytes = read_stdin("the prompt") if prompt == STDIN else prompt
    if isinstance(given, str) and any("\ud800" <= c <= "\udfff" for c in given):
        given = os.fsencode(given)  # the bytes that were typed, in a locale that does not know them
    with load_as(TextGenerator, model, device, threads) as generator:
        begun = time.perf_counter()
        at_once = None if stream or stop else WRITE_CHUNK
        pieces = generator.stream(given, max_bytes, temperature, top_k, top_p, seed, at_once, stop=stop)
        shown = "" if as_json or not sys.stdout.isatty() else given if isinstance(given, str) else given.decode("utf-8", "replace")
        if shown:
            stdout().print(Text(printable(shown), "bold"), end="", soft_wrap=True)
        written = []
        for piece in pieces:
            written.append(piece)
            if not as_json:
                sys.stdout.write(printable(piece))
                if stream:
                    sys.stdout.flush()
        seconds = time.perf_counter() - begun
        text = "".join(written)
        count = len(text.encode()) if stop else max_bytes
        rate = count / max(seconds, 1e-9)
        if as_json:
            print_json(
                {
                    "model": model,
                    "device": generator.engine.device,
                    "prompt": given if isinstance(given, str) else given.decode("utf-8", "replace"),
                    "text": text,
                    "seed": seed,
                    "seconds": round(seconds, 6),
                    "bytes_per_second": round(rate, 1),
                }
            )
            return
        sys.stdout.write("\n")
        sys.stdout.flush()
        stderr().print(Text(f"{count} bytes in {seconds:.3f} s, {rate:,.0f} bytes a second", "dim"))
        if sys.stdout.isatty():
            print_next(command("generate", model, plain(shown) or "To be", "--seed", seed + 1), command("inspect", model))


def printable(text: str) -> str:
    """A model's text is untrusted: line ends and tabs stay, everything else that a terminal would act on is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    safe = re.sub(r"[^\n\t]+", lambda run: plain(run[0]), text)
    return safe.encode(encoding, "replace").decode(encoding)
