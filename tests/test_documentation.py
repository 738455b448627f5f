"""What README and docs show works: their Python runs, their commands parse, their links lead somewhere, and .ci/run runs the README's
two commands.
"""

from __future__ import annotations

import contextlib
import html
import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from foreign_files import ULTRALYTICS, photo_classifier

from onnxferry.runtime.cli.main import VERBS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/en").rglob("*.md"))]
CHINESE_PAGES = ["README.zh-CN.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/zh").rglob("*.md"))]
# In the order of a reader: later pages use what earlier ones have made.
PAGES_WITH_PYTHON = [
    "README.md",
    "docs/en/get-started/the-file.md",
    "docs/en/how-to/pytorch.md",
    "docs/en/how-to/sklearn.md",
    "docs/en/how-to/boosted.md",
    "docs/en/how-to/own-classifier.md",
    "docs/en/how-to/application.md",
    "docs/en/how-to/untrusted.md",
    "docs/en/how-to/verify.md",
    "docs/en/how-to/refused.md",
    "docs/en/how-to/deploy.md",
    "docs/en/how-to/bulk.md",
    "docs/en/reference/errors.md",
    "docs/en/reference/artifact.md",
    "docs/en/learn/compression.md",
    "docs/en/learn/explaining.md",
    "docs/en/learn/translation.md",
    "docs/en/how-to/jax.md",
    "docs/en/how-to/files.md",
    "docs/en/how-to/keras.md",
    "docs/en/how-to/demo.md",
]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)


def command_lines() -> list[str]:
    """Every command line of ours in a code block of any page, each once."""
    shown = [line for page in PAGES for language in ("bash", "console") for block in blocks(language, page) for line in block.splitlines()]
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for line in shown]
    return sorted({line for line in lines if line.startswith("onnxferry ")})


