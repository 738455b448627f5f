"""What ``onnxferry embed`` writes, run as its reader would run it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from onnxferry.export.graphs.writer import write_artifact
from onnxferry.runtime.artifact.contract import Contract, Golden
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.embed.project import LANGUAGES, write_project
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.tasks.loading import load

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "runtime" / "zoo").rglob("*.onnx"))

pytestmark = pytest.mark.network


def doubler(path: Path, contract: Contract | None = None, opset: int = 18, dtype: int = TensorProto.FLOAT) -> Path:
    """``y = x + x``"""
    info = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [info("x", dtype, ["n"])], [info("y", dtype, ["n"])])
    write_artifact(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), contract, path)
    return path


X = np.array([1, 2.5], np.float32)
DOUBLES = Contract("model", "doubler", goldens=(Golden({"x": X}, {"y": X + X}),))


@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn 1, grey on a transparent background."""
    pixels = np.zeros((90, 60, 4), np.uint8)
    pixels[15:75, 27:34] = (40, 40, 40, 255)
    path = tmp_path_factory.mktemp("images") / "one.png"
    Image.fromarray(pixels).save(path)
    return path


def run(*command: str | Path, cwd: Path, fails: bool = False) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


# In Python


@pytest.mark.parametrize("name", ["digits", "shakespeare", "digits-gan", "digits-ae"])
def test_a_project_in_python_answers_as_the_runtime_does(name: str, digit: Path, tmp_path: Path) -> None:
    project = write_project(name, "python", tmp_path / "p")
    arguments = {"digits": [digit], "digits-ae": [digit], "shakespeare": ["ROMEO:", "3"], "digits-gan": ["7", "5"]}[name]
    first, *answer = run(sys.executable, "main.py", *arguments, cwd=project.folder).splitlines()
    assert re.fullmatch(r"verified: \d+ outputs of the golden samples are as expected", first)
    check_answer(name, answer, digit, project.folder)


def check_answer(name: str, answer: list[str], digit: Path, folder: Path) -> None:
    """The same as of our runtime: the class and its probability, the text, the image."""
    with load(name, device="cpu") as model:
        if name == "digits":
            best = model.predict_one(digit)
            label, probability = answer[0].rstrip(" %").split()
            assert label == best.label
            assert float(probability) == pytest.approx(100 * best.probability, abs=0.06)  # one decimal is shown
        elif name == "shakespeare":
            assert "\n".join(answer).rstrip("\n") == model.generate("ROMEO:", 200, seed=3).rstrip("\n")
        elif name == "digits-gan":
            np.testing.assert_array_equal(np.asarray(Image.open(folder / "sample.png").convert("L")), model.sample(1, "7", seed=5)[0])
        else:
            made = np.asarray(Image.open(folder / "reconstruction.png").convert("L")).astype(int)
            assert np.abs(made - model.reconstruct(digit).astype(int).reshape(made.shape)).max() <= 1


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_a_model_of_ones_own_runs_on_a_file_of_arrays(language: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    project = write_project(doubler(tmp_path / "my model.onnx", DOUBLES), language, tmp_path / "p")
    assert Path("my_model.onnx") in project.files
    if language == "python":
        np.savez(project.folder / "inputs.npz", x=X)
        answer = run(sys.executable, "main.py", "inputs.npz", cwd=project.folder)
        assert json.loads(answer.partition("\n")[2]) == {"y": [2, 5]}
    else:
        (project.folder / "node_modules").symlink_to(request.getfixturevalue("node"))
        (project.folder / "inputs.json").write_text(json.dumps({"x": {"dtype": "float32", "shape": [2], "data": [1, 2.5]}}))
        answer = run("node", "main.mjs", "inputs.json", cwd=project.folder)
        assert json.loads(answer.partition("\n")[2]) == {"y": {"dtype": "float32", "shape": [2], "data": [2, 5]}}


# In JavaScript


@pytest.mark.parametrize("name", ["digits", "shakespeare", "digits-gan", "digits-ae"])
def test_a_project_in_javascript_answers_as_the_runtime_does(name: str, digit: Path, node: Path, tmp_path: Path) -> None:
    project = write_project(name, "javascript", tmp_path / "p")
    (project.folder / "node_modules").symlink_to(node)
    arguments = {"digits": [digit], "digits-ae": [digit], "shakespeare": ["ROMEO:", "3"], "digits-gan": ["7", "5"]}[name]
    first, *answer = run("node", "main.mjs", *arguments, cwd=project.folder).splitlines()
    assert re.fullmatch(r"verified: (\d+) of \1 outputs of the golden samples are as expected", first)
    check_answer(name, answer, digit, project.folder)


CHECK = """
import * as ort from "onnxruntime-node";
import { readFile } from "node:fs/promises";
import { openArtifact } from "./artifact.mjs";
const found = {};
for (const path of process.argv.slice(2)) {
  const artifact = await openArtifact(ort, await readFile(path));
  const { rows, passed } = await artifact.check();
  found[path] = { passed, rows: rows.length, optional: Object.keys(artifact.contract.defaults) };
}
console.log(JSON.stringify(found));
"""


def test_every_shipped_file_gives_its_golden_samples_in_node(node: Path, tmp_path: Path) -> None:
    project = write_project("digits", "javascript", tmp_path / "p")
    (project.folder / "node_modules").symlink_to(node)
    (project.folder / "check.mjs").write_text(CHECK)
    found = json.loads(run("node", "check.mjs", *SHIPPED, cwd=project.folder))
    assert len(found) == len(SHIPPED) > 10
    assert {name for name, each in found.items() if not each["passed"]} == set()
    assert found[str(zoo_model("shakespeare").path)]["optional"] == ["prompt_length", "state", "temperature", "top_k", "top_p"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "cut off or damaged"),
        (lambda data: b"\x00" * 100, "damaged|not an ONNX model|no onnxferry contract"),
        (lambda data: bytes(byte ^ 64 if 400_000 < i < 460_000 else byte for i, byte in enumerate(data)), "does not give what it should"),
    ],
    ids=["cut off", "no model", "other weights"],
)
def test_a_damaged_file_is_refused_in_javascript(damage, says: str, digit: Path, node: Path, tmp_path: Path) -> None:
    project = write_project("digits", "javascript", tmp_path / "p")
    (project.folder / "node_modules").symlink_to(node)
    file = project.folder / "digits.onnx"
    file.write_bytes(damage(file.read_bytes()))
    last = run("node", "main.mjs", digit, cwd=project.folder, fails=True).strip().splitlines()[-1]
    assert re.search(f"^error: .*({says})", last), last


