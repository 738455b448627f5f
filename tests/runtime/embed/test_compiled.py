"""Projects of ``onnxferry embed`` in languages that are compiled, run as their reader would run them.

C++ is compiled where ONNX Runtime's public headers are: the folder that the environment variable ONNXRUNTIME_INCLUDE names, or
/usr/include/onnxruntime (Debian's libonnxruntime-dev). The library is the one inside the Python package. Java is compiled where
ONNXRUNTIME_JAR names the file of com.microsoft.onnxruntime:onnxruntime, and Rust where EMBED_CARGO=1 says that cargo can fetch crates.
C# is compiled by Mono where ONNXRUNTIME_DLL names Microsoft.ML.OnnxRuntime.dll.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from PIL import Image

from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.embed.examples import example
from onnxferry.runtime.embed.project import write_project
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import KINDS
from onnxferry.runtime.tasks.loading import load
from tests.runtime.embed.test_project import DOUBLES, doubler

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "runtime" / "zoo").rglob("*.onnx"))
HEADERS = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
DLL = Path(os.environ.get("ONNXRUNTIME_DLL", "Microsoft.ML.OnnxRuntime.dll"))
JAR = Path(os.environ.get("ONNXRUNTIME_JAR", "onnxruntime.jar"))
SEEDS = [0, 3, 2**32, 2**53 - 1]
COUNT = 300_000  # random numbers, so that the rare branches of the ziggurat are taken


def run(*command: str | Path, cwd: Path, fails: bool = False) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, timeout=300, check=False)
    out, errors = done.stdout.decode(), done.stderr.decode()
    assert (done.returncode != 0) == fails, out + errors
    return errors if fails else out


@dataclass(frozen=True)
class Built:
    """A project of one language that was compiled. Between two models only the file and words in comments differ, so it runs others too."""

    language: str
    folder: Path
    main: tuple[str | Path, ...]  # the command that runs it
    check: tuple[str | Path, ...]  # the command of CHECK
    syntax: Callable[[list[str]], None]  # compiles pieces of code, each as a function
    suffix: str  # of images that it writes
    images: tuple[Path, Path]  # that it reads: of a classifier, of an autoencoder
    model: Path  # the file that it runs, relative to the folder that it runs in

    def run(self, model: bytes, *arguments: str | Path, cwd: Path, fails: bool = False) -> str:
        (cwd / self.model).write_bytes(model)
        return run(*self.main, *arguments, cwd=cwd, fails=fails)


def library() -> Path:
    """ONNX Runtime's shared library inside the Python package. Skips the test where the package has none of its own."""
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        pytest.skip("the package onnxruntime has no libonnxruntime.so here")
    return found[0]


def drawn_ppm(folder: Path) -> Path:
    pixels = np.full((90, 60, 3), 255, np.uint8)
    pixels[15:75, 27:34] = (40, 60, 90)
    Image.fromarray(pixels).save(folder / "one.ppm")
    return folder / "one.ppm"


CHECK_CPP = """
#include <fstream>
#include <iostream>
#include "artifact.hpp"
#include "random.hpp"

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    Artifact artifact(arguments[i]);
    const Report report = artifact.check();
    std::cout << arguments[i] << ' ' << report.rows.size() << ' ' << report.failed() << '\\n';
  }
  for (const std::uint64_t seed : {SEEDS}) {
    const std::vector<float> uniform = Pcg64(seed).uniform(NUMBERS), normal = Pcg64(seed).normal(NUMBERS);
    std::ofstream("uniform" + std::to_string(seed)).write(reinterpret_cast<const char*>(uniform.data()), 4 * NUMBERS);
    std::ofstream("normal" + std::to_string(seed)).write(reinterpret_cast<const char*>(normal.data()), 4 * NUMBERS);
  }
}
"""


