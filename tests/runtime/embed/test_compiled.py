"""Projects of ``onnxferry embed`` in languages that are compiled, run as their reader would run them.

C++ is compiled where ONNX Runtime's public headers are: the folder that the environment variable ONNXRUNTIME_INCLUDE names, or
/usr/include/onnxruntime (Debian's libonnxruntime-dev). The library is the one inside the Python package.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.embed.examples import example
from onnxferry.runtime.embed.project import write_project
from onnxferry.runtime.kinds import KINDS
from onnxferry.runtime.tasks.loading import load
from tests.runtime.embed.test_project import DOUBLES, doubler

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "runtime" / "zoo").rglob("*.onnx"))
HEADERS = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
SEEDS = [0, 3, 2**32, 2**53 - 1]
COUNT = 300_000  # random numbers, so that the rare branches of the ziggurat are taken


def run(*command: str | Path, cwd: Path, fails: bool = False) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, timeout=300, check=False)
    out, errors = done.stdout.decode(), done.stderr.decode()
    assert (done.returncode != 0) == fails, out + errors
    return errors if fails else out


@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn 1 on white, in colour."""
    pixels = np.full((90, 60, 3), 255, np.uint8)
    pixels[15:75, 27:34] = (40, 60, 90)
    path = tmp_path_factory.mktemp("images") / "one.ppm"
    Image.fromarray(pixels).save(path)
    return path


def library() -> Path:
    """ONNX Runtime's shared library inside the Python package. Skips the test where the package has none of its own."""
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        pytest.skip("the package onnxruntime has no libonnxruntime.so here")
    return found[0]


def check_answer(name: str, answer: list[str], digit: Path, folder: Path, image: str) -> None:
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
            assert answer == [f"sample.{image}"]
            np.testing.assert_array_equal(np.asarray(Image.open(folder / answer[0])), model.sample(1, "7", seed=5)[0])
        else:
            assert answer[0].startswith("anomaly score 0.")
            made = np.asarray(Image.open(folder / f"reconstruction.{image}")).astype(int)
            assert np.abs(made - model.reconstruct(digit).astype(int).reshape(made.shape)).max() <= 1  # rounding of a float to a pixel


ARGUMENTS = {"digits": ["IMAGE"], "digits-ae": ["IMAGE"], "shakespeare": ["ROMEO:", "3"], "digits-gan": ["7", "5"]}


# C++


