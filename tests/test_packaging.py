"""What people install is what is here: the wheel and the source archive, built and then used away from this folder.

An editable install finds every file of the tree, listed in pyproject.toml or not; only the built packages show what is missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {name.removeprefix("onnxferry").lstrip("."): folder for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()}
FACE = FOLDERS.pop("")  # the two modules of `onnxferry` itself

pytestmark = pytest.mark.slow


def source_modules() -> dict[str, Path]:
    """Every module on disk, dotted name to file: nothing is taken from pyproject.toml's list, which is what is tested."""
    modules = {}
    for name, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            if path.name.startswith("hook-"):  # PyInstaller's, which reads it as a file
                continue
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            modules[".".join(("onnxferry", name, *(part for part in parts if part != "__init__")))] = path
    face = {name: path for name, path in modules.items() if path.parent == ROOT / FACE}
    return {name: path for name, path in modules.items() if name not in face} | {
        name.replace(FACE.replace("/", "."), "").replace("..", ".").rstrip("."): path for name, path in face.items()
    }


def place_in_wheel(path: Path) -> str:
    """Where a source file lies in the wheel."""
    name = path.relative_to(ROOT).as_posix()
    return f"onnxferry/{name.removeprefix(f'{FACE}/')}"


def zoo_files() -> list[str]:
    """Files of the shipped models, relative to the zoo."""
    zoo = ROOT / "runtime" / "zoo"
    return sorted(p.relative_to(zoo).as_posix() for p in zoo.rglob("*") if p.is_file() and p.suffix in (".onnx", ".json", ".npz"))


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source archive, a wheel built from it, and a wheel built from the tree; all from a copy, so that nothing is left here."""
    base = tmp_path_factory.mktemp("build")
    tree = base / "tree"
    tree.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for path in ROOT.iterdir():
        if path.name in {*FOLDERS.values(), "typings", "tests", ".ci"}:
            shutil.copytree(path, tree / path.name, symlinks=True, ignore=ignore)
        elif path.is_file():
            shutil.copy(path, tree)
    # Not isolated: setuptools is a development dependency, and a build must not need the network.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", base / "from-sdist", ".", cwd=tree)
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", base / "from-tree", ".", cwd=tree)
    (sdist,) = (base / "from-sdist").glob("*.tar.gz")
    (wheel,) = (base / "from-sdist").glob("*.whl")
    (direct,) = (base / "from-tree").glob("*.whl")
    return {"sdist": sdist, "wheel": wheel, "direct": direct}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", target, built["wheel"], cwd=target)
    return target


def away(installed: Path, program: str, *, cwd: Path) -> str:
    """Runs a program that sees the installed wheel and the environment's other packages.

    -S keeps .pth files from being read, and with them the editable install of this tree, which would fill in what the wheel lacks.
    """
    site = [path for path in sys.path if path.endswith("site-packages")]
    assert site
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), *site])}
    return run(sys.executable, "-S", "-c", program, cwd=cwd, env=environment)


def test_every_source_package_is_listed() -> None:
    """Says which line is missing, before the tests below show what that does."""
    packages = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in source_modules().items()}
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])
    folders = [ROOT / (FACE if name == "onnxferry" else name.replace("onnxferry.", "", 1).replace(".", "/")) for name in packages]
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_wheel_holds_every_module_and_nothing_else(built: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(built["wheel"]).namelist())
    wanted = {place_in_wheel(path) for path in (*source_modules().values(), *(ROOT / "runtime" / "pyinstaller").glob("hook-*.py"))}
    assert {"onnxferry/__init__.py", "onnxferry/__main__.py", "onnxferry/runtime/__init__.py"} <= wanted
    assert wanted - names == set()
    assert {"onnxferry/__init__.pyi", "onnxferry/py.typed"} <= names
    assert {name for name in names if name.endswith(".py")} - wanted == set()
    assert {f"onnxferry/{folder}/py.typed" for folder in FOLDERS.values()} <= names
    assert {f"onnxferry/runtime/zoo/{name}" for name in zoo_files()} <= names
    shown = [path for folder in ("assets", "static/site") for path in (ROOT / "demo" / folder).rglob("*") if path.is_file()]
    assert {"onnxferry/demo/.streamlit/config.toml", *(f"onnxferry/{path.relative_to(ROOT).as_posix()}" for path in shown)} <= names
    assert [name for name in names if "/screenshots/" in name] == [], "the README's images are for the repository"
    tops = {name.partition("/")[0] for name in names}
    info = f"onnxferry-{PROJECT['project']['version']}.dist-info"
    assert tops == {"onnxferry", info}, "a top-level folder such as tests/ would land in everybody's site-packages"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/runtime/zoo/NOTICE"} <= names


def test_sdist_builds_the_same_wheel(built: dict[str, Path]) -> None:
    def contents(path: Path) -> dict[str, bytes]:
        archive = zipfile.ZipFile(path)
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}

    from_sdist, from_tree = contents(built["wheel"]), contents(built["direct"])
    assert set(from_sdist) == set(from_tree)
    assert [name for name, data in from_sdist.items() if data != from_tree[name]] == []


def test_sdist_is_what_builds_the_wheel_and_no_litter(built: dict[str, Path]) -> None:
    """Sources, licences and what says what it is. The tests come with the repository (setuptools adds tests/test*.py by itself)."""
    with tarfile.open(built["sdist"]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert {"LICENSE", "README.md", "pyproject.toml", "runtime/zoo/NOTICE"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in source_modules().values()} <= names
    assert [name for name in names if "__pycache__" in name or name.startswith((".", "typings/"))] == []


def test_every_module_imports_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    # MLServer imports the one that is left out, in an environment of its own.
    names = sorted(set(source_modules()) - {"onnxferry.runtime.server.deploy.mlserver_runtime"})
    program = f"""
