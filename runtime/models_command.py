"""``onnxferry models``: list the shipped models."""

from __future__ import annotations

from typing import Any

from onnxferry.runtime.catalog import ZooModel, zoo_model, zoo_names
from onnxferry.runtime.console import JsonOption, command, human_bytes, new_app, new_table, plain, print_json, print_next, stdout
from onnxferry.runtime.variants import Variant, certified_variants, decoder_path

app = new_app()


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the shipped models, which every verb takes by name, and the certified variants of each.

    ```
    onnxferry models
    onnxferry predict digits three.png
    ```

    With --json: models (name, path, bytes of all its files, card, variants: variant, path, bytes, goal, budget, speed by batch,
    score, data, device, machine, onnxruntime).
    """
    shipped = [zoo_model(name) for name in zoo_names()]
    if as_json:
        print_json({"models": [_json(model) for model in shipped]})
        return
    if not shipped:
        stdout().print("No models are shipped with this version.")
        return
    variants = {model.name: _variants(model) for model in shipped}
    more = ("variants",) if any(variants.values()) else ()
    table = new_table("name", "what it does", "figures", *more, "size", right=("size",))
    for model in shipped:
        figures = model.card.get("figures", {})
        lines = [f"{name}: {_figure(value)}" for name, value in figures.items()] if isinstance(figures, dict) else []
        tags = "\n".join(plain(_name(variant, model)) for variant in variants[model.name])
        about = plain(model.card.get("description", ""))
        columns = [plain(model.name), about, "\n".join(map(plain, lines)), *([tags] if more else []), human_bytes(model.size)]
        table.add_row(*columns)
    stdout().print(table)
    print_next(command("inspect", shipped[0].name), command("check", shipped[0].name))


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


def _figure(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
