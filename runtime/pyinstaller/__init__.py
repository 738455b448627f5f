"""What PyInstaller needs to know to freeze a program that uses onnxferry: it finds the folder through the entry point ``pyinstaller40``.

https://pyinstaller.org/en/stable/hooks.html#providing-pyinstaller-hooks-with-your-package
"""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """The folder with the hooks."""
    return [str(Path(__file__).parent)]