import importlib, json
print(json.dumps({{name: importlib.import_module(name).__file__ for name in {names!r} if not name.endswith(".__main__")}}))
"""
    files = json.loads(away(installed, program, cwd=tmp_path).splitlines()[-1])
    assert [name for name, file in files.items() if not Path(file).is_relative_to(installed)] == []
    assert len(files) == len(names) - 2  # both __main__ run the command line when imported; they are tried below
    assert Path(files["onnxferry"]).parent == installed / "onnxferry"


@pytest.mark.parametrize("package", ["onnxferry", "onnxferry.runtime"])
def test_command_line_and_version_from_the_installed_wheel(installed: Path, tmp_path: Path, package: str) -> None:
    program = f"import runpy, sys; sys.argv = ['onnxferry', '--version']; runpy.run_module({package!r}, run_name='__main__')"
    environment_free = f"try:\n    {program}\nexcept SystemExit as end:\n    assert not end.code"
    assert away(installed, environment_free, cwd=tmp_path).split() == ["onnxferry", PROJECT["project"]["version"]]
    entry_points = next(installed.glob("onnxferry-*.dist-info")) / "entry_points.txt"
    assert "onnxferry = onnxferry.runtime.cli.main:main" in entry_points.read_text()


def test_every_zoo_file_opens_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """Cards parse, examples load without pickle, and every shipped model opens and replays its own golden samples."""
    program = f"""