def test_the_random_numbers_are_numpys(node: Path, tmp_path: Path) -> None:
    project = write_project("digits", "javascript", tmp_path / "p")
    program = 'import { Pcg64 } from "./random.mjs"; import { writeFileSync } from "node:fs";'
    seeds = [0, 3, 2**32, 2**53 - 1]
    for seed in seeds:
        for way in ("uniform", "normal"):
            program += f'writeFileSync("{way}{seed}", Buffer.from(new Pcg64({seed}).{way}(300000).buffer));'
    (project.folder / "numbers.mjs").write_text(program)
    run("node", "numbers.mjs", cwd=project.folder)
    for seed in seeds:
        uniform = np.fromfile(project.folder / f"uniform{seed}", np.float32)
        np.testing.assert_array_equal(uniform, np.random.Generator(np.random.PCG64(seed)).random(300_000, dtype=np.float32))
        normal = np.fromfile(project.folder / f"normal{seed}", np.float32)
        expected = np.random.Generator(np.random.PCG64(seed)).standard_normal(300_000, dtype=np.float32)
        # Rare numbers beyond 3.65 go through a logarithm, whose last bit is the C library's.
        np.testing.assert_allclose(normal, expected, rtol=2e-7, atol=0)
    negative = 'import("./random.mjs").then((module) => new module.Pcg64(-1))'
    assert "a seed is a whole number from 0 to 2^53, got -1" in run("node", "-e", negative, cwd=project.folder, fails=True)


# In the browser


@pytest.fixture
def page(browser) -> Iterator[object]:
    opened = browser.new_page()
    yield opened
    opened.close()