def built_cpp(folder: Path) -> Built:
    if not (HEADERS / "onnxruntime_cxx_api.h").exists():
        pytest.skip(f"no onnxruntime_cxx_api.h in {HEADERS}: name the folder of ONNX Runtime's headers in ONNXRUNTIME_INCLUDE")
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on PATH; apt-get install cmake g++")
    root = folder / "onnxruntime"
    (root / "lib").mkdir(parents=True)
    (root / "include").symlink_to(HEADERS.resolve())
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(library())
    project = write_project("digits", "cpp", folder / "p").folder
    program = CHECK_CPP.replace("SEEDS", ", ".join(f"{seed}ull" for seed in SEEDS)).replace("NUMBERS", str(COUNT))
    (project / "src" / "check.cpp").write_text(program)
    with (project / "CMakeLists.txt").open("a") as listed:
        listed.write("add_executable(check src/check.cpp src/artifact.cpp src/json.cpp)\n")
        listed.write("target_include_directories(check SYSTEM PRIVATE ${ONNXRUNTIME_INCLUDE})\n")
        listed.write("target_link_libraries(check PRIVATE ${ONNXRUNTIME_LIBRARY})\n")
        listed.write("target_compile_features(check PRIVATE cxx_std_17)\n")
        listed.write("target_compile_options(check PRIVATE -ffp-contract=off)\n")
        listed.write("target_compile_options(main PRIVATE -Werror)\n")
    run("cmake", "-B", "build", f"-DONNXRUNTIME_ROOT={root}", cwd=project)
    run("cmake", "--build", "build", "--config", "Release", "-j2", cwd=project)

    def syntax(pieces: list[str]) -> None:
        lines = ["#include <iostream>", "#include <stdexcept>", '#include "tasks.hpp"']
        for i, piece in enumerate(pieces):
            own = [line for line in piece.splitlines() if not line.startswith("#include")]
            lines += [f"void f{i}() {{ std::int64_t height = 1, width = 1; std::vector<std::uint8_t> pixels(1);", *own, "}"]
        (project / "src" / "own.cpp").write_text("\n".join(lines))
        run(os.environ.get("CXX", "c++"), "-std=c++17", "-fsyntax-only", f"-I{HEADERS}", "src/own.cpp", cwd=project)

    image = drawn_ppm(folder)
    commands = ((project / "build" / "main",), (project / "build" / "check",))
    return Built("cpp", project, *commands, syntax, "pgm", (image, image), project / "digits.onnx")


CHECK_JAVA = """
package onnxferry;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

public final class Check {
  public static void main(String[] arguments) throws Exception {
    for (String path : arguments) {
      try (Artifact artifact = new Artifact(Path.of(path))) {
        List<Artifact.Row> rows = artifact.check();
        System.out.println(path + " " + rows.size() + " " + rows.stream().filter(row -> !row.passed()).count());
      }
    }
    for (long seed : new long[] {SEEDS}) {
      save("uniform" + seed, new Pcg64(seed).uniform(NUMBERS));
      save("normal" + seed, new Pcg64(seed).normal(NUMBERS));
    }
  }

  private static void save(String name, float[] values) throws Exception {
    ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    bytes.asFloatBuffer().put(values);
    Files.write(Path.of(name), bytes.array());
  }
}
"""


def built_java(folder: Path) -> Built:
    if not JAR.is_file():
        pytest.skip("name the file of com.microsoft.onnxruntime:onnxruntime, onnxruntime-1.27.0.jar or another, in ONNXRUNTIME_JAR")
    if shutil.which("javac") is None:
        pytest.skip("no javac on PATH; apt-get install openjdk-17-jdk-headless")
    project = write_project("digits", "java", folder / "p").folder
    sources = project / "src" / "main" / "java" / "onnxferry"
    program = CHECK_JAVA.replace("SEEDS", ", ".join(f"{seed}L" for seed in SEEDS)).replace("NUMBERS", str(COUNT))
    (sources / "Check.java").write_text(program)
    compiler = ("javac", "--release", "17", "-encoding", "UTF-8", "-Xlint:all", "-Werror", "-cp", JAR.resolve())
    run(*compiler, "-d", "out", *sorted(sources.glob("*.java")), cwd=project)
    java = ("java", "-cp", f"{project / 'out'}{os.pathsep}{JAR.resolve()}")

    def syntax(pieces: list[str]) -> None:
        lines = ["package onnxferry;", "import java.nio.file.Path;", "import java.util.List;", "import java.util.Map;", "class Own {"]
        for i, piece in enumerate(pieces):
            lines += [f"void f{i}() throws Exception {{ int height = 1, width = 1; byte[] pixels = new byte[1];", piece, "}"]
        (folder / "Own.java").write_text("\n".join([*lines, "}"]))
        run("javac", "-cp", f"out{os.pathsep}{JAR.resolve()}", "-d", folder / "own", folder / "Own.java", cwd=project)

    clear = np.zeros((90, 60, 4), np.uint8)  # a drawn 1 on a transparent background
    clear[15:75, 27:34] = (40, 60, 90, 255)
    Image.fromarray(clear).save(folder / "clear.png")
    grey = np.full((90, 60), 255, np.uint8)
    grey[15:75, 27:34] = 60
    Image.fromarray(grey).save(folder / "grey.png")
    commands = ((*java, "onnxferry.Main"), (*java, "onnxferry.Check"))
    return Built("java", project, *commands, syntax, "png", (folder / "clear.png", folder / "grey.png"), Path("digits.onnx"))