import json
from importlib import resources
import numpy as np
from onnxferry import load, zoo_names
from onnxferry.runtime.engine.replay import replay_goldens
zoo = resources.files("onnxferry.runtime.zoo")
assert str(zoo).startswith({str(installed)!r}), zoo
opened = []
for name in {zoo_files()!r}:
    path = zoo / name
    if name.endswith(".json"):
        assert json.loads(path.read_text(encoding="utf-8"))["command"]
    elif name.endswith(".npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays.files and all(arrays[key].size for key in arrays.files)
    else:
        model = load(str(path), device="cpu")
        replay_goldens(model.run, model.contract).raise_if_failed(name)
    opened.append(name)
print(json.dumps([opened, zoo_names()]))
"""
    opened, names = json.loads(away(installed, program, cwd=tmp_path).splitlines()[-1])
    assert opened == zoo_files()
    assert "digits" in names
    assert names == sorted({file.partition("/")[0] for file in zoo_files()})


def test_a_release_is_built_again_to_the_byte(tmp_path: Path) -> None:
    """With one SOURCE_DATE_EPOCH, in another folder, and under another umask."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "tests" / "bench" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(release)
    wheels = []
    for name, mask in (("first", 0o022), ("second", 0o077)):
        (tmp_path / name).mkdir()
        before = os.umask(mask)
        try:
            wheels.append(release.build(tmp_path / name, 1_700_000_000, wheel_only=True))
        finally:
            os.umask(before)
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    bill = release.bill_of_materials(wheels[0], 1_700_000_000)
    assert bill == release.bill_of_materials(wheels[1], 1_700_000_000)
    assert bill["metadata"]["timestamp"] == "2023-11-14T22:13:20Z"
    kinds = {each["name"]: each["type"] for each in bill["components"]}
    assert {"numpy", "pillow", "typer", "rich"} <= kinds.keys()
    assert kinds["digits.onnx"] == "machine-learning-model"
    known = {each["bom-ref"] for each in bill["components"]}
    edges = {each["ref"]: set(each["dependsOn"]) for each in bill["dependencies"]}
    assert set().union(*edges.values()) == known


def test_an_editable_install_finds_every_package(built: dict[str, Path], tmp_path: Path) -> None:
    """`onnxferry` is a package of two modules, and the folders are found beside it, each as one package and under one name."""
    tree = built["direct"].parent.parent / "tree"
    # In a process of its own, as pip does it: setuptools changes the one that it runs in.
    build = f"import setuptools.build_meta; print(setuptools.build_meta.build_editable({str(tmp_path)!r}))"
    name = run(sys.executable, "-c", build, cwd=tree).split()[-1]
    with zipfile.ZipFile(tmp_path / name) as archive:
        archive.extractall(tmp_path / "site")
    program = f"""
import importlib, json, site
site.addsitedir({str(tmp_path / "site")!r})
import onnxferry
assert onnxferry.load.__module__ == "onnxferry.runtime.tasks.loading"
print(json.dumps({{name: importlib.import_module(name).__file__ for name in ("onnxferry", "onnxferry.train", "onnxferry.runtime.errors")}}))
"""
    files = json.loads(away(tmp_path / "site", program, cwd=tmp_path).splitlines()[-1])
    assert files == {
        "onnxferry": str(tree / FACE / "__init__.py"),
        "onnxferry.train": str(tree / "train" / "__init__.py"),
        "onnxferry.runtime.errors": str(tree / "runtime" / "errors.py"),
    }


def test_nothing_is_taken_from_this_folder(installed: Path, tmp_path: Path) -> None:
    """The tests above mean something only while -S hides the editable install: a module that is not in the wheel must be missing."""
    copy = shutil.copytree(installed, tmp_path / "less")
    (copy / "onnxferry" / "runtime" / "errors.py").unlink()
    with pytest.raises(AssertionError, match=r"No module named 'onnxferry\.runtime\.errors'"):
        away(copy, "import onnxferry.runtime.errors", cwd=tmp_path)


def test_packages_of_the_extras_do_not_fight() -> None:
    """[all] brings exactly one ONNX Runtime wheel to every system, never the CUDA libraries."""
    from packaging.requirements import Requirement

    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [Requirement(line) for line in extras["all"]]
    systems = [("linux", "x86_64"), ("linux", "aarch64"), ("win32", "AMD64"), ("win32", "ARM64"), ("darwin", "arm64"), ("darwin", "x86_64")]
    brought = {}
    for system, machine in systems:
        where = {"sys_platform": system, "platform_machine": machine}
        brought[system, machine] = [
            r.name for r in wanted if r.name.startswith("onnxruntime") and (not r.marker or r.marker.evaluate(where))
        ]
    with_gpu = {("linux", "x86_64"), ("win32", "AMD64")}
    assert brought == {pair: ["onnxruntime-gpu" if pair in with_gpu else "onnxruntime"] for pair in systems}
    assert not any(r.extras & {"cuda", "cudnn"} for r in wanted)


@pytest.mark.network
@pytest.mark.timeout(240)  # half a minute of CPU; 45 seconds on two quiet cores
def test_a_program_of_five_lines_freezes(built: dict[str, Path], tmp_path: Path) -> None:
    """PyInstaller with its defaults: the hook of the wheel names what is imported late, and the included models."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    needed = ("pyinstaller>=6.10", "onnxruntime>=1.24", built["wheel"])
    installed = subprocess.run([str(word) for word in (*pip, *needed)], cwd=tmp_path, capture_output=True, text=True)
    if installed.returncode != 0 and not os.environ.get("CI"):
        pytest.skip(f"no package index can be reached: {(installed.stderr.strip().splitlines() or [''])[-1]}")
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "desk.py").write_text(
        "from onnxferry.runtime import load\nimport numpy as np\n"
        "digits = load('digits')\nanswer = digits.predict_one(np.zeros((28, 28), np.uint8))\n"
        "print(answer.label in digits.labels)\n"
    )
    run(python, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "desk.py", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "dist" / "desk", elsewhere, symlinks=True)
    shutil.rmtree(environment)  # so that nothing of it can be found
    shutil.rmtree(tmp_path / "dist")
    assert run(elsewhere / "desk", cwd=elsewhere, env={"HOME": str(elsewhere)}).strip() == "True"


def test_the_hook_is_found(installed: Path, tmp_path: Path) -> None:
    program = """
from importlib.metadata import entry_points
(entry,) = [e for e in entry_points(group="pyinstaller40") if e.value.startswith("onnxferry")]
print(*entry.load()())
"""
    (folder,) = away(installed, program, cwd=tmp_path).split()
    assert Path(folder).is_relative_to(installed)
    assert [path.name for path in Path(folder).glob("hook-*.py")] == ["hook-onnxferry.runtime.py"]
