"""The command as a whole: help, its verbs, and how each kind of error ends. Verbs have tests of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer

from onnxferry.runtime.cli import main as cli
from onnxferry.runtime.cli.main import VERBS, main
from onnxferry.runtime.errors import InputError

COMMAND = [sys.executable, "-m", "onnxferry.runtime"]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """``verb(function)`` puts a function into the table as ``onnxferry tested``."""

    def put(function) -> None:
        app = typer.Typer()
        app.command()(function)
        monkeypatch.setattr(sys.modules[__name__], "tested_app", app, raising=False)
        monkeypatch.setitem(cli.VERBS, "tested", (f"{__name__}:tested_app", ""))  # type: ignore[attr-defined]

    return put


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for name, (_, line) in VERBS.items():
        assert name in out
        assert line in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_exists_and_explains_itself_with_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    module, _, attribute = VERBS[name][0].partition(":")
    assert isinstance(getattr(import_module(module), attribute), typer.Typer)
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"onnxferry {name} " in out.replace("Usage: ", "", 1)
    assert main(["help", name]) == 0


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"onnxferry {metadata.version('onnxferry')}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"], ["nonsense"]])
def test_starts_without_numpy_onnxruntime_or_torch_where_it_need_not(arguments: list[str]) -> None:
    heavy = ["onnxruntime", "torch", "onnx", "PIL"] + (["numpy"] if arguments[0] != "predict" else [])
    code = f"import sys; from onnxferry.runtime.cli.main import main; main({arguments}); print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predcit", "x"]) == 2
    assert capsys.readouterr().err == "error: unknown verb 'predcit'; did you mean `onnxferry predict`?\n"
    assert main(["zzz"]) == 2
    assert "expected one of" in capsys.readouterr().err
    assert main(["--verbose"]) == 2
    assert "unknown option '--verbose'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict"], "error: Missing argument 'MODEL'; see `onnxferry predict --help`\n"),
        (["models", "--jsno"], "error: No such option: --jsno"),
        (["predict", "a.onnx", "b.png", "--top", "0"], "error: Invalid value for '--top'"),
        (["predict", "a.onnx", "b.png", "--threshold", "1.5"], "error: Invalid value for '--threshold'"),
    ],
)
def test_a_command_line_that_makes_no_sense(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(says)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


HELP = "help: docs/en/reference/errors.md#of-input\n"


def test_our_errors_end_in_the_page_that_explains_them_and_exit_code_1(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise InputError("the first line says it all " + "x" * 200 + "\nmore \x1b[31m of it")

    verb(refuse)
    assert main(["tested"]) == 1
    assert capsys.readouterr().err == "error: the first line says it all " + "x" * 200 + "\nmore \\x1b[31m of it\n" + HELP


def test_interruption(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    verb(wait)
    assert main(["tested"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_missing_extra_prints_its_install_line(verb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        import matplotlib.pyplot  # noqa: F401

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    verb(lacks)
    assert main(["tested"]) == 1
    line, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: onnxferry tested needs the package 'matplotlib', which is not installed: pip install .*\[train\]'?", line)
    assert last == "help: docs/en/reference/errors.md#of-missing-extra"


def test_a_missing_module_of_ours_is_a_bug(verb) -> None:
    def broken() -> None:
        import onnxferry.runtime.no_such_module  # type: ignore[import-not-found]  # noqa: F401

    verb(broken)
    with pytest.raises(ModuleNotFoundError):
        main(["tested"])


def test_bugs_keep_their_traceback(verb) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    verb(bug)
    with pytest.raises(ZeroDivisionError):
        main(["tested"])


def test_the_system_says_no(verb, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "no" / "folder").write_text("")

    verb(write)
    assert main(["tested"]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/no/folder: No such file or directory\n"


def test_no_folder_for_temporary_files(verb, capsys: pytest.CaptureFixture[str]) -> None:
    def temporary() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    verb(temporary)
    assert main(["tested"]) == 1
    assert capsys.readouterr().err == (
        "error: temporary files are needed, and none can be written: set TMPDIR to a folder that this user may write in\n"
    )


@pytest.mark.parametrize("name", ["check", "export", "train cnn", "deploy triton", "quickstart"])
def test_flags_are_shown_without_a_value(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json" in out
    assert "<bool>" not in out


def test_a_verbs_number_is_the_exit_code(verb) -> None:
    verb(lambda: 7)
    assert main(["tested"]) == 7
    verb(lambda: None)
    assert main(["tested"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
def test_a_reader_that_goes_away_is_no_traceback(recogniser: Path) -> None:
    process = subprocess.Popen([*COMMAND, "inspect", str(recogniser), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(60) == 1


def test_a_terminal_without_unicode(recogniser: Path) -> None:
    result = run("inspect", recogniser, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "Softmax" in result.stdout


def test_python_dash_m_is_the_command() -> None:
    result = run("nonsense")
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown verb 'nonsense'")


DEVICE_VERBS = ("check", "evaluate", "generate", "inspect", "predict", "reconstruct", "sample", "tune")


@pytest.mark.parametrize("verb", DEVICE_VERBS)
def test_an_unknown_device_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    more = {"evaluate": ["--data", "."], "predict": ["x.png"], "reconstruct": ["x.png"]}.get(verb, [])
    assert main([verb, "digits", *more, "--device", "gpu"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: unknown device 'gpu'; expected auto, cpu or cuda\n" + HELP)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_output_on_a_full_disk_is_one_line(more: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([*COMMAND, "models", *more], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (1, "error: cannot write: No space left on device\n")


def path_options() -> set[str]:
    """Every option of a verb whose value is a file or a folder, by the annotations."""
    found: set[str] = set()

    def look(app: typer.Typer) -> None:
        for group in app.registered_groups:
            look(group.typer_instance)
        for command in app.registered_commands:
            for name, hint in get_type_hints(command.callback, include_extras=True).items():
                base, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
                if "Path" in str(base) and notes and isinstance(notes[0], typer.models.OptionInfo):
                    declared = (notes[0].default, *(notes[0].param_decls or ()))  # typer has the first one as the default
                    names = [each for each in declared if str(each).startswith("-")]
                    found.update(names or [f"--{name.replace('_', '-')}"])

    for module, _, attribute in (where.partition(":") for where, _ in VERBS.values()):
        look(getattr(import_module(module), attribute))
    return found


def test_every_option_for_a_file_refuses_an_empty_name() -> None:
    options = path_options()
    assert {"--data", "--out", "--plot"} <= options
    assert options - cli._FILE_OPTIONS == set()


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["evaluate", "digits", "--data", ""], "the value of --data"),
        (["train", "cnn", "--data="], "the value of --data"),
        (["train", "cnn", "--out", ""], "the value of --out"),
        (["sample", "digits-gan", "--grid", ""], "the value of --grid"),
        (["export", "", "-o", "x.onnx"], "an argument"),
        (["verify", "digits", ""], "an argument"),
    ],
)
def test_an_empty_name_is_not_the_current_folder(capsys: pytest.CaptureFixture[str], arguments: list[str], where: str) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {where} is empty, expected the name of a file or folder; is a variable of the command line not set?\n")


def test_a_run_given_to_resume_is_told_where_it_belongs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "cnn", "--data", "photos", "--resume", "runs/mine"]) == 2
    assert capsys.readouterr().err.endswith("; --resume takes no value, --out names the run\n")


def test_threads_of_training_wait_asleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert main(["models", "--json"]) == 0
    assert "OMP_WAIT_POLICY" not in os.environ
    assert main(["train", "cnn", "--help"]) == 0
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert main(["train", "cnn", "--help"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