CHECK_RUST = """
#![allow(dead_code)]
mod array;
mod artifact;
mod pcg64;

fn main() -> artifact::Result<()> {
    for path in std::env::args().skip(1) {
        let rows = artifact::Artifact::open(&path)?.check()?;
        println!("{path} {} {}", rows.len(), rows.iter().filter(|row| row.problem.is_some()).count());
    }
    for seed in [SEEDS] {
        let save = |way: &str, values: Vec<f32>| {
            std::fs::write(format!("{way}{seed}"), values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        };
        save("uniform", pcg64::Pcg64::new(seed).uniform(NUMBERS))?;
        save("normal", pcg64::Pcg64::new(seed).normal(NUMBERS))?;
    }
    Ok(())
}
"""

MODULES_RUST = """
#![allow(dead_code, unused)]
mod array;
mod artifact;
mod image;
mod pcg64;
mod tasks;
use array::*;
use artifact::*;
use image::*;
fn main() {}
"""


def built_rust(folder: Path) -> Built:
    if os.environ.get("EMBED_CARGO") != "1":
        pytest.skip("set EMBED_CARGO=1 where cargo can fetch the crates ort and serde_json")
    project = write_project("digits", "rust", folder / "p").folder
    program = CHECK_RUST.replace("SEEDS", ", ".join(f"{seed}u64" for seed in SEEDS)).replace("NUMBERS", str(COUNT))
    (project / "src" / "check.rs").write_text(program)
    (project / "src" / "own.rs").write_text(MODULES_RUST)
    with (project / "Cargo.toml").open("a") as listed:
        for name in ("check", "own"):
            listed.write(f'\n[[bin]]\nname = "{name}"\npath = "src/{name}.rs"\n')
    run("cargo", "build", cwd=project)
    with_library = ("env", f"ORT_DYLIB_PATH={library()}")

    def syntax(pieces: list[str]) -> None:
        lines = [MODULES_RUST]
        for i, piece in enumerate(pieces):
            lines += [f"fn f{i}() -> Result<()> {{ let (height, width, pixels) = (1, 1, vec![0]);", piece, "Ok(()) }"]
        (project / "src" / "own.rs").write_text("\n".join(lines))
        run("cargo", "check", "--bin", "own", cwd=project)

    image = drawn_ppm(folder)
    commands = tuple((*with_library, project / "target" / "debug" / name) for name in ("main", "check"))
    return Built("rust", project, *commands, syntax, "pgm", (image, image), project / "digits.onnx")


CHECK_CSHARP = """
using System;
using System.IO;
using System.Linq;

namespace Onnxferry
{
    public static class CheckProgram
    {
        public static void Main(string[] arguments)
        {
            foreach (var path in arguments)
            {
                using (var artifact = new Artifact(path))
                {
                    var rows = artifact.Check();
                    Console.WriteLine(path + " " + rows.Count + " " + rows.Count(row => row.Problem != null));
                }
            }
            foreach (var seed in new ulong[] { SEEDS })
            {
                Save("uniform" + seed, new Pcg64(seed).Uniform(NUMBERS));
                Save("normal" + seed, new Pcg64(seed).Normal(NUMBERS));
            }
        }

        private static void Save(string name, float[] values)
        {
            var bytes = new byte[4 * values.Length];
            Buffer.BlockCopy(values, 0, bytes, 0, bytes.Length);
            File.WriteAllBytes(name, bytes);
        }
    }
}
"""


