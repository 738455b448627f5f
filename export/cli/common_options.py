"""Options of several verbs."""

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

RtolOption = Annotated[float | None, typer.Option("--rtol", min=0.0, help="Relative tolerance; by dtype if not given.", show_default=False)]

AtolOption = Annotated[float | None, typer.Option("--atol", min=0.0, help="Absolute tolerance; by dtype if not given.", show_default=False)]
