"""``onnxferry models``: list the shipped models."""

from __future__ import annotations

from onnxferry.runtime.catalog import zoo_model, zoo_names
from onnxferry.runtime.console import JsonOption, command, human_bytes, new_app, new_table, plain, print_json, print_next, stdout

app = new_app()


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the shipped models, which every verb takes by name.

    ```
    onnxferry models
    onnxferry predict digits three.png
    ```

    With --json: models (name, path, bytes, card).
    """
    shipped = [zoo_model(name) for name in zoo_names()]
    if as_json:
        print_json({"models": [{"name": m.name, "path": str(m.path), "bytes": m.size, "card": m.card} for m in shipped]})
        return
    if not shipped:
        stdout().print("No models are shipped with this version.")
        return
    table = new_table("name", "what it does", "figures", "size", right=("size",))
    for model in shipped:
        figures = model.card.get("figures", {})
        lines = [f"{name}: {_figure(value)}" for name, value in figures.items()] if isinstance(figures, dict) else []
        table.add_row(plain(model.name), plain(model.card.get("description", "")), "\n".join(map(plain, lines)), human_bytes(model.size))
    stdout().print(table)
    print_next(command("inspect", shipped[0].name), command("check", shipped[0].name))


def _figure(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
