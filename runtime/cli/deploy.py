"""``onnxferry deploy``: hand models over to other servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.cli.console import JsonOption, new_app, plain, print_json, print_next, stdout
from onnxferry.runtime.server.options import model_source

app = new_app(no_args_is_help=True)

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL …", help="Files, names of shipped models, NAME=FILE or NAME:VERSION=FILE.", show_default=False)
]


@app.callback()
def _deploy() -> None:
    """Hand models over to Triton Inference Server, KServe or MLServer. (`onnxferry serve` is a server of its own.)

    Examples:

      onnxferry deploy triton repository digits

      onnxferry deploy kserve service.yaml digits --image registry/onnxferry

      onnxferry deploy mlserver models digits
    """


@app.command("triton")
def triton(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The model repository.")], models: Models, as_json: JsonOption = False
) -> None:
    """Write a model repository for Triton Inference Server, with batching where requests can be merged.

    ```
    onnxferry deploy triton repository digits my-model=model.onnx
    ```

    With --json: written: the models' folders.
    """
    from onnxferry.runtime.server.deploy.triton import write_triton

    written = [write_triton(folder, model_source(text)) for text in models]
    _report(written, as_json, f"tritonserver --model-repository={folder}")


@app.command("mlserver")
def mlserver(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of models.")], models: Models, as_json: JsonOption = False
) -> None:
    """Write models with their settings for MLServer, which runs them by a class of this package.

    ```
    onnxferry deploy mlserver models digits
    ```

    With --json: written: the models' folders.
    """
    from onnxferry.runtime.server.deploy.mlserver import write_mlserver

    written = [write_mlserver(folder, model_source(text)) for text in models]
    _report(written, as_json, f"mlserver start {folder}")


@app.command("kserve")
def kserve(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The manifest to write.")],
    models: Models,
    name: Annotated[str, typer.Option(help="The service's name; the first model's if not given.", show_default=False)] = "",
    image: Annotated[str, typer.Option(help="An image of docs/deploy/Dockerfile that holds the models.")] = "onnxferry",
    storage: Annotated[
        str, typer.Option(metavar="URI", help="Serve the Triton repository there (s3://…, pvc://…) by Triton instead.", show_default=False)
    ] = "",
    cpu: Annotated[int, typer.Option(min=1, help="CPUs of each replica.")] = 1,
    memory: Annotated[str, typer.Option(help="Memory of each replica.")] = "1Gi",
    as_json: JsonOption = False,
) -> None:
    """Write a KServe InferenceService that runs this package's server, or Triton.

    ```
    onnxferry deploy kserve service.yaml digits --image registry/onnxferry
    onnxferry deploy kserve service.yaml digits --storage s3://bucket/repository
    ```

    With --json: written: the manifest.
    """
    from onnxferry.runtime.server.deploy.kserve import write_kserve

    sources = [model_source(text) for text in models]
    path = write_kserve(file, name or sources[0].name.lower().replace("_", "-").replace(".", "-"), image, sources, storage, cpu, memory)
    _report([path], as_json, f"kubectl apply -f {path}")


def _report(written: list[Path], as_json: bool, following: str) -> None:
    if as_json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        stdout().print(plain(str(path)), soft_wrap=True)
    print_next(following)