@pytest.fixture(scope="module")
def after_quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a reader is in after the first command; one epoch is enough for what is shown."""
    folder = tmp_path_factory.mktemp("reader")
    command = [sys.executable, "-m", "onnxferry.runtime", "quickstart", "--out", "quickstart", "--epochs", "1"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    with contextlib.chdir(folder):
        yield


@pytest.mark.slow
def test_python_examples_run_in_order(after_quickstart: Path) -> None:
    """In one namespace, as somebody who pastes them one after the other."""
    namespace: dict[str, Any] = {"__name__": "documentation"}
    printed: dict[str, list[str]] = {}
    for page in PAGES_WITH_PYTHON:
        for number, example in enumerate(blocks("python", page)):
            out = io.StringIO()
            with inside(after_quickstart), contextlib.redirect_stdout(out):
                exec(compile(example, f"{page}, example {number + 1}", "exec"), namespace)  # noqa: S102  our own pages
            printed.setdefault(page, []).append(out.getvalue())
    export, predict = printed["README.md"]
    assert re.fullmatch(r"True at [1-9]\d* shapes that were never traced\n", export)
    assert re.fullmatch(r"(\d [01]\.\d{3}\n){2}", predict)
    checked, bare = printed["docs/en/get-started/the-file.md"]
    assert checked == "True\n"
    assert bare == predict.splitlines(keepends=True)[1], "the file alone says what the runtime says"
    (gate,) = printed["docs/en/how-to/pytorch.md"]
    assert re.fullmatch(r"True at [1-9]\d* shapes that were never traced\n", gate)
    (forest,) = printed["docs/en/how-to/sklearn.md"]
    assert float(forest.removeprefix("correct: ")) > 0.9
    assert printed["docs/en/how-to/boosted.md"] == ["the same classes: True\n"]
    assert printed["docs/en/how-to/own-classifier.md"] == ["['a 0', 'a 1', 'a 2', 'a 3', 'a 4']\n"]
    again, anything, mistake, likeliest, known, many, of_rows, texts, merged = printed["docs/en/how-to/application.md"]
    assert again == predict
    assert re.fullmatch(r"\{'class_index': \(7,\), 'probabilities': \(7, 3\)\}\n", anything)
    # What the comment in the example promises is what is printed.
    (promised,) = re.findall(r"print\(error\)  # (.*)", blocks("python", "docs/en/how-to/application.md")[2])
    assert mistake == promised + "\n"
    assert known == "False\n"
    best, document = likeliest.splitlines()
    assert json.loads(document)["label"] == best == "7"
    assert re.fullmatch(r"[1-9]\d* images, 0 unreadable\n", many)
    assert of_rows == "0 True\n"
    text = texts[: len(texts) // 2]
    assert texts == text + "\n" + text, "a stream is the same text"
    assert merged == "{'3'}\n", "a hundred equal images, and one answer"
    assert printed["docs/en/how-to/untrusted.md"] == ["True\n", "7\n"]
    assert printed["docs/en/how-to/verify.md"] == ["True\nFalse True\n"]
    assert printed["docs/en/how-to/refused.md"] == ["False ['random-source']\n"]
    assert printed["docs/en/how-to/deploy.md"] == ["ready\n"]
    (rounding,) = printed["docs/en/learn/compression.md"]
    nearest, compensated = (float(line.partition(": ")[2]) for line in rounding.splitlines())
    assert compensated < nearest / 3
    assert printed["docs/en/learn/explaining.md"] == ["ink under the most important patch: True\n"]
    assert printed["docs/en/learn/translation.md"] == ["['2019-03-03', '2019-03-03']\n2019-03-03 (11, 12)\n"]
    assert printed["docs/en/reference/artifact.md"] == ["True\n"]
    assert printed["docs/en/how-to/jax.md"] == ["True\n"]
    assert printed["docs/en/how-to/files.md"] == ["True\n"]
    (keras_digits,) = printed["docs/en/how-to/keras.md"]
    assert len(re.findall(r"Ranked\(label='\d', probability=[01]\.\d+\)", keras_digits)) == 3
    assert printed["docs/en/how-to/demo.md"] == ["7\n"]
    assert printed["docs/en/reference/errors.md"] == ["True no-such-file.onnx OF-ARTIFACT-NOT-FOUND\n"]


def test_every_page_with_python_is_run() -> None:
    assert sorted(page for page in PAGES if blocks("python", page)) == sorted(PAGES_WITH_PYTHON)


@pytest.mark.parametrize("line", command_lines())
def test_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verb, options and values are what the command takes: parsed by its own parser, not run."""
    monkeypatch.chdir(tmp_path)
    _, verb, *arguments = shlex.split(line)
    module, _, attribute = VERBS[verb][0].partition(":")
    command: Any = typer.main.get_command(getattr(import_module(module), attribute))
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    with command.make_context(verb, arguments) as context:
        assert context.params


# Verbs that are only parsed, because they take minutes, a GPU, a browser or a server; each has tests of its own, and what is shown of their
# output is a record whose command stands beside it. `quickstart` is what the reader's folder is made by.
ONLY_PARSED = {"bench", "demo", "export", "optimize", "quickstart", "serve", "train", "tune"}
FAILS = {"onnxferry check no-such.onnx", "onnxferry check no-such.onnx --json", "onnxferry check model.onnx --device cuda"}


