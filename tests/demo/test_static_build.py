"""The static site as files: what is in it, what it needs, and what is said where it cannot be written. No browser, no npm."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

from onnxferry.demo.static import build
from onnxferry.demo.words.catalogue import LANGUAGES
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.embed import web_runtime
from onnxferry.runtime.onnx_file.reader import read_model


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package with small files under the real names, pinned instead of the real ones; nothing is in the cache."""
    folder = tmp_path / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": web_runtime.VERSION}))
    digests = {}
    for name in web_runtime.FILES:
        data = f"export default {json.dumps(name)}".encode()
        (folder / "dist" / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(web_runtime, "FILES", digests)
    monkeypatch.setenv("ONNXFERRY_CACHE", str(tmp_path / "cache"))
    return folder


def document(path: Path) -> Mapping[str, object]:
    found: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8").removeprefix("export default "))
    return found


def test_every_file_is_listed_with_its_hash_and_no_other_host_is_named(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    assert main(["demo", "--static", str(site), "--ort-web", str(stand_in), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    files = {path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    assert said["files"] == len(files)
    assert said["bytes"] == sum(map(len, files.values()))
    assert said["gzip_bytes"] < said["bytes"]
    manifest = document(site / "manifest.mjs")
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    assert manifest["files"] == {name: each for name, each in listed.items() if name not in ("index.html", "manifest.mjs", "sw.js")}
    assert f'data-version="{manifest["version"]}"' in files["index.html"].decode()
    assert str(manifest["version"]) in files["sw.js"].decode()
    assert "MIT License" in files["ort/LICENSE"].decode()
    preloaded = re.findall(r'rel="modulepreload" href="(.+?)"', files["index.html"].decode())
    workers = {"worker.mjs", "files.mjs", "engine.mjs", "modules/artifact.mjs"}
    assert set(preloaded) == {name for name in files if name.endswith(".mjs") and not name.startswith("ort/")} - workers
    ours = {
        name: data.decode() for name, data in files.items() if name.endswith((".mjs", ".js", ".html", ".css")) and "catalogue" not in name
    }
    hosts = {host for text in ours.values() for host in re.findall(r"""(?:src|href|import|from|fetch\()\W*https?://[^"'\s)]+""", text)}
    assert hosts == set()
    catalogue = document(site / "catalogue.mjs")
    words = catalogue["words"]
    assert isinstance(words, dict)
    used = set().union(*(re.findall(r'say\("([^"]+)"', text) for text in ours.values()))
    assert used <= set(words["en"])
    assert set(words["en"]) == set(words["zh"]) < set(LANGUAGES["en"])
    # Written again, byte for byte the same, in place of the older one.
    (site / "left-over").write_text("")
    assert main(["demo", "--static", str(site), "--ort-web", str(stand_in)]) == 0
    assert {path.relative_to(site).as_posix(): path.read_bytes() for path in site.rglob("*") if path.is_file()} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnxruntime-web", "site"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "dist" / "ort.wasm.min.mjs").unlink(), "ort.wasm.min.mjs cannot be read (No such file or directory)"),
        (lambda folder: (folder / "dist" / "ort-wasm-simd-threaded.wasm").write_bytes(b"other"), "is not the file that was pinned"),
        (lambda folder: (folder / "package.json").write_text('{"version": "1.2.3"}'), ""),
    ],
)
def test_another_package_is_refused(stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, words: str) -> None:
    spoil(stand_in)
    code = main(["demo", "--static", str(tmp_path / "site"), "--ort-web", str(stand_in)])
    assert code == (1 if words else 0)  # what counts is the files, not what the package says of itself
    assert words in capsys.readouterr().err
    assert (tmp_path / "site").exists() == (not words)


def test_what_cannot_be_written_or_had_is_one_line(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(*arguments: str) -> str:
        assert main(["demo", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        return error

    ort = ("--ort-web", str(stand_in))
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    assert "has other files in it" in says("--static", str(full), *ort)
    assert (full / "thesis.txt").read_text() == "mine"
    assert "it is not a folder" in says("--static", str(full / "thesis.txt"), *ort)
    assert "does not exist" in says("--static", str(tmp_path / "none" / "site"), *ort)
    assert "no such folder" in says("--static", str(tmp_path / "site"), "--ort-web", str(tmp_path / "none"))
    assert "no such folder" in says("--ort-web", str(tmp_path / "none"))
    assert "--variants is for --static" in says("--variants", str(tmp_path))
    assert "leave out --port" in says("--static", str(tmp_path / "site"), "--port", "8600")
    assert "--static is empty" in says("--static", "")
    monkeypatch.setattr(web_runtime.shutil, "which", lambda _: None)
    assert "npm is not installed: install Node.js, or give an unpacked package: --ort-web" in says("--static", str(tmp_path / "site"))
    assert not (tmp_path / "site").exists()


def test_variants_for_the_browser_take_the_place_of_the_included_files(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, variants = tmp_path / "site", tmp_path / "variants"
    variants.mkdir()
    arguments = ["demo", "--static", str(site), "--ort-web", str(stand_in), "--variants", str(variants)]
    assert main(arguments) == 1
    assert "none of digits.web.onnx, fashion.web.onnx" in capsys.readouterr().err
    original = zoo_model("digits").path
    certified = read_model(original.with_name("digits.int8.onnx")).metadata
    certificate = json.loads(certified["onnxferry.certificate"])
    place = variants / "digits.web.onnx"
    shutil.copy(original.with_name("digits.int8.onnx"), place)
    assert main(arguments) == 1  # certified, and for another use
    assert (
        "digits.web.onnx is no variant of the included model: its certificate is for a variant 'int8', not 'web'" in capsys.readouterr().err
    )
    assert not site.exists()
    model = onnx.load(place)
    for pair in model.metadata_props:
        if pair.key == "onnxferry.certificate":
            pair.value = json.dumps(certificate | {"variant": "web", "device": "web"})
    onnx.save(model, place)
    assert main(arguments) == 0
    assert (site / "models" / "digits.web.onnx").read_bytes() == place.read_bytes()
    assert not (site / "models" / "digits.int8.onnx").exists()
    models = document(site / "catalogue.mjs")["models"]
    assert isinstance(models, dict)
    assert (models["digits"], models["fashion"]) == ("models/digits.web.onnx", "models/fashion.int8.onnx")


def npm(folder: Path, script: str) -> str:
    path = folder / "npm"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a script")
def test_npm_is_asked_once_and_its_failure_is_told(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = npm(tmp_path, "import sys; sys.exit('npm error network getaddrinfo EAI_AGAIN')")
    monkeypatch.setattr(web_runtime.shutil, "which", lambda _: failing)
    assert main(["demo", "--static", str(tmp_path / "site")]) == 1
    assert "npm could not fetch onnxruntime-web@1.30.0 (npm error network getaddrinfo EAI_AGAIN)" in capsys.readouterr().err
    packing = "import sys, tarfile; tarfile.open(sys.argv[-1] + '/it.tgz', 'w:gz').add({!r}, 'package')"
    npm(tmp_path, packing.format(str(stand_in)))
    assert set(web_runtime.web_runtime()) == set(web_runtime.FILES)
    npm(tmp_path, "import sys; sys.exit('asked again')")
    assert set(web_runtime.web_runtime()) == set(web_runtime.FILES)
    kept = next((tmp_path / "cache").rglob("*.wasm"))
    kept.write_bytes(b"damaged")  # it is fetched again
    assert main(["demo", "--static", str(tmp_path / "site")]) == 1
    assert "asked again" in capsys.readouterr().err


def test_a_package_for_the_pages_that_python_serves_is_kept(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxferry.demo.cli._serve", lambda _: 0)
    assert web_runtime.web_runtime_here() is None
    assert main(["demo", "--no-browser", "--ort-web", str(stand_in)]) == 0
    assert set(web_runtime.web_runtime_here() or {}) == set(web_runtime.FILES)
    monkeypatch.setenv("ONNXFERRY_CACHE", "")
    assert main(["demo", "--no-browser", "--ort-web", str(stand_in)]) == 1
    assert "set ONNXFERRY_CACHE to a folder" in capsys.readouterr().err


def test_it_needs_no_streamlit_and_no_onnx_runtime() -> None:
    code = (
        "import sys; sys.modules['streamlit'] = sys.modules['onnxruntime'] = sys.modules['torch'] = None\n"
        "import onnxferry.demo.static.build as build; print(len(build.MODELS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(build.MODELS)