def served(project: Path, web: Path) -> tuple[subprocess.Popen[str], str]:
    if not (project / "node_modules").exists():
        (project / "node_modules").symlink_to(web)
    run("npm", "run", "build", cwd=project)
    process = subprocess.Popen(["node", "serve.mjs", "0"], cwd=project, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("name", ["digits", "shakespeare"])
def test_a_page_verifies_the_file_and_answers(name: str, web: Path, page, tmp_path: Path) -> None:
    project = write_project(name, "web", tmp_path / "p")
    process, url = served(project.folder, web)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        page.goto(url)
        page.wait_for_selector("#state:has-text('Verified in this browser')", timeout=60_000)
        assert page.evaluate("crossOriginIsolated") is True
        if name == "digits":
            box = page.locator("canvas").bounding_box()
            page.mouse.move(box["x"] + 140, box["y"] + 50)
            page.mouse.down()
            page.mouse.move(box["x"] + 140, box["y"] + 230, steps=5)
            page.mouse.up()
            page.wait_for_selector("#answer h2:text-is('1')", timeout=30_000)
        else:
            page.fill("textarea", "ROMEO:")
            page.fill("input", "3")
            page.click("button")
            page.wait_for_selector("form button:enabled", timeout=60_000)
            with load(name, device="cpu") as model:
                assert page.text_content("#answer pre") == model.generate("ROMEO:", 200, seed=3)
    finally:
        process.kill()
    assert {address.partition("://")[2].partition("/")[0] for address in asked} == {url.partition("://")[2].rstrip("/")}
    assert errors == []


def test_a_page_says_what_is_wrong_with_its_file(web: Path, page, tmp_path: Path) -> None:
    project = write_project("digits", "web", tmp_path / "p")
    file = project.folder / "digits.onnx"
    whole = file.read_bytes()
    process, url = served(project.folder, web)
    try:
        for content, says in (
            (whole[:-1000], f"Error: the model was cut off in transfer: {len(whole) - 1000} of {len(whole)} bytes; load the page again"),
            (whole[:-1] + b"?", "Error: the model is not the file that this page was made for; load the page again"),
            (None, "Error: the model cannot be loaded: 404 Not Found"),
        ):
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
            page.goto(url)
            page.wait_for_selector("#state.error", timeout=60_000)
            assert page.text_content("#state") == says
        file.write_bytes(whole)
        page.goto(url)
        page.wait_for_selector("#state:has-text('Verified')", timeout=60_000)
        (tmp_path / "no-image.png").write_text("text")
        page.set_input_files("input[type=file]", tmp_path / "no-image.png")
        page.wait_for_selector("#answer .error", timeout=30_000)
        assert page.text_content("#answer") == "Error: no-image.png is not an image that this browser can read"
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--jitless", "this browser has no WebAssembly, or it is switched off"),
        ("--no-enable-sse4-1", "this browser or processor has no WebAssembly SIMD"),
    ],
)
def test_a_page_says_what_the_browser_lacks(web: Path, browser, chromium: str, flag: str, words: str, tmp_path: Path) -> None:
    process, url = served(write_project("digits", "web", tmp_path / "p").folder, web)
    running = browser.browser_type.launch(
        executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--js-flags={flag}"]
    )
    try:
        page = running.new_page()
        page.goto(url)
        page.wait_for_selector("#state.error", timeout=60_000)
        assert page.text_content("#state") == f"Error: {words}, so no model can run here"
    finally:
        running.close()
        process.kill()


# Words that are a file's own


def test_names_and_descriptions_are_escaped(tmp_path: Path) -> None:
    """A file is untrusted: what it calls itself must not become code or markup."""
    name = '"""); import os; os.abort(); (""" ${1} </script><script>alert(1)</script> */ `x` \u2028 alert(2)'
    contract = DOUBLES.replace(name=name, description=f"{name}\n- [x](javascript:alert(1)) <img src=x onerror=alert(1)>")
    doubler(tmp_path / "m.onnx", contract)
    for language in LANGUAGES:
        folder = write_project(tmp_path / "m.onnx", language, tmp_path / language).folder
        for file in folder.rglob("*"):
            if file.suffix == ".onnx" or file.is_dir():
                continue
            text = file.read_text(encoding="utf-8")
            assert "os.abort()" not in text or file.suffix in (".md", ".html", ".json", ".xml", ".toml", ".csproj"), file
            assert not re.search(r"\{\{[A-Z0-9_]+\}\}", text), file
            if file.suffix == ".py":
                compile(text, str(file), "exec")
            if file.suffix == ".json":
                assert json.loads(text)["description"].startswith(name[:20])
            if file.suffix in (".html", ".md"):
                assert "<script>alert" not in text
                assert "<img" not in text
            if file.suffix == ".mjs" and shutil.which("node"):
                run("node", "--check", file, cwd=folder)


