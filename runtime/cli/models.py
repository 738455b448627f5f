"""``onnxferry models``: list the shipped models, or show one's card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from onnxferry.runtime.artifact.contract import kind_of
from onnxferry.runtime.artifact.metadata import contract_from_metadata
from onnxferry.runtime.artifact.variants import Variant, certified_variants, decoder_path
from onnxferry.runtime.artifact.zoo import ZooModel, zoo_model, zoo_names
from onnxferry.runtime.cli.console import (
    JsonOption,
    command,
    facts_table,
    new_app,
    new_table,
    plain,
    print_json,
    print_next,
    stdout,
    try_command,
)
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.kinds import Kind
from onnxferry.runtime.onnx_file.reader import read_model

app = new_app()


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show the whole card of this model.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the shipped models, which every verb takes by name, or show all about one: figures, data, parity, certified variants.

    ```
    onnxferry models
    onnxferry models digits
    onnxferry predict digits three.png
    ```

    With --json: models (name, path, bytes of all its files, card, variants: variant, path, bytes, goal, budget, speed by batch,
    score, data, device, machine, onnxruntime).
    """
    shipped = [zoo_model(each) for each in ([name] if name else zoo_names())]
    if as_json:
        print_json({"models": [_json(model) for model in shipped]})
    elif not shipped:
        stdout().print("No models are shipped with this version.")
    elif name:
        kind = _kind(shipped[0])
        _print_card(shipped[0], kind)
        print_next(command("inspect", name), command("check", name), *try_command(kind, name))
    else:
        table = new_table("name", "what it does", "verb", "size", "figure", right=("size",))
        kinds = [_kind(model) for model in shipped]
        for model, kind in zip(shipped, kinds, strict=True):
            figures = model.card.get("figures")
            # The first that is not a count: a card begins with the number of images and goes on with its main figure.
            main = next((f"{key} {_words(value)}" for key, value in _items(figures) if isinstance(value, float)), "")
            about = re.split("[:;,]", str(model.card.get("description", "")), maxsplit=1)[0]  # the rest is the card's
            table.add_row(plain(model.name), plain(about), kind.verb, human_bytes(model.size), plain(main))
        stdout().print(table)
        stdout().print("A whole card, with all figures, data and variants: onnxferry models NAME", soft_wrap=True)
        print_next(command("models", shipped[0].name), *try_command(kinds[0], shipped[0].name))


def _print_card(model: ZooModel, kind: Kind) -> None:
    """A whole card: what is not a section comes first, in its order."""
    console = stdout()
    variants = {_name(variant, model): f"{human_bytes(variant.variant_bytes)}, {variant.words()}" for variant in _variants(model)}
    sections = {key: value for key, value in model.card.items() if isinstance(value, Mapping) and value}
    facts = {key: _words(value) for key, value in model.card.items() if not isinstance(value, Mapping)}
    console.print(facts_table({"name": model.name, "kind": kind.name, "size": human_bytes(model.size), **facts}))
    for title, section in {**sections, "variants": variants}.items():
        if section:
            console.print(Text(f"\n{plain(title)}", "bold"))
            console.print(facts_table({key: _words(value) for key, value in section.items()}))


def _kind(model: ZooModel) -> Kind:
    return kind_of(contract_from_metadata(read_model(model.path).metadata))


def _items(value: object) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _variants(model: ZooModel) -> tuple[Variant, ...]:
    decoder = decoder_path(model.path)
    return (*certified_variants(model.path), *(certified_variants(decoder) if decoder.is_file() else ()))


def _name(variant: Variant, model: ZooModel) -> str:
    """``int8``; of an autoencoder's decoder ``decoder.int8``."""
    return variant.path.stem.removeprefix(f"{model.path.stem}.")


def _json(model: ZooModel) -> dict[str, Any]:
    variants = [
        {
            "variant": _name(variant, model),
            "path": str(variant.path),
            "bytes": variant.variant_bytes,
            "goal": variant.goal,
            "budget": variant.budget,
            "speed": variant.speed,
            "score": variant.score,
            "data": variant.data,
            "device": variant.device,
            "machine": variant.machine,
            "onnxruntime": variant.onnxruntime,
        }
        for variant in _variants(model)
    ]
    return {"name": model.name, "path": str(model.path), "bytes": model.size, "card": model.card, "variants": variants}


def _words(value: object) -> str:
    """One line for any JSON value."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} ({_words(each)})" if isinstance(each, Mapping) else f"{key} {_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
