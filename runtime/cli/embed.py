"""``onnxferry embed``: write a small project that runs a model in another language."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.cli.console import JsonOption, new_app, plain, print_json, print_next, stderr, stdout
from onnxferry.runtime.embed.project import LANGUAGES, write_project

app = new_app()


@app.command()
def embed(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An artifact's file, or the name of a shipped one.", show_default=False)],
    lang: Annotated[str, typer.Option(metavar="LANGUAGE", help=f"One of {', '.join(LANGUAGES)}.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A folder that is made.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Write a small project that verifies a model and runs it, in another language.

    The project holds the model file, code that reads its contract and replays its golden samples first, and an example for what the
    model does. It needs that language's ONNX Runtime, and nothing of onnxferry.

    ```
    onnxferry embed digits --lang web -o digits-web
    onnxferry embed shakespeare --lang javascript -o writer
    onnxferry embed digits --lang cpp -o digits-cpp
    ```

    With --json: folder, files, notes, commands.
    """
    project = write_project(model, lang, out)
    if as_json:
        print_json(
            {
                "folder": str(project.folder),
                "files": [str(file) for file in project.files],
                "notes": list(project.notes),
                "commands": list(project.commands),
            }
        )
        return
    stdout().print(plain(f"{project.folder}: {', '.join(map(str, project.files))}"), soft_wrap=True)
    for text in project.notes:
        stderr().print(plain(f"note: {text}"), soft_wrap=True)
    print_next(f"cd {project.folder}", *project.commands)