def built_csharp(folder: Path) -> Built:
    if not DLL.is_file() or shutil.which("mcs") is None:
        pytest.skip("name Microsoft.ML.OnnxRuntime.dll in ONNXRUNTIME_DLL, and install Mono: apt-get install mono-mcs")
    project = write_project("digits", "csharp", folder / "p").folder
    (folder / "lib").mkdir()
    (folder / "lib" / "libonnxruntime.so").symlink_to(library())
    shutil.copyfile(DLL, project / "Microsoft.ML.OnnxRuntime.dll")
    program = CHECK_CSHARP.replace("SEEDS", ", ".join(map(str, SEEDS))).replace("NUMBERS", str(COUNT))
    (project / "Check.cs").write_text(program)
    compiler = ("mcs", "-langversion:7.2", "-warn:4", "-warnaserror", "-r:Microsoft.ML.OnnxRuntime.dll")
    shared = sorted(file.name for file in project.glob("*.cs") if file.name not in ("Program.cs", "Check.cs"))
    for name in ("Program", "Check"):
        run(*compiler, f"-out:{name}.exe", f"{name}.cs", *shared, cwd=project)

    def syntax(pieces: list[str]) -> None:
        lines = [*(f"using System{part};" for part in ("", ".Collections.Generic", ".Linq")), "namespace Onnxferry {", "class Own {"]
        for i, piece in enumerate(pieces):
            lines += [f"void F{i}() {{ int height = 1, width = 1; var pixels = new byte[height * width];", piece, "}"]
        (folder / "Own.cs").write_text("\n".join([*lines, "}}"]))
        run(
            "mcs",
            "-r:Microsoft.ML.OnnxRuntime.dll",
            "-target:library",
            f"-out:{folder / 'own.dll'}",
            folder / "Own.cs",
            *shared,
            cwd=project,
        )

    image = drawn_ppm(folder)
    mono = ("env", f"LD_LIBRARY_PATH={folder / 'lib'}", "mono")
    commands = tuple((*mono, project / f"{name}.exe") for name in ("Program", "Check"))
    return Built("csharp", project, *commands, syntax, "pgm", (image, image), Path("digits.onnx"))


@pytest.fixture(scope="module", params=["cpp", "java", "rust", "csharp"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return {"cpp": built_cpp, "java": built_java, "rust": built_rust, "csharp": built_csharp}[request.param](
        tmp_path_factory.mktemp(request.param)
    )


@pytest.mark.parametrize("name", ["digits", "shakespeare", "digits-gan", "digits-ae"])
def test_a_project_answers_as_the_runtime_does(name: str, built: Built, tmp_path: Path) -> None:
    drawn, other = built.images
    arguments = {"digits": [drawn], "digits-ae": [other], "shakespeare": ["ROMEO:", "3"], "digits-gan": ["7", "5"]}[name]
    first, *answer = built.run(zoo_model(name).path.read_bytes(), *arguments, cwd=tmp_path).splitlines()
    assert re.fullmatch(r"verified: (\d+) of \1 outputs of the golden samples are as expected", first)
    with load(name, device="cpu") as model:
        if name == "digits":
            best = model.predict_one(drawn)
            label, probability = answer[0].rstrip(" %").split()
            assert label == best.label
            assert float(probability) == pytest.approx(100 * best.probability, abs=0.06)  # one decimal is shown
        elif name == "shakespeare":
            assert "\n".join(answer).rstrip("\n") == model.generate("ROMEO:", 200, seed=3).rstrip("\n")
        elif name == "digits-gan":
            assert answer == [f"sample.{built.suffix}"]
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / answer[0])), model.sample(1, "7", seed=5)[0])
        else:
            assert answer[0].startswith("anomaly score 0.")
            made = np.asarray(Image.open(tmp_path / f"reconstruction.{built.suffix}")).astype(int)
            assert np.abs(made - model.reconstruct(other).astype(int).reshape(made.shape)).max() <= 1  # rounding of a float to a pixel


def test_every_shipped_file_gives_its_golden_samples_and_a_seed_gives_numpys_numbers(built: Built, tmp_path: Path) -> None:
    lines = run(*built.check, *SHIPPED, cwd=tmp_path).splitlines()
    assert len(lines) == len(SHIPPED) > 10
    for line in lines:
        assert re.search(r" [1-9]\d* 0$", line), line
    for seed in SEEDS:
        uniform, normal = (np.fromfile(tmp_path / f"{way}{seed}", np.float32) for way in ("uniform", "normal"))
        np.testing.assert_array_equal(uniform, np.random.Generator(np.random.PCG64(seed)).random(COUNT, dtype=np.float32))
        expected = np.random.Generator(np.random.PCG64(seed)).standard_normal(COUNT, dtype=np.float32)
        # Rare numbers beyond 3.65 go through a logarithm, whose last bit is the C library's.
        np.testing.assert_allclose(normal, expected, rtol=2e-7, atol=0)


