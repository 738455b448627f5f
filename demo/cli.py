"""``onnxferry demo``: serves the pages on this machine, and opens them in the browser."""

from __future__ import annotations

import importlib.util
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from onnxferry.runtime.cli.console import JsonOption, new_app, plain, print_json, print_next, stdout
from onnxferry.runtime.errors import InputError, MissingExtraError
from onnxferry.runtime.formats import human_bytes

app = new_app()


ADDRESS = "localhost"


FIRST_PORT = 8501


_TRIED = 50  # ports after the first


@app.command()
def demo(
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="The first free one from 8501 if not given.", show_default=False)
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    static: Annotated[
        Path | None,
        typer.Option("--static", metavar="DIR", help="Write the pages to a folder, for any web server, instead.", show_default=False),
    ] = None,
    ort_web: Annotated[
        Path | None,
        typer.Option(
            "--ort-web",
            metavar="DIR",
            help="An unpacked npm package onnxruntime-web, which runs models in browsers; it is kept in the cache.",
            show_default=False,
        ),
    ] = None,
    variants: Annotated[
        Path | None,
        typer.Option(
            "--variants",
            metavar="DIR",
            help="For --static: a folder with NAME.web.onnx, as `optimize --target web` makes them; each is taken for the included file.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the shipped models, and one of your own, in the browser.

    Draw a digit and see it read, let the model write, make images, squeeze them, drop any .onnx file and see what it is.
    Everything runs on this machine; no usage statistics are sent, ONNX Runtime's neither. Ends with Ctrl-C.

    ```
    onnxferry demo
    onnxferry demo --port 8600 --no-browser
    onnxferry demo --ort-web node_modules/onnxruntime-web
    onnxferry demo --static site && python -m http.server -d site
    ```

    The page Crossing runs its model in the browser too where onnxruntime-web is in the cache: --ort-web puts it there, and so does
    --static, for which npm fetches it.

    With --static, seven of the pages are written as files, with the models and onnxruntime-web: they run in the visitor's browser.

    With --json: url, port; written before the pages are served. The server then speaks on stderr. With --static: folder, files, bytes,
    gzip_bytes, onnxruntime_web.
    """
    if static is not None:
        if port is not None or no_browser:
            raise InputError("--static writes files and serves nothing; leave out --port and --no-browser")
        _write_site(static, ort_web, variants, as_json=as_json)
        return
    if variants is not None:
        raise InputError("--variants is for --static; give --static DIR too, or leave it out")
    for package, extra in (("streamlit", "demo"), ("onnxruntime", "cpu")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra, "onnxferry demo")
    if ort_web is not None:
        from onnxferry.runtime.embed.web_runtime import keep_web_runtime

        keep_web_runtime(ort_web)
    chosen = free_port(port)
    url = f"http://{ADDRESS}:{chosen}"
    if as_json:
        print_json({"url": url, "port": chosen})
    else:
        stdout().print(f"onnxferry demo: {url}  (Ctrl-C ends it)", soft_wrap=True)
    sys.stdout.flush()
    if as_json:
        os.dup2(2, 1)  # what the server says is no JSON
    code = _serve(serve_command(chosen, open_browser=not no_browser))
    if code:
        raise typer.Exit(code)


def _write_site(folder: Path, ort_web: Path | None, variants: Path | None, *, as_json: bool) -> None:
    from onnxferry.demo.static.build import build_site

    site = build_site(folder, ort_web, variants)
    if as_json:
        print_json(site.summary)
        return
    size, sent = (human_bytes(sum(each.values())) for each in (site.files, site.transferred))
    stdout().print(f"{plain(str(folder))}: {len(site.files)} files, {size}, {sent} with gzip", soft_wrap=True)
    print_next(f"python -m http.server -d {shlex.quote(str(folder))}")


def serve_command(port: int, *, open_browser: bool = False) -> list[str]:
    """The command line that serves the pages. What is the same in every case stands in ``.streamlit/config.toml`` beside app.py."""
    script = Path(__file__).with_name("app.py")
    return [
        *(sys.executable, "-m", "streamlit", "run", str(script)),
        *("--server.port", str(port)),
        *("--server.headless", "false" if open_browser else "true"),
        # A user's own configuration goes before the file's; these are promises.
        *("--browser.gatherUsageStats", "false"),
        *("--logger.hideWelcomeMessage", "true"),
        *("--server.address", ADDRESS),
    ]


def free_port(wanted: int | None) -> int:
    """``wanted`` if it is free, else InputError; for None the first free one from FIRST_PORT."""
    for port in (wanted,) if wanted is not None else range(FIRST_PORT, FIRST_PORT + _TRIED):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # a port that was used a moment ago counts as free, as it does for the server
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    what = f"port {wanted} is" if wanted is not None else f"the ports {FIRST_PORT} to {FIRST_PORT + _TRIED - 1} are"
    raise InputError(f"{what} taken or may not be used; name another, such as --port {(wanted or FIRST_PORT) % 60000 + 1000}")


def _serve(command: list[str]) -> int:
    """Runs the server until it ends. Where it can, this process becomes the server, so that a signal finds it and no orphan is left."""
    os.environ["STREAMLIT_SERVER_SHOW_EMAIL_PROMPT"] = "false"
    if os.name == "posix":
        os.execv(command[0], command)
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:  # Ctrl-C went to both
        return 0
