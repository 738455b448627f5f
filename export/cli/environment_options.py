"""Options of sources that run in an environment of their own, of several verbs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SignatureOption = Annotated[
    str | None,
    typer.Option(
        "--signature", metavar="NAME", help="Of a TensorFlow model; serving_default, or the only one, if not given.", show_default=False
    ),
]

PythonOption = Annotated[
    Path | None,
    typer.Option(
        "--python", metavar="FILE", help="The Python of the environment that has TensorFlow; this one if not given.", show_default=False
    ),
]