@pytest.mark.parametrize("wrong", [lambda a: np.roll(a, 1, axis=2), lambda a: 255 - a], ids=["moved", "inverted"])
def test_a_wrong_picture_of_8_bits_is_caught(wrong: Callable[[np.ndarray], np.ndarray], built: Built, tmp_path: Path) -> None:
    """By the root mean square that the certificate measured: a single pixel may be off by half of all levels."""
    model = onnx.load(zoo_model("digits-gan").path.with_name("digits-gan.int8.onnx"))
    (stored,) = (entry for entry in model.metadata_props if entry.key == "onnxferry.goldens")
    goldens = json.loads(stored.value)
    for golden in goldens:
        image = golden["outputs"]["image"]
        pixels = np.frombuffer(base64.b64decode(image["data"]), np.uint8).reshape(image["shape"])
        image["data"] = base64.b64encode(np.ascontiguousarray(wrong(pixels)).tobytes()).decode()
    stored.value = json.dumps(goldens)
    errors = built.run(model.SerializeToString(), cwd=tmp_path, fails=True)
    assert re.search(r"image: \d+(\.\d+)? % off \(root mean square\), its certificate allows \d+(\.\d+)? %", errors), errors


def test_a_model_of_ones_own_runs_on_a_file_of_arrays(built: Built, tmp_path: Path) -> None:
    model = doubler(tmp_path / "m.onnx", DOUBLES).read_bytes()
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"x": {"dtype": "float32", "shape": [3], "data": [1, 2.5, -1e-3]}}))
    answer = built.run(model, inputs, cwd=tmp_path)
    assert json.loads(answer.partition("\n")[2]) == {"y": {"dtype": "float32", "shape": [3], "data": [2, 5, pytest.approx(-2e-3)]}}
    for document, says in (
        ('{"x": {"dtype": "float32", "shape": [3], "data": [1]}}', r"an array of shape .3.* elements in its data"),
        ('{"x": {"dtype": "int64", "shape": [1], "data": [1]}}', r"Unexpected input data type"),
        ('{"z": {"dtype": "float32", "shape": [1], "data": [1]}}', r"the model has no input z"),
        ("{}", r"the input x is missing"),
        ('{"x": ' + "[" * 70, r"(nested too deeply|EOF while parsing)"),
        ('{"x": 1', r"(not valid JSON|EOF while parsing)"),
        ('{"x": {"dtype": "uint8", "shape": [1], "data": [256]}}', r"'256' is not a number of type uint8"),
        ('{"x": {"dtype": "bfloat16", "shape": [1], "data": [1]}}', r"'bfloat16' is not an array type"),
    ):
        inputs.write_text(document)
        assert re.search(f"^error: .*{says}", built.run(model, inputs, cwd=tmp_path, fails=True), re.MULTILINE), document


def damaged(data: bytes, start: int, stop: int) -> bytes:
    return data[:start] + bytes(byte ^ 64 for byte in data[start:stop]) + data[stop:]


