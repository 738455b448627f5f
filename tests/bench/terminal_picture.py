"""Draws docs/assets/terminal.svg, which the README opens with: three commands and what they print, from a run of them.

    python tests/bench/terminal_picture.py

The tables and the notes that they print too are left out. The lines appear one after the other, once; where the reader asks for no
motion they are all there from the start.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = """import torch


def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)).eval()


def branching():
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x - 1

    return Branching().eval()
"""
COMMANDS = (
    'onnxferry export models:make --input "x:float32[batch,16]" -o classifier.onnx',
    'onnxferry export models:branching --input "x:float32[batch,16]" -o branching.onnx',
    "onnxferry check classifier.onnx",
)
SHOWN = ("passed: ", "error: ", "help: ")
COLORS = {"$": "#e6e9ef", "passed": "#7bd88f", "error": "#ff8a80", "help": "#9aa5b8"}
COLUMNS, LINE, MARGIN = 96, 21, 18


def transcript() -> list[str]:
    """The commands and the lines of their output that are shown, in order."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "models.py").write_text(MODELS, encoding="utf-8")
        for command in COMMANDS:
            program = f"{sys.executable} -m onnxferry.runtime {command.removeprefix('onnxferry ')}"
            done = subprocess.run(program, shell=True, cwd=folder, capture_output=True, text=True)
            lines.append(f"$ {command}")
            lines += [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(SHOWN)]
    return lines


def drawn(lines: list[str]) -> str:
    rows: list[tuple[float, str, str]] = []  # when it appears, color, text
    clock = 0.0
    for line in lines:
        kind = line.partition(" ")[0].rstrip(":")
        clock += 1.2 if kind == "$" else 0.7
        parts = textwrap.wrap(line, COLUMNS, subsequent_indent="" if kind != "$" else "    ", break_long_words=False)
        rows += [(clock, COLORS[kind], part) for part in parts]
    width, height = 2 * MARGIN + int(COLUMNS * 7.85), 2 * MARGIN + LINE * len(rows) + 14
    texts = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + 30 + LINE * i}" fill="{color}" style="animation-delay:{clock:.1f}s">{escape(text)}</text>'
        for i, (clock, color, text) in enumerate(rows)
    )
    dots = "".join(
        f'<circle cx="{MARGIN + 4 + 17 * i}" cy="{MARGIN}" r="5" fill="{c}"/>' for i, c in enumerate(("#e06c5f", "#e0b34f", "#67b65f"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="13" xml:space="preserve">'
        "<title>A terminal: an export that passed, an export that was refused with its reason, and a check</title>"
        "<style>@media (prefers-reduced-motion: no-preference) { text { opacity: 0; animation: appear .25s forwards } "
        "@keyframes appear { to { opacity: 1 } } }</style>"
        f'<rect width="100%" height="100%" rx="9" fill="#1d2330"/>{dots}\n{texts}\n</svg>\n'
    )


if __name__ == "__main__":
    (ROOT / "docs/assets/terminal.svg").write_text(drawn(transcript()), encoding="utf-8")
