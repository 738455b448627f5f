"""Builds a release: a wheel that anybody can build again to the byte, its bill of materials, and the SHA-256 of what is shipped.

    python tests/bench/release.py dist/           # the wheel, the source archive, SHA256SUMS, onnxferry-VERSION.cdx.json
    python tests/bench/release.py --sums          # runtime/zoo/SHA256SUMS again, after a shipped model has changed

The wheel depends on the tree, on setuptools' version and on SOURCE_DATE_EPOCH, which is the last commit's time unless it is set.
The bill of materials is CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/): the packages that the wheel asks for, those that they ask
for, in the versions of this environment, and the shipped models with their SHA-256.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from email import message_from_bytes
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "runtime" / "zoo"
EXTRAS = ("cpu",)  # of the wheel, that the bill of materials covers besides what every install has


def project_files() -> list[Path]:
    """The project's own files: what git knows or would add; in a source archive, everything that .gitignore does not name."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if (ROOT / ".git").exists() and listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    ignored = {line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()} | {"*.dist-info"}
    files = []
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [name for name in inner if not any(Path(name).match(pattern) for pattern in ignored)]
        files += [Path(folder) / name for name in names if not any(Path(name).match(pattern) for pattern in ignored)]
    return files


def sums() -> str:
    """What runtime/zoo/SHA256SUMS holds: a line for each model, card and file of examples, as ``sha256sum`` writes it."""
    files = sorted(path for path in ZOO.glob("*/*") if path.suffix in (".onnx", ".json", ".npz"))
    return "".join(f"{_sha256(path)}  {path.relative_to(ZOO).as_posix()}\n" for path in files)


def epoch() -> int:
    """SOURCE_DATE_EPOCH: as it is set, else the time of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "-c", "safe.directory=*", "log", "-1", "--format=%ct"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode != 0:
        sys.exit("the time of the last commit is not known here: set SOURCE_DATE_EPOCH to it, in seconds, or build in a git checkout")
    return int(found.stdout)


def build(folder: Path, seconds: int, *, wheel_only: bool = False) -> Path:
    """The wheel in ``folder``. Not isolated, so that it is built by the setuptools that is installed."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(seconds), "PYTHONHASHSEED": "0"}
    what = ["--wheel"] if wheel_only else []
    command = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(folder), "."]
    with tempfile.TemporaryDirectory() as scratch:  # away from what an earlier build left in the tree
        for path in project_files():
            place = Path(scratch) / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            place.chmod(0o644)
        subprocess.run(command, cwd=scratch, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, umask=0o022)
    (wheel,) = folder.glob("*.whl")
    return wheel


def bill_of_materials(wheel: Path, seconds: int) -> dict[str, Any]:
    """A CycloneDX document of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        head = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = message_from_bytes(archive.read(head))
        models = [(name, archive.read(name)) for name in sorted(archive.namelist()) if name.endswith(".onnx")]
    name, version = str(about["Name"]), str(about["Version"])
    ref = f"pkg:pypi/{name}@{version}"
    asked = {package: _needs(package) for package in _closure(_names(about.get_all("Requires-Dist") or [], EXTRAS))}
    refs = {package: f"pkg:pypi/{package}@{metadata.version(package)}" for package in asked}
    packages = [
        {"type": "library", "bom-ref": refs[package], "name": package, "version": metadata.version(package), "purl": refs[package]}
        for package in asked
    ]
    weights = [
        {
            "type": "machine-learning-model",
            "bom-ref": f"model:{Path(place).name}",
            "name": Path(place).name,
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}],
        }
        for place, data in models
    ]
    direct = _names(about.get_all("Requires-Dist") or [], EXTRAS)
    edges = {ref: [refs[each] for each in direct if each in refs] + [str(each["bom-ref"]) for each in weights]}
    edges |= {refs[package]: [refs[each] for each in needed if each in refs] for package, needed in asked.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, ref + _sha256(wheel))}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z"),
            "component": {
                "type": "library",
                "bom-ref": ref,
                "name": name,
                "version": version,
                "purl": ref,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": _sha256(wheel)}],
            },
        },
        "components": [*packages, *weights],
        "dependencies": [{"ref": each, "dependsOn": sorted(needed)} for each, needed in edges.items()],
    }


def _names(requirements: Iterable[str], extras: Iterable[str] = ()) -> list[str]:
    """Names of the packages that Requires-Dist lines ask for here: those without an extra, and those of ``extras``."""
    from packaging.requirements import Requirement

    wanted = []
    for requirement in map(Requirement, requirements):
        environments: list[dict[str, str]] = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(each) for each in environments):
            wanted.append(_normal(requirement.name))
    return sorted(set(wanted))


def _needs(package: str) -> list[str]:
    return _names(metadata.requires(package) or [])


def _closure(names: Iterable[str]) -> list[str]:
    """These packages and all that they ask for, of those that are installed."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = None
        waiting += _needs(name)
    return sorted(found)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where the release goes; made where it is missing")
    parser.add_argument("--sums", action="store_true", help="only write runtime/zoo/SHA256SUMS")
    asked = parser.parse_args()
    if asked.sums or asked.folder is None:
        if not asked.sums:
            parser.error("give a folder, or --sums")
        (ZOO / "SHA256SUMS").write_text(sums(), encoding="utf-8")
        return
    if (ZOO / "SHA256SUMS").read_text(encoding="utf-8") != sums():
        sys.exit("a shipped model has changed: python tests/bench/release.py --sums")
    folder: Path = asked.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    seconds = epoch()
    wheel = build(folder, seconds)
    write(folder / f"{wheel.name.split('-py3')[0]}.cdx.json", bill_of_materials(wheel, seconds))
    files = sorted(path for path in folder.iterdir() if path.suffix in (".whl", ".gz", ".json"))
    (folder / "SHA256SUMS").write_text("".join(f"{_sha256(path)}  {path.name}\n" for path in files), encoding="utf-8")
    for path in files:
        print(f"{_sha256(path)}  {path}")


if __name__ == "__main__":
    main()
