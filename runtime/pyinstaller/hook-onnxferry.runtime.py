"""PyInstaller's hook: the runtime's modules, which are imported by name when they are first used, and the included models.

Training, export, the demo and the command line stay out: a frozen program that uses them names them with --hidden-import.
"""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

_NOT_NEEDED = ("onnxferry.runtime.cli", "onnxferry.runtime.server", "onnxferry.runtime.pyinstaller")

hiddenimports = [
    "onnxferry.runtime",
    "onnxruntime",
    *collect_submodules("onnxferry.runtime", filter=lambda name: not name.startswith(_NOT_NEEDED)),
]
datas = [*collect_data_files("onnxferry.runtime.zoo"), *copy_metadata("onnxferry")]
