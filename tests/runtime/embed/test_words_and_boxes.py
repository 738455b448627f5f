"""Projects of text classifiers, translators and detectors: answers that can be read, the same as the runtime's."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.embed.project import write_project
from onnxferry.runtime.files import read_npz
from onnxferry.runtime.tasks.loading import load

pytestmark = pytest.mark.network

TEXTS = {"sentiment-en": "what a lovely, touching film", "dates": "3 mars 2019"}


@pytest.fixture(scope="module")
def number(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three held-out digits side by side, dark on white."""
    examples = read_npz(zoo_model("digits").path.with_name("examples.npz"))
    canvas = np.full((120, 260), 255, np.uint8)
    for place, digit in enumerate((2, 0, 7)):
        first = np.flatnonzero((examples["labels"] == digit) & (examples["predicted"] == digit))[0]
        image = 255 - examples["images"][first].reshape(28, 28)
        canvas[30:86, 30 + 70 * place : 86 + 70 * place] = np.asarray(Image.fromarray(image).resize((56, 56)))
    path = tmp_path_factory.mktemp("images") / "number.png"
    Image.fromarray(canvas).save(path)
    return path


def answered(name: str, project: Path, *arguments: str | Path) -> list[str]:
    command = ["node", "main.mjs", *map(str, arguments)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *answer = done.stdout.splitlines()
    assert first.startswith("verified"), name
    return answer


def test_in_node_they_answer_as_the_runtime_does(node: Path, number: Path, tmp_path: Path) -> None:
    folders = {}
    for name in (*TEXTS, "digit-scenes"):
        folders[name] = write_project(name, "javascript", tmp_path / name).folder
        (folders[name] / "node_modules").symlink_to(node)
    with load("sentiment-en") as classifier:
        best = classifier.classify(TEXTS["sentiment-en"])
    label, share = answered("sentiment-en", folders["sentiment-en"], TEXTS["sentiment-en"])[0].rstrip(" %").split()
    assert label == best.label
    assert float(share) == pytest.approx(100 * best.probability, abs=0.06)  # one decimal is shown
    with load("dates") as translator:
        assert answered("dates", folders["dates"], TEXTS["dates"]) == [translator.translate(TEXTS["dates"])]
    with load("digit-scenes") as detector:
        expected = detector.detect(number)
    lines = answered("digit-scenes", folders["digit-scenes"], number)
    assert len(lines) == len(expected) >= 3
    for line, found in zip(lines, expected, strict=True):
        assert line.startswith(f"{found.label}  {100 * found.score:.1f} %")
        edges = [float(edge) for edge in re.findall(r"(?:left|top|right|bottom) (-?[\d.]+)", line)]
        np.testing.assert_allclose(edges, found.box, atol=0.11)


@pytest.fixture
def opened(browser, web: Path, tmp_path: Path) -> Iterator:
    """``opened(name)``: its page, once the file is verified. In the end nothing has been complained of."""
    processes, errors = [], []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    def come(name: str):
        project = write_project(name, "web", tmp_path / name).folder
        (project / "node_modules").symlink_to(web)
        subprocess.run(["npm", "run", "build"], cwd=project, capture_output=True, check=True)
        processes.append(subprocess.Popen(["node", "serve.mjs", "0"], cwd=project, stdout=subprocess.PIPE, text=True))
        page.goto(processes[-1].stdout.readline().strip())
        page.wait_for_selector("#state:has-text('Verified in this browser')", timeout=120_000)
        return page

    yield come
    page.close()
    for process in processes:
        process.kill()
    assert errors == []


def test_a_page_names_the_class_of_a_text_and_translates(opened) -> None:
    page = opened("sentiment-en")
    page.click("button")
    page.wait_for_selector("#answer .error", timeout=60_000)
    assert page.text_content("#answer") == "Error: the text is empty: give at least one word"
    page.fill("textarea", TEXTS["sentiment-en"])
    page.click("button")
    with load("sentiment-en") as classifier:
        best = classifier.classify(TEXTS["sentiment-en"])
    page.wait_for_selector(f"#answer h2:text-is('{best.label}')", timeout=60_000)
    assert page.locator("#answer li").first.text_content() == f"{best.label}: {100 * best.probability:.1f} %"
    page = opened("dates")
    page.fill("textarea", TEXTS["dates"])
    page.click("button")
    page.wait_for_selector("#answer h2:text-is('2019-03-03')", timeout=60_000)
    assert re.match(r"\d+\.\d % sure, \d+ ms", page.text_content("#answer p"))


def test_a_page_draws_the_boxes(opened, number: Path) -> None:
    page = opened("digit-scenes")
    page.set_input_files("input[type=file]", number)
    page.wait_for_selector("#answer li", timeout=120_000)
    with load("digit-scenes") as detector:
        expected = detector.detect(number)
    lines = page.locator("#answer li").all_text_contents()
    assert [line.split(":")[0] for line in lines] == [found.label for found in expected]
    left, top, *_ = expected[0].box
    assert f"from ({left:.0f}, {top:.0f})" in lines[0]
    picture = page.get_by_role("img")
    assert picture.get_attribute("aria-label") == f"the image with {len(expected)} boxes: {', '.join(found.label for found in expected)}"
    colored = page.evaluate(
        """() => {
          const canvas = document.querySelector("#answer canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) count += data[i] - data[i + 2] > 100;
          return count;
        }"""
    )
    assert colored > 500  # pixels of the boxes' edges and labels


@pytest.mark.parametrize(
    ("name", "language", "says", "call"),
    [
        ("sentiment-en", "javascript", 'main.mjs "a text"', "tasks.classifyText"),
        ("dates", "javascript", 'main.mjs "a text"', "tasks.translate"),
        ("digit-scenes", "javascript", "main.mjs image.png", "tasks.detect"),
        ("sentiment-en", "rust", "inputs.json", "artifact.run"),
        ("dates", "cpp", "inputs.json", "artifact.run"),
        ("digit-scenes", "python", "inputs.npz", ""),
    ],
)
def test_the_readme_runs_it_on_what_the_program_takes(name: str, language: str, says: str, call: str, tmp_path: Path) -> None:
    project = write_project(name, language, tmp_path / "p")
    readme = (project.folder / "README.md").read_text(encoding="utf-8")
    assert says in readme
    assert says in project.commands[-1]
    assert call in readme
    if language == "javascript":
        package = json.loads((project.folder / "package.json").read_text(encoding="utf-8"))
        assert ("sharp" in package["dependencies"]) == (name == "digit-scenes")