def test_what_is_wrong_is_one_clear_line(built: Built, tmp_path: Path) -> None:
    whole = zoo_model("digits").path.read_bytes()
    for content, says in (
        (whole[: len(whole) // 2], "Protobuf parsing failed|ModelProto"),
        (damaged(whole, 400_000, 460_000), "the model does not give what it should on this machine"),
        (doubler(tmp_path / "m.onnx").read_bytes(), "the model has no onnxferry contract"),
        (doubler(tmp_path / "m.onnx", DOUBLES.replace(goldens=())).read_bytes(), "no golden samples, so it cannot be verified"),
    ):
        assert re.search(f"^error: .*({says})", built.run(content, built.images[0], cwd=tmp_path, fails=True), re.MULTILINE), says
    assert re.search("^error: (there is no file gone|gone cannot be read)", built.run(whole, "gone", cwd=tmp_path, fails=True))
    assert "error: give an image file" in built.run(whole, cwd=tmp_path, fails=True)
    pixels = built.images[0].read_bytes()
    for content, says in (
        (pixels[:100], "is cut off"),
        (b"P6 0 3 255\n", "is not an image of 1 to 65536 pixels a side"),
        (b"P5 # a comment\n2 2 65535\n12345678", "has a maximum of 65535"),
        (b"\x89PNG\r\n", "is not a binary PGM or PPM image"),
    ):
        (tmp_path / "image").write_bytes(content)
        if built.language == "java":
            says = "is damaged|is not an image that Java reads"
        assert re.search(f"^error: image ({says})", built.run(whole, "image", cwd=tmp_path, fails=True)), says


def test_the_lines_for_ones_own_program_compile(built: Built) -> None:
    language = built.language
    page = (ROOT / "docs" / "en" / "how-to" / "other-languages.md").read_text(encoding="utf-8")
    shown = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert shown
    built.syntax([*(example(kind, language, "m.onnx") for kind in KINDS.values()), *shown])


# Without a compiler


def test_a_project_in_cpp_is_laid_out_as_cmake_projects_are(tmp_path: Path) -> None:
    project = write_project("shakespeare", "cpp", tmp_path / "p")
    sources = ["artifact.cpp", "artifact.hpp", "json.cpp", "json.hpp", "main.cpp", "random.hpp", "tasks.cpp", "tasks.hpp"]
    expected = ["CMakeLists.txt", "README.md", "shakespeare.onnx", *(f"src/{name}" for name in sources)]
    assert [str(file) for file in project.files] == expected
    assert project.commands[-1] == 'build/main "To be"'
    listed = (project.folder / "CMakeLists.txt").read_text()
    assert all(f"src/{name}" in listed for name in sources if name.endswith(".cpp"))
    assert "project(shakespeare " in listed
    assert 'write(artifact, "To be"' in (project.folder / "README.md").read_text()


def test_a_project_in_java_is_laid_out_as_maven_projects_are(tmp_path: Path) -> None:
    model = doubler(tmp_path / "m.onnx", DOUBLES.replace(name="a & -- b", description="1 < 2 & 'x' -->"))
    project = write_project(model, "java", tmp_path / "p")
    sources = ["Array", "Artifact", "Image", "Json", "Main", "Pcg64", "Tasks"]
    assert [str(file) for file in project.files] == [
        "README.md",
        "m.onnx",
        "pom.xml",
        *(f"src/main/java/onnxferry/{name}.java" for name in sources),
    ]
    assert project.commands == ('mvn -q compile exec:java "-Dexec.args=inputs.json"',)
    assert write_project("shakespeare", "java", tmp_path / "q").commands == ("mvn -q compile exec:java \"-Dexec.args='To be'\"",)
    pom = ElementTree.parse(project.folder / "pom.xml").getroot()
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    assert pom.findtext("m:artifactId", namespaces=space) == "a-b"
    assert pom.findtext("m:description", namespaces=space) == "1 < 2 & 'x' -->"
    assert pom.findtext("m:properties/m:exec.mainClass", namespaces=space) == "onnxferry.Main"


def test_a_project_in_rust_is_laid_out_as_crates_are(tmp_path: Path) -> None:
    model = doubler(tmp_path / "m.onnx", DOUBLES.replace(name="a & b", description='1 < 2 \\ "x"'))
    project = write_project(model, "rust", tmp_path / "p")
    sources = ["array", "artifact", "image", "main", "pcg64", "tasks"]
    assert [str(file) for file in project.files] == ["Cargo.toml", "README.md", "m.onnx", *(f"src/{name}.rs" for name in sources)]
    assert project.commands[-1] == "cargo run --release -q -- inputs.json"
    crate = tomllib.loads((project.folder / "Cargo.toml").read_text())
    assert crate["package"]["name"] == "a-b"
    assert crate["package"]["description"] == '1 < 2 \\ "x"'
    assert set(crate["dependencies"]) == {"ort", "serde_json"}


def test_a_project_in_csharp_is_laid_out_as_dotnet_projects_are(tmp_path: Path) -> None:
    model = doubler(tmp_path / "m.onnx", DOUBLES.replace(name="a & -- b", description="1 < 2 & 'x' -->"))
    project = write_project(model, "csharp", tmp_path / "p")
    sources = ["Artifact", "Image", "Json", "NDArray", "Pcg64", "Program", "Tasks"]
    assert sorted(map(str, project.files)) == sorted(["README.md", "m.onnx", "main.csproj", *(f"{name}.cs" for name in sources)])
    assert project.commands == ("dotnet run -- inputs.json",)
    settings = ElementTree.parse(project.folder / "main.csproj").getroot()
    assert settings.findtext("PropertyGroup/Description") == "1 < 2 & 'x' -->"
    package = settings.find("ItemGroup/PackageReference")
    assert package is not None
    assert package.get("Include") == "Microsoft.ML.OnnxRuntime"


def test_arrays_that_java_does_not_have_are_refused(tmp_path: Path) -> None:
    model = doubler(tmp_path / "m.onnx", DOUBLES.replace(goldens=()), dtype=TensorProto.UINT32)
    with pytest.raises(InputError, match=r"Java cannot run m\.onnx: 'x' is uint32, which its ONNX Runtime has no array for"):
        write_project(model, "java", tmp_path / "p")
    assert write_project(model, "cpp", tmp_path / "p").folder.exists()