CHECK = """
#include <fstream>
#include <iostream>
#include "artifact.hpp"
#include "random.hpp"

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    Artifact artifact(arguments[i]);
    const Report report = artifact.check();
    std::cout << arguments[i] << ' ' << report.rows.size() << ' ' << report.failed() << '\\n';
    for (const Row& row : report.rows) std::cerr << row.problem;
  }
  for (const std::uint64_t seed : {SEEDS}) {
    const std::vector<float> uniform = Pcg64(seed).uniform(NUMBERS), normal = Pcg64(seed).normal(NUMBERS);
    std::ofstream("uniform" + std::to_string(seed)).write(reinterpret_cast<const char*>(uniform.data()), 4 * NUMBERS);
    std::ofstream("normal" + std::to_string(seed)).write(reinterpret_cast<const char*>(normal.data()), 4 * NUMBERS);
  }
}
"""


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in C++ that is built. What differs between two models is the file and words in comments, so it runs others too."""
    if not (HEADERS / "onnxruntime_cxx_api.h").exists():
        pytest.skip(f"no onnxruntime_cxx_api.h in {HEADERS}: name the folder of ONNX Runtime's headers in ONNXRUNTIME_INCLUDE")
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on PATH; apt-get install cmake g++")
    root = tmp_path_factory.mktemp("onnxruntime")
    (root / "lib").mkdir()
    (root / "include").symlink_to(HEADERS.resolve())
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(library())
    project = write_project("digits", "cpp", tmp_path_factory.mktemp("cpp") / "p").folder
    program = CHECK.replace("SEEDS", ", ".join(f"{seed}ull" for seed in SEEDS)).replace("NUMBERS", str(COUNT))
    (project / "src" / "check.cpp").write_text(program)
    own = (project / "CMakeLists.txt").read_text()
    listed = own + "\n".join(
        [
            "add_executable(check src/check.cpp src/artifact.cpp src/json.cpp)",
            "target_include_directories(check SYSTEM PRIVATE ${ONNXRUNTIME_INCLUDE})",
            "target_link_libraries(check PRIVATE ${ONNXRUNTIME_LIBRARY})",
            "target_compile_features(check PRIVATE cxx_std_17)",
            "target_compile_options(check PRIVATE -ffp-contract=off)",
            "target_compile_options(main PRIVATE -Werror)",
        ]
    )
    (project / "CMakeLists.txt").write_text(listed)
    run("cmake", "-B", "build", f"-DONNXRUNTIME_ROOT={root}", cwd=project)
    run("cmake", "--build", "build", "--config", "Release", "-j2", cwd=project)
    return project


@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_a_project_in_cpp_answers_as_the_runtime_does(name: str, digit: Path, cpp: Path, tmp_path: Path) -> None:
    shutil.copyfile(zoo_model(name).path, cpp / "digits.onnx")
    arguments = [digit if each == "IMAGE" else each for each in ARGUMENTS[name]]
    first, *answer = run(cpp / "build" / "main", *arguments, cwd=tmp_path).splitlines()
    assert re.fullmatch(r"verified: (\d+) of \1 outputs of the golden samples are as expected", first)
    check_answer(name, answer, digit, tmp_path, "pgm")


def test_every_shipped_file_gives_its_golden_samples_and_numpys_random_numbers_in_cpp(cpp: Path, tmp_path: Path) -> None:
    lines = run(cpp / "build" / "check", *SHIPPED, cwd=tmp_path).splitlines()
    assert len(lines) == len(SHIPPED) > 10
    for line in lines:
        assert re.search(r" [1-9]\d* 0$", line), line
    for seed in SEEDS:
        uniform, normal = (np.fromfile(tmp_path / f"{way}{seed}", np.float32) for way in ("uniform", "normal"))
        np.testing.assert_array_equal(uniform, np.random.Generator(np.random.PCG64(seed)).random(COUNT, dtype=np.float32))
        expected = np.random.Generator(np.random.PCG64(seed)).standard_normal(COUNT, dtype=np.float32)
        # Rare numbers beyond 3.65 go through a logarithm, whose last bit is the C library's.
        np.testing.assert_allclose(normal, expected, rtol=2e-7, atol=0)


def test_a_model_of_ones_own_runs_on_a_file_of_arrays_in_cpp(cpp: Path, tmp_path: Path) -> None:
    doubler(cpp / "digits.onnx", DOUBLES)
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"x": {"dtype": "float32", "shape": [3], "data": [1, 2.5, -1e-3]}}))
    answer = run(cpp / "build" / "main", inputs, cwd=tmp_path)
    assert json.loads(answer.partition("\n")[2]) == {"y": {"dtype": "float32", "shape": [3], "data": [2, 5, pytest.approx(-2e-3)]}}
    for document, says in (
        ('{"x": {"dtype": "float32", "shape": [3], "data": [1]}}', r"an array of shape \(3\) does not have as many elements in its data"),
        ('{"x": {"dtype": "int64", "shape": [1], "data": [1]}}', r"Unexpected input data type"),
        ('{"z": {"dtype": "float32", "shape": [1], "data": [1]}}', r"the model has no input z"),
        ("{}", r"the input x is missing"),
        ('{"x": ' + "[" * 70, r"nested too deeply"),
        ('{"x": 1', r"not valid JSON"),
        ('{"x": {"dtype": "uint8", "shape": [1], "data": [256]}}', r"'256' is not a number of type uint8"),
        ('{"x": {"dtype": "bfloat16", "shape": [1], "data": [1]}}', r"'bfloat16' is not an array type"),
    ):
        inputs.write_text(document)
        assert re.search(f"^error: .*{says}", run(cpp / "build" / "main", inputs, cwd=tmp_path, fails=True), re.MULTILINE), document


def damaged(data: bytes, start: int, stop: int) -> bytes:
    return data[:start] + bytes(byte ^ 64 for byte in data[start:stop]) + data[stop:]


def test_what_is_wrong_is_one_clear_line_in_cpp(cpp: Path, digit: Path, tmp_path: Path) -> None:
    whole, file, main = zoo_model("digits").path.read_bytes(), cpp / "digits.onnx", cpp / "build" / "main"
    for content, says in (
        (whole[: len(whole) // 2], "Protobuf parsing failed|ModelProto"),
        (damaged(whole, 400_000, 460_000), "the model does not give what it should on this machine"),
        (doubler(tmp_path / "m.onnx").read_bytes(), "the model has no onnxferry contract"),
        (doubler(tmp_path / "m.onnx", DOUBLES.replace(goldens=())).read_bytes(), "no golden samples, so it cannot be verified"),
    ):
        file.write_bytes(content)
        assert re.search(f"^error: .*({says})", run(main, digit, cwd=tmp_path, fails=True), re.MULTILINE), says
    file.write_bytes(whole)
    pixels = digit.read_bytes()
    for content, says in (
        (pixels[:100], "is cut off"),
        (b"P6 0 3 255\n", "is not an image of 1 to 65536 pixels a side"),
        (b"P5 # a comment\n2 2 65535\n12345678", "has a maximum of 65535"),
        (b"\x89PNG\r\n", "is not a binary PGM or PPM image"),
    ):
        (tmp_path / "image").write_bytes(content)
        assert re.search(f"^error: image {says}", run(main, "image", cwd=tmp_path, fails=True)), says
    assert "error: there is no file gone.ppm" in run(main, "gone.ppm", cwd=tmp_path, fails=True)


def test_the_lines_for_ones_own_program_compile_in_cpp(cpp: Path) -> None:
    functions: list[str] = []
    page = (ROOT / "docs" / "en" / "how-to" / "other-languages.md").read_text(encoding="utf-8")
    for code in [*(example(kind, "cpp", "m.onnx") for kind in KINDS.values()), *re.findall(r"```cpp\n(.*?)```", page, re.DOTALL)]:
        lines = code.splitlines()
        own = [line for line in lines if not line.startswith("#include")]
        functions.append(f"void f{len(functions)}() {{ std::int64_t height = 1, width = 1; std::vector<std::uint8_t> pixels(1);")
        functions.append("\n".join([*own, "}"]))
    program = "\n".join(["#include <iostream>", "#include <stdexcept>", '#include "tasks.hpp"', *functions])
    (cpp / "src" / "own.cpp").write_text(program)
    run(os.environ.get("CXX", "c++"), "-std=c++17", "-fsyntax-only", f"-I{HEADERS}", "src/own.cpp", cwd=cpp)


# Without a compiler


def test_a_project_in_cpp_is_laid_out_as_cmake_projects_are(tmp_path: Path) -> None:
    project = write_project("shakespeare", "cpp", tmp_path / "p")
    sources = ["artifact.cpp", "artifact.hpp", "json.cpp", "json.hpp", "main.cpp", "random.hpp", "tasks.cpp", "tasks.hpp"]
    assert [str(file) for file in project.files] == [
        "CMakeLists.txt",
        "README.md",
        "shakespeare.onnx",
        *(f"src/{name}" for name in sources),
    ]
    assert project.commands[-1] == 'build/main "To be"'
    listed = (project.folder / "CMakeLists.txt").read_text()
    assert all(f"src/{name}" in listed for name in sources if name.endswith(".cpp"))
    assert "project(shakespeare " in listed
    assert 'write(artifact, "To be"' in (project.folder / "README.md").read_text()
