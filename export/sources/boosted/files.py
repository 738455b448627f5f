"""Files that LightGBM, XGBoost and CatBoost save: which is which, and opening them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxferry.export.sources.boosted import catboost_json, lightgbm_text, xgboost_json
from onnxferry.runtime.errors import ExportError, InputError, MissingExtraError, first_line

SUFFIXES = (".txt", ".json", ".ubj", ".cbm", ".bst", ".model")

EXPECTED = "expected a model file of LightGBM (.txt), XGBoost (.json, .ubj) or CatBoost (.cbm)"


def read_model(path: Path) -> Any:
    """The library's own object. Raises InputError for a file that none of them saved, ExportError for one that it cannot read.

    Only formats that hold numbers alone are read: none of them can run code.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; {EXPECTED}")
    raw = path.read_bytes()
    kind = _kind(raw, path)
    try:
        return {"lightgbm": _lightgbm, "xgboost": _xgboost, "catboost": _catboost}[kind](path, raw)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or kind, "boosted", f"exporting {path.name}") from error


def _kind(raw: bytes, path: Path) -> str:
    start = raw.lstrip()[:64]
    if raw.startswith(b"CBM1"):
        return "catboost"
    if start.startswith(b"tree\n") or start.startswith(b"tree\r\n"):
        return "lightgbm"
    if raw.startswith(b"{L\x00"):  # UBJSON: an object whose first key has a length of 64 bits
        return "xgboost"
    if start.startswith((b"binf", b"CONFIG-offset:", b"bs64")) or (
        path.suffix.lower() in (".bst", ".model") and not start.startswith(b"{")
    ):
        raise InputError(f"{path.name} is in XGBoost's old binary format: open it with an XGBoost before 3.1 and save it as .json or .ubj")
    if start.startswith((b"{", b"[")):
        return _kind_of_json(raw, path)
    raise InputError(f"{path.name} is no model file that is read here; {EXPECTED}")


def _kind_of_json(raw: bytes, path: Path) -> str:
    try:
        held = json.loads(raw)
    except ValueError as error:
        raise InputError(f"{path.name} is no JSON ({first_line(error)}); {EXPECTED}") from error
    if isinstance(held, dict) and "learner" in held:
        return "xgboost"
    if isinstance(held, dict) and "features_info" in held:
        return "catboost"
    if isinstance(held, dict) and "tree_info" in held:
        raise InputError(f"{path.name} is a dump of LightGBM, which cannot be loaded: save the model, booster.save_model('model.txt')")
    if isinstance(held, list) and held and isinstance(held[0], dict) and "nodeid" in held[0]:
        raise InputError(f"{path.name} is a dump of XGBoost, which cannot be loaded: save the model, save_model('model.json')")
    raise InputError(f"{path.name} is no model file that is read here; {EXPECTED}")


def _lightgbm(path: Path, raw: bytes) -> Any:
    text = raw.decode("utf-8", "replace")
    lightgbm_text.parsed(text)  # what is damaged is said by us: LightGBM ends the process for some of it
    import lightgbm

    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ExportError(f"LightGBM {lightgbm.__version__} cannot read {path.name}: {first_line(error)}") from error


def _xgboost(path: Path, raw: bytes) -> Any:
    if not raw.startswith(b"{L\x00"):
        xgboost_json.parsed(raw)
    import xgboost

    try:
        return xgboost.Booster(model_file=bytearray(raw))
    except xgboost.core.XGBoostError as error:
        said = str(error).strip().split("\n")
        why = next((line for line in said if line and not line.startswith(("[", "Stack"))), said[0])
        raise ExportError(f"XGBoost {xgboost.__version__} cannot read {path.name}: {why}") from error


def _catboost(path: Path, raw: bytes) -> Any:
    kind = "cbm" if raw.startswith(b"CBM1") else "json"
    if kind == "json":
        catboost_json.parsed(raw)
    import catboost

    try:
        return catboost.CatBoost().load_model(str(path), format=kind)
    except catboost.CatBoostError as error:
        raise ExportError(f"CatBoost {catboost.__version__} cannot read {path.name}: {first_line(error)}") from error