@pytest.fixture(scope="module")
def readers_files(after_quickstart: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages' commands name: the reader's own models, photos and keys, made from included ones."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("files")
    shutil.copytree(after_quickstart / "quickstart", folder / "quickstart")
    digits, sample = folder / "quickstart/digits.onnx", folder / "quickstart/samples/7.png"
    zoo = ROOT / "runtime/zoo"
    model_of_rows(folder)
    copies = dict.fromkeys(("digits.onnx", "photos.onnx"), digits) | dict.fromkeys(("older.onnx", "smaller.onnx"), folder / "model.onnx")
    copies |= dict.fromkeys(("images.onnx", "digits-gan.onnx"), zoo / "digits-gan/digits-gan.onnx")
    for name in ("ordinary", "digits-ae"):
        copies |= {f"{name}.onnx": zoo / "digits-ae/digits-ae.onnx", f"{name}.decoder.onnx": zoo / "digits-ae/digits-ae.decoder.onnx"}
    copies |= {"letters.onnx": zoo / "shakespeare/shakespeare.onnx", "holiday.jpg": sample, "7.png": sample, "photos/7/one.jpg": sample}
    for data in ("mnist", "other-photos"):
        copies |= {f"{data}/7/one.png": sample}
    copies |= dict.fromkeys(("street.onnx", "scenes.onnx"), zoo / "digit-scenes/digit-scenes.onnx")
    copies |= {"amounts.onnx": zoo / "dates/dates.onnx"}
    copies |= dict.fromkeys(("number.png", "other-streets/images/one.png"), sample)
    for name, source in copies.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    photo_classifier(folder / "theirs.onnx", [None, 3, 32, 32])
    photo_classifier(folder / "yolo-cls.onnx", [1, 3, 32, 32], metadata=ULTRALYTICS)
    for name in ("pairs.tsv", "other-amounts.tsv"):
        (folder / name).write_text("le 3 mars 2019\t2019-03-03\n")
    (folder / "exported").mkdir()
    for name in ("mail", "reviews", "minilm", "exported/sentiment"):
        shutil.copyfile(zoo / "sentiment-en/sentiment-en.onnx", folder / f"{name}.onnx")
    (folder / "texts.txt").write_text("a lovely film\na waste of time\n")
    (folder / "other-mail.csv").write_text("body,folder\na lovely parcel,positive\nbroken and late,negative\n")
    (folder / "labelled.csv").write_text("text,label\na lovely film,positive\na waste of time,negative\n")
    (folder / "labels.txt").write_text("cat\ndog\nowl\n")
    (folder / "other-streets/labels").mkdir()
    (folder / "other-streets/labels/one.txt").write_text("7 0.5 0.5 0.6 0.8\n")
    (folder / "other-streets/classes.txt").write_text("\n".join("0123456789"))
    (folder / "other-letters.txt").write_text("Dear Ann,\nthank you for the letter of the third of May.\n")
    private = ec.generate_private_key(ec.SECP256R1())
    encoding, public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    plain = serialization.NoEncryption()
    (folder / "private.pem").write_bytes(private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    (folder / "public.pem").write_bytes(private.public_key().public_bytes(encoding, public))
    return folder


def model_of_rows(folder: Path) -> None:
    """``model.onnx``, a classifier of the rows of a table, ``rows.csv`` and ``test_rows.csv``, which has the column ``kind`` too."""
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    from onnxferry.export import export_model

    rows = pd.DataFrame({"width": [0.5, 1.5, 2.5, 3.5], "height": [4.0, 3.0, 2.0, 1.0]})
    kinds = pd.Series(["narrow", "narrow", "wide", "wide"], name="kind")
    export_model(LogisticRegression().fit(rows, kinds), rows, folder / "model.onnx")
    rows.to_csv(folder / "rows.csv", index=False)
    rows.assign(kind=kinds).to_csv(folder / "test_rows.csv", index=False)


def commands_to_run() -> list[str]:
    lines = [line for line in command_lines() if line.split()[1] not in ONLY_PARSED and not re.search("mypkg|runs/|tf-env", line)]
    # What makes a file comes before what reads it: `wrap` before `convert`, `sign` before `verify-signature`.
    return sorted(lines, key=lambda line: ("verify-signature" in line, "onnxferry wrap" not in line))


@pytest.mark.slow
def test_commands_run(readers_files: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failed = []
    for line in commands_to_run():
        with inside(readers_files):
            code = main(shlex.split(line)[1:])
        said = capfd.readouterr()
        if code != (1 if line in FAILS else 0):
            failed.append(f"{line}: exit code {code}\n{said.err}")
    assert failed == []


def test_most_kinds_of_commands_are_run() -> None:
    """The list above is no way out for new verbs: it holds what it names, and what is run is not only `check`."""
    assert set(VERBS) >= ONLY_PARSED
    assert {line.split()[1] for line in commands_to_run()} >= set(VERBS) - ONLY_PARSED - {"verify"}


@pytest.mark.slow
def test_the_terminal_that_is_shown_is_what_the_commands_print() -> None:
    """The README's picture, and the refusal in docs/en/how-to/refused.md; how many inputs are compared depends on the machine's speed."""
    spec = importlib.util.spec_from_file_location("terminal_picture", ROOT / "tests/bench/terminal_picture.py")
    assert spec is not None
    assert spec.loader is not None
    terminal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(terminal)
    lines: list[str] = terminal.transcript()
    number = re.compile(r"\d+(?:\.\d+)?")
    shown = " ".join(re.findall(r"<text [^>]*>([^<]*)</text>", text("docs/assets/terminal.svg")))
    assert number.sub("0", html.unescape(shown)) == number.sub("0", " ".join(" ".join(lines).split()))
    refusal = next(block for block in blocks("console", "docs/en/how-to/refused.md") if "error: " in block)
    begin = lines.index(refusal.splitlines()[0])
    assert refusal.splitlines() == lines[begin : begin + 3]


def test_a_wrong_option_does_not_parse() -> None:
    """The test above can fail."""
    from onnxferry.runtime.cli.check import app

    command: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="No such option"):
        command.make_context("check", ["x.onnx", "--no-such-option"])


def test_table_of_verbs_is_the_command_line() -> None:
    rows = [row for row in re.findall(r"^\|([^|]+)\|", README, re.MULTILINE) if "`onnxferry " in row]
    assert {verb for row in rows for verb in re.findall(r"`onnxferry ([a-z-]+)", row)} == set(VERBS)


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 180


def test_the_two_commands_come_first() -> None:
    """People and .ci/run rely on it: the first two bash blocks are everything, from the clone's root, commands only."""
    install, tests = (block.strip().splitlines() for block in blocks("bash")[:2])
    assert install[-1].startswith("onnxferry quickstart")
    assert any(line.startswith("pip install ") for line in install)
    assert tests[-1] == "python -m pytest -n 2"
    assert not any(line.startswith(("#", "$")) for line in install + tests)


def test_extras_table_is_pyproject() -> None:
    import tomllib

    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    rows = re.findall(r"^\|([^|]+)\|", README, re.MULTILINE)
    assert {extra for row in rows for extra in re.findall(r"`onnxferry\[(\w+)\]`", row)} == declared - {"dev"}


@pytest.mark.parametrize("page", [*PAGES, *CHINESE_PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_lead_to_files(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+)", prose) + re.findall(r'src="([^"]+)"', prose)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not ((ROOT / page).parent / target).exists()] == []


def test_contract_keys_are_documented() -> None:
    import numpy as np

    from onnxferry.runtime.artifact.contract import Contract, Golden
    from onnxferry.runtime.artifact.metadata import metadata_from_contract

    one = {"x": np.zeros(1, np.float32)}
    full = Contract(
        "model",
        "m",
        goldens=(Golden(one, one),),
        provenance={"a": 1},
        metrics={"a": 1},
        parity={"a": 1},
        labels=("a",),
        license="x",
        description="d",
    )
    keys = {key for key in metadata_from_contract(full) if key.startswith("onnxferry.")}
    assert {key for key in keys if f"`{key}`" not in text("docs/en/reference/artifact.md")} == set()


def test_the_contract_that_is_shown_is_that_of_digits() -> None:
    from onnxferry.runtime import load

    (shown,) = blocks("json", "docs/en/reference/artifact.md")
    assert json.loads(shown) == json.loads(load("digits").engine.metadata["onnxferry.contract"])


def test_every_error_has_a_row() -> None:
    from onnxferry.runtime import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.OnnxFerryError)}
    page = text("docs/en/reference/errors.md")
    rows = re.findall(r"^\| `(\w+)` \|.*\| \[([A-Z-]+)\]\(#([a-z-]+)\) \|$", page, re.MULTILINE)
    assert sorted(rows) == sorted((name, code := getattr(errors, name).code, code.lower()) for name in classes)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_that_an_error_names_has_its_code(language: str) -> None:
    """A heading ``### OF-PARITY`` has the anchor ``of-parity``, in the repository's view and on the site."""
    from onnxferry.runtime import errors

    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.OnnxFerryError)]
    page, _, anchor = errors.help_page("OF-PARITY").partition("#")
    assert (page, anchor) == ("docs/en/reference/errors.md", "of-parity")
    headings = re.findall(r"^### (OF-[A-Z-]+)$", text(page.replace("/en/", f"/{language}/")), re.MULTILINE)
    assert sorted(headings) == sorted(value.code for value in classes)


def test_every_variable_of_ours_is_documented() -> None:
    sources = [path for package in ("runtime", "export", "train", "demo") for path in (ROOT / package).rglob("*.py")]
    used = {name for path in sources for name in re.findall(r"\bONNXFERRY_[A-Z_]+", path.read_text(encoding="utf-8"))}
    documented = set(re.findall(r"^\| `(ONNXFERRY_[A-Z_]+)` \|", text("docs/en/reference/environment.md"), re.MULTILINE))
    assert "ONNXFERRY_CACHE" in used
    assert documented == used


def test_exit_codes_and_json_errors_are_as_documented(tmp_path: Path) -> None:
    for page in ("cli", "errors"):
        (shown,) = blocks("console", f"docs/en/reference/{page}.md")
        command, _, document = shown.partition("\n")
        words = shlex.split(command.removeprefix("$ onnxferry "))
        result = subprocess.run([sys.executable, "-m", "onnxferry.runtime", *words], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 1
        if "--json" in words:
            assert json.loads(result.stdout) == json.loads(document)
        else:
            assert result.stderr == document


def quotations() -> list[tuple[str, str, str]]:
    """Page, source file and code of every block that says where it is from: ```python title="path"."""
    quoted = re.compile(r'^```python title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
    return [(page, path, code) for page in PAGES for path, code in quoted.findall(text(page))]


def test_quoted_code_is_the_code() -> None:
    found = quotations()
    assert {page for page, _, _ in found} >= {f"docs/en/learn/{family}.md" for family in ("cnn", "rnn", "gan", "autoencoder")}
    stale = [f"{page}: {code.splitlines()[0]}" for page, path, code in found if f"\n{code}" not in text(path)]
    assert stale == [], "the code has changed: quote it again, in Chinese too"


def test_figures_of_the_chapters_are_in_the_figures() -> None:
    """A measured number with a fraction stands in the chapters only as it stands in the page of figures, which has its command."""
    measured = text("docs/en/explanation/figures.md")
    for family in ("cnn", "rnn", "gan", "autoencoder"):
        chapter = text(f"docs/en/learn/{family}.md")
        (evaluation,) = re.findall(r"^## Evaluation\n(.*?)^## ", chapter, re.MULTILINE | re.DOTALL)
        rows = [line for line in evaluation.splitlines() if line.startswith("|")]
        numbers = {number for row in rows for number in re.findall(r"\d+\.\d+", row)}
        assert numbers, family
        assert [number for number in sorted(numbers) if number not in measured] == [], family


def test_tolerances_are_as_documented() -> None:
    from onnxferry.export.parity.tolerances import DEFAULT_TOLERANCES

    page = text("docs/en/explanation/tolerances.md")
    rows = {name: (float(rtol), float(atol)) for name, rtol, atol in re.findall(r"^\| (float\d+) \| (\S+) \| (\S+) \|", page, re.MULTILINE)}
    assert rows == {name: (tolerance.rtol, tolerance.atol) for name, (tolerance, _) in DEFAULT_TOLERANCES.items()}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_public_name_is_in_the_api(language: str) -> None:
    """Of the runtime and the export; errors have a page of their own."""
    import onnxferry.export
    import onnxferry.runtime

    entries = re.findall(r"^::: ([\w.]+)\.(\w+)$", text(f"docs/{language}/reference/api.md"), re.MULTILINE)
    public = {*onnxferry.runtime.__all__, *onnxferry.export.__all__} - {"__version__", "errors", "ExportError", "ParityError"}
    assert {name for _, name in entries} == public
    assert [f"{module}.{name}" for module, name in entries if not hasattr(import_module(module), name)] == []
