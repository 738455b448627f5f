"""``onnxferry serve``: models over HTTP and gRPC."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from onnxferry.runtime.cli.console import DeviceOption, JsonOption, ThreadsOption, new_app, plain, print_json, stderr, stdout
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.options import MIB, ServeOptions, model_source

TOKEN_VARIABLE = "ONNXFERRY_SERVE_TOKEN"

app = new_app()

_LIMITS = "Limits"
_ACCESS = "Access"
_SPEED = "Speed"


@app.command("serve")
def serve_models(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL …", help="Files, names of shipped models, NAME=FILE or NAME:VERSION=FILE.", show_default=False),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP's port; 0 for any free one.")] = 8000,
    grpc_port: Annotated[
        int | None, typer.Option("--grpc-port", min=0, max=65535, help="gRPC's port; no gRPC if not given.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the port.", rich_help_panel=_SPEED)] = 1,
    on: Annotated[
        str,
        typer.Option(
            help="ray: on a Ray cluster (that of RAY_ADDRESS, or one on this machine).", show_default=False, rich_help_panel=_SPEED
        ),
    ] = "",
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="With --on ray: how many; by the requests if not given.", show_default=False, rich_help_panel=_SPEED),
    ] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Run with the fastest verified settings of this machine (see onnxferry tune).", rich_help_panel=_SPEED),
    ] = False,
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated", help="Run each model in a confined child process, for files that you don't trust.", rich_help_panel=_ACCESS
        ),
    ] = False,
    batch: Annotated[
        str,
        typer.Option(help="Merge requests: auto measures at start whether that wins; off; or the largest batch.", rich_help_panel=_SPEED),
    ] = "auto",
    max_wait: Annotated[
        float, typer.Option(min=0, max=10, help="Seconds that a request waits for others at most.", rich_help_panel=_SPEED)
    ] = 0.005,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask for a token of this file.", show_default=False, rich_help_panel=_ACCESS)
    ] = None,
    new_token: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Print a token's entry for that file, and on stderr the token; serve nothing.",
            show_default=False,
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve everybody who can connect, without a token.", rich_help_panel=_ACCESS)
    ] = False,
    certificate: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="TLS: the certificate, PEM.", show_default=False, rich_help_panel=_ACCESS),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="TLS: its key, PEM.", show_default=False, rich_help_panel=_ACCESS)
    ] = None,
    repository: Annotated[
        bool, typer.Option("--allow-loading", help="Clients may load and unload these models.", rich_help_panel=_ACCESS)
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds that a request may take.", rich_help_panel=_LIMITS)] = 30.0,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait for a model; one more is answered with 429.", rich_help_panel=_LIMITS)
    ] = 256,
    max_body: Annotated[float, typer.Option(min=0.001, help="MiB that a request's body may have.", rich_help_panel=_LIMITS)] = 64.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at a time.", rich_help_panel=_LIMITS)] = 1024,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds to finish what was accepted, after a signal to stop.", rich_help_panel=_LIMITS)
    ] = 30.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No log line for each request.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve models over HTTP and gRPC, by the Open Inference Protocol v2.

    Existing clients (tritonclient, KServe's) can talk to it; beside the protocol, `POST /predict/NAME` takes an image file,
    `POST /generate/NAME` a text. `/docs` shows what is served, `/metrics` is for Prometheus. It listens on this machine
    only; with another --host it asks for a token. SIGTERM: what was accepted is finished. SIGHUP: every model's file is loaded again.

    A token can also come from the environment variable ONNXFERRY_SERVE_TOKEN.

    ```
    onnxferry serve digits shakespeare
    onnxferry serve model.onnx --port 8080 --grpc-port 8081 --workers 2
    onnxferry serve digits --on ray --replicas 3
    onnxferry serve --new-token alice >> tokens.toml
    onnxferry serve digits --host 0.0.0.0 --tokens tokens.toml --tls-cert c.pem --tls-key k.pem
    ```

    With --json: one document at start: url, models (model, version, kind, batch).
    """
    if new_token is not None:
        from onnxferry.runtime.server.access import new_token as make

        token, entry = make(new_token)
        if as_json:
            print_json({"name": new_token, "token": token, "entry": entry})
            return
        stdout().print(entry, end="", soft_wrap=True)
        stderr().print(f"the token, which is shown only now: {token}", soft_wrap=True)
        return
    if not models:
        raise InputError("name at least one model to serve: onnxferry serve digits")
    options = ServeOptions(
        models=tuple(model_source(text) for text in models),
        host=host,
        port=port,
        grpc_port=grpc_port,
        workers=workers,
        device=device,
        threads=threads,
        tune=tune,
        isolated=isolated,
        batch=batch,
        max_wait=max_wait,
        max_queue=max_queue,
        timeout=timeout,
        max_body=int(max_body * MIB),
        max_connections=max_connections,
        drain=drain,
        repository=repository,
        tokens=str(tokens) if tokens else "",
        insecure=insecure,
        certificate=str(certificate) if certificate else "",
        key=str(key) if key else "",
        log=not quiet,
        environment_token=os.environ.get(TOKEN_VARIABLE, ""),
    )
    from onnxferry.runtime.server.process import serve

    def started(url: str, served: Any) -> None:
        _started(options, url, served, as_json)

    if on not in ("", "ray"):
        raise InputError(f"--on takes ray, got {on!r}; leave it out to serve from this machine")
    if on:
        from onnxferry.runtime.server.on_ray import serve_on_ray

        serve_on_ray(options, replicas, started)
        return
    if replicas is not None:
        raise InputError("--replicas goes with --on ray; on this machine --workers says how many processes there are")
    serve(options, started)


def _started(options: ServeOptions, url: str, served: Any, as_json: bool) -> None:
    from onnxferry.runtime.server.http.openapi import curl_lines
    from onnxferry.runtime.server.models import ServedModel, shown

    opened = [model for model in served if isinstance(model, ServedModel)]
    if as_json:
        models = [shown(model) for model in opened] or [{"model": source.name, "version": source.version} for source in options.models]
        print_json({"url": url, "models": models}, indent=None)
        stdout().file.flush()
        return
    console = stdout()
    console.print(Text(f"serving at {url}, documented at {url}/docs", "bold"), soft_wrap=True)
    for model in opened:
        merged = f"requests merged to batches of up to {model.batch}" if model.batch > 1 else "each request by itself"
        console.print(plain(f"  {model.name} {model.version}: {model.kind.noun}; {merged}"), soft_wrap=True)
        for line in curl_lines(model, url):
            console.print(plain(f"    {line}"), soft_wrap=True)
    if options.workers > 1:
        console.print(f"  {options.workers} worker processes open the models now", soft_wrap=True)
    console.print("Press Ctrl-C to stop.", soft_wrap=True)
    console.file.flush()