# Refusals


@pytest.mark.parametrize(
    ("model", "language", "says"),
    [
        (lambda p: doubler(p), "web", r"has no contract, so a project could not verify it"),
        (
            lambda p: doubler(p, DOUBLES),
            "cobol",
            r"unknown language 'cobol'; expected one of python, javascript, web, cpp, java, rust, csharp",
        ),
        (lambda p: doubler(p, DOUBLES, opset=24), "javascript", r"it has opset 24, and up to 23 runs there; export it with --opset"),
        (lambda p: doubler(p, DOUBLES.replace(goldens=()), dtype=TensorProto.BFLOAT16), "web", r"'x' is bfloat16, which its ONNX Runtime"),
        (lambda p: doubler(p, DOUBLES.replace(options={"rows_alone": True})), "python", r"its rows must run one by one"),
    ],
)
def test_what_cannot_run_there_is_refused(model, language: str, says: str, tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=says):
        write_project(path, language, tmp_path / "p")
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_weights_of_their_own_go_along_but_not_into_a_page(tmp_path: Path) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [64, 64], np.eye(64, dtype=np.float32).tobytes(), raw=True)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, ["n", 64])],
        [info("y", TensorProto.FLOAT, ["n", 64])],
        [weights],
    )
    x = np.ones((1, 64), np.float32)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "in").mkdir()
    write_artifact(model, Contract("model", "m", goldens=(Golden({"x": x}, {"y": x}),)), tmp_path / "in" / "m.onnx", external_data_bytes=0)
    with pytest.raises(InputError, match="its weights lie in files of their own"):
        write_project(tmp_path / "in" / "m.onnx", "web", tmp_path / "web")
    project = write_project(tmp_path / "in" / "m.onnx", "python", tmp_path / "p")
    np.savez(project.folder / "inputs.npz", x=2 * x)
    assert "2.0" in run(sys.executable, "main.py", "inputs.npz", cwd=project.folder)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine.txt").write_text("mine")
    assert main(["embed", "digits", "--lang", "web", "-o", str(tmp_path / "p")]) == 1
    assert "exists and is not an empty folder; give another one" in capsys.readouterr().err
    assert [each.name for each in (tmp_path / "p").iterdir()] == ["mine.txt"]


def test_the_command_says_how_to_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(SHIPPED[0]), "--lang", "web", "-o", str(tmp_path / "p"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["commands"] == ["npm install", "npm start"]
    assert "index.html" in document["files"]
    page = (tmp_path / "p" / "main.mjs").read_text()
    assert hashlib.sha256(SHIPPED[0].read_bytes()).hexdigest() in page
    assert main(["embed", "digits", "--lang", "javascript", "-o", str(tmp_path / "q")]) == 0
    assert "node main.mjs image.png" in capsys.readouterr().out


def test_a_text_generator_in_8_bits_gets_a_note_for_the_web(tmp_path: Path) -> None:
    path = zoo_model("shakespeare").path
    assert write_project(path, "web", tmp_path / "float32").notes == ()
    (note,) = write_project(path.with_name("shakespeare.int8.onnx"), "web", tmp_path / "int8").notes
    assert "is several times slower in a browser than float32" in note


@pytest.mark.parametrize("wrong", [lambda a: np.roll(a, 1, axis=2), np.zeros_like, lambda a: 255 - a])
def test_a_wrong_picture_of_8_bits_is_caught(wrong, tmp_path: Path) -> None:
    """By the root mean square that the certificate measured: a single pixel may be off by half of all levels."""
    write_project(zoo_model("digits-gan").path.with_name("digits-gan.int8.onnx"), "python", tmp_path / "p")
    spec = importlib.util.spec_from_file_location("embedded_artifact", tmp_path / "p" / "artifact.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    artifact = module.Artifact(str(next((tmp_path / "p").glob("*.onnx"))))
    assert artifact.check() > 0
    right = artifact.run
    artifact.run = lambda **inputs: {name: wrong(array) for name, array in right(**inputs).items()}
    with pytest.raises(RuntimeError, match="further from the original than its certificate allows"):
        artifact.check()
