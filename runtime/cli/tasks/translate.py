"""``onnxferry translate``: translate texts."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

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
    progress_bar,
    read_stdin,
    stderr,
)
from onnxferry.runtime.cli.tasks.generate import STDIN, printable
from onnxferry.runtime.errors import DataError, DataNotFoundError, InputError
from onnxferry.runtime.tasks.loading import load_as
from onnxferry.runtime.tasks.translator import Translator

app = new_app()


LINES_AT_ONCE = 256
"""Of a file, between two updates of the progress bar."""


@app.command()
def translate(
    model: ModelArgument,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to translate; - reads lines from stdin.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Translate the lines of this file (UTF-8).", show_default=False)
    ] = None,
    beam: Annotated[int, typer.Option(help="Translations that are followed at once; 1: greedy search.")] = 1,
    top: Annotated[int, typer.Option(help="How many translations of each text to show, of those of --beam.")] = 1,
    max_bytes: Annotated[
        int | None, typer.Option(help="Of a translation; by default what the model was trained for.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Translate texts. Each translation is one line on stdout, an empty one for an empty line of a file.

    ```
    onnxferry translate dates "le 3 mars 2019" "Mar 3, '19"
    onnxferry translate dates "2 marzo 2019" --beam 4 --top 3
    onnxferry translate model.onnx --data letters.txt > translated.txt
    onnxferry translate model.onnx - < letters.txt
    ```

    With --json:

    ```
    {"model": "dates", "device": "cpu", "beam": 1, "seconds": 0.002,
     "translations": [{"text": "le 3 mars 2019", "translation":
     "2019-03-03", "probability": 0.99, "others": []}]}
    ```
    """
    if top < 1 or top > max(1, beam):
        raise InputError(f"--top must be 1 … {max(1, beam)}, the width of --beam; got {top}")
    given = _given(texts or [], data)
    with load_as(Translator, model, device, threads) as translator:
        begun = time.perf_counter()
        if as_json or top > 1:
            explained = [translator.explain(text, beam, max_bytes) if text else [] for text in given]
            seconds = time.perf_counter() - begun
            if as_json:
                print_json(_document(model, translator, beam, seconds, given, explained, top))
                return
            for text, found in zip(given, explained, strict=True):
                for number, each in enumerate(found[:top]):
                    head = printable(_shown(text)) if number == 0 else ""
                    sys.stdout.write(f"{head}\t{printable(each.text)}\t{each.probability:.4f}\n")
        else:
            with progress_bar("translating", len(given)) as advance:
                for start in range(0, len(given), LINES_AT_ONCE):
                    part = given[start : start + LINES_AT_ONCE]
                    made = iter(translator.translate([text for text in part if text], beam, max_bytes))
                    sys.stdout.writelines(printable(next(made) if text else "") + "\n" for text in part)
                    advance(len(part))
            seconds = time.perf_counter() - begun
    sys.stdout.flush()
    stderr().print(Text(f"{len(given)} {'text' if len(given) == 1 else 'texts'} in {seconds:.3f} s", "dim"))
    if sys.stdout.isatty():
        print_next(command("translate", model, plain(_shown(given[0])), "--beam", 4, "--top", 3), command("inspect", model))


def _given(texts: list[str], data: Path | None) -> list[str | bytes]:
    """The texts to translate: the arguments, or lines. Raises InputError where there are none or both, DataError for a bad file."""
    if texts and data is not None:
        raise InputError("give texts or --data, not both")
    if data is None and texts != [STDIN]:
        if not texts:
            raise InputError('nothing to translate: give a text, --data FILE, or - to read lines from stdin; such as "3 mars 2019"')
        if "" in texts:
            raise InputError("the text is empty: give at least one character to translate")
        # The bytes that were typed, in a locale that does not know them.
        return [os.fsencode(text) if any("\ud800" <= c <= "\udfff" for c in text) else text for text in texts]
    name, content = ("stdin", read_stdin("the text")) if data is None else (data.name, _read(data))
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 (byte {error.start}): convert it, for example with iconv") from error
    if lines and not lines[-1]:
        lines.pop()
    found: list[str | bytes] = [line.rstrip("\r") for line in lines]
    if not any(found):
        raise DataError(f"{name} is empty: there is nothing to translate")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"there is no file {path}; --data takes a file of lines", path) from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; --data takes a file of lines") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _shown(text: str | bytes) -> str:
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def _document(
    model: str, translator: Translator, beam: int, seconds: float, given: list[str | bytes], explained: list[Any], top: int
) -> dict[str, Any]:
    translations = []
    for text, found in zip(given, explained, strict=True):
        others = [{"translation": each.text, "probability": each.probability} for each in found[1:top]]
        best = {"translation": found[0].text, "probability": found[0].probability} if found else {"translation": "", "probability": None}
        translations.append({"text": _shown(text), **best, "others": others})
    return {
        "model": model,
        "device": translator.engine.device,
        "beam": beam,
        "seconds": round(seconds, 6),
        "translations": translations,
    }
