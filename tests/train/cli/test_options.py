"""The options of ``onnxferry train``: which there are, where their defaults and their help come from, and what they refuse."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import FAMILIES
from onnxferry.train.cli.app import app
from onnxferry.train.families.cnn import CnnConfig, CnnOptions
from onnxferry.train.families.rnn import RnnConfig, RnnOptions
from onnxferry.train.loop.loop import LoopConfig
from onnxferry.train.options import Option, check_positive, option, options_of
from onnxferry.train.presets import PRESETS, cnn_learner, rnn_learner

OPTIONS: dict[str, dict[str, object]] = {
    "cnn": {
        "--augment/--no-augment": True,
        "--batch": None,
        "--class-weights": None,
        "--color/--grayscale": None,
        "--data": None,
        "--dataset": "",
        "--device": "auto",
        "--devices": 1,
        "--epochs": None,
        "--few-labels": "",
        "--framing": "auto",
        "--init": "",
        "--mirror": "off",
        "--json": "off",
        "--learning-rate": None,
        "--limit": None,
        "--out": "runs/cnn",
        "--patience": 0,
        "--precision": "32-true",
        "--preset": "full",
        "--resume": "off",
        "--save-seconds": 60.0,
        "--seed": 0,
        "--size": 28,
        "--validation": None,
        "--width": None,
    },
    "rnn": {
        "--average": None,
        "--batch": None,
        "--cell": None,
        "--clip": None,
        "--data": None,
        "--dataset": "",
        "--depth": None,
        "--device": "auto",
        "--devices": 1,
        "--dropout": None,
        "--embedding": None,
        "--encoding": "utf-8",
        "--epochs": None,
        "--half/--no-half": None,
        "--json": "off",
        "--learning-rate": None,
        "--out": "runs/rnn",
        "--patience": 0,
        "--precision": "32-true",
        "--preset": "full",
        "--rename-speakers": None,
        "--resume": "off",
        "--save-seconds": 60.0,
        "--seed": 0,
        "--skip/--no-skip": None,
        "--steps": None,
        "--tied": "off",
        "--validation": 0.05,
        "--variational/--no-variational": None,
        "--weight-decay": None,
        "--weight-dropout": None,
        "--width": None,
    },
    "ae": {
        "--batch": None,
        "--color/--grayscale": None,
        "--data": None,
        "--dataset": "",
        "--denoise": None,
        "--device": "auto",
        "--devices": 1,
        "--epochs": None,
        "--json": "off",
        "--kl": None,
        "--latent": None,
        "--learning-rate": None,
        "--limit": None,
        "--out": "runs/ae",
        "--patience": 0,
        "--precision": "32-true",
        "--preset": "full",
        "--resume": "off",
        "--save-seconds": 60.0,
        "--seed": 0,
        "--size": 28,
        "--validation": None,
        "--variational": "off",
        "--width": None,
    },
    "gan": {
        "--batch": None,
        "--color/--grayscale": None,
        "--data": None,
        "--dataset": "",
        "--device": "auto",
        "--devices": 1,
        "--discriminator-width": None,
        "--epochs": None,
        "--json": "off",
        "--judge": "",
        "--learning-rate": None,
        "--limit": None,
        "--noise": None,
        "--out": "runs/gan",
        "--patience": 0,
        "--precision": "32-true",
        "--preset": "full",
        "--resume": "off",
        "--save-seconds": 60.0,
        "--seed": 0,
        "--size": 28,
        "--validation": None,
        "--width": None,
    },
    "text-classifier": {
        "--average": None,
        "--batch": None,
        "--buckets": None,
        "--cell": None,
        "--class-weights": None,
        "--clip": None,
        "--data": None,
        "--dataset": "",
        "--device": "auto",
        "--devices": 1,
        "--dropout": None,
        "--embedding": None,
        "--encoding": "utf-8",
        "--epochs": None,
        "--json": "off",
        "--label-smoothing": None,
        "--learning-rate": None,
        "--linear-buckets": None,
        "--most-tokens": None,
        "--ngram-dropout": None,
        "--out": "runs/text-classifier",
        "--patience": 0,
        "--precision": "32-true",
        "--preset": "full",
        "--resume": "off",
        "--save-seconds": 60.0,
        "--seed": 0,
        "--small/--no-small": None,
        "--strength": None,
        "--target": "label",
        "--text": "text",
        "--validation": 0.1,
        "--weight-decay": None,
        "--width": None,
    },
    "seq2seq": {
        "--attention": None,
        "--average": None,
        "--batch": None,
        "--clip": None,
        "--data": None,
        "--dataset": "",
        "--decoder": None,
        "--device": "auto",
        "--devices": 1,
        "--dropout": None,
        "--embedding": None,
        "--encoder": None,
        "--encoding": "utf-8",
        "--epochs": None,
        "--half/--no-half": None,
        "--json": "off",
        "--learning-rate": None,
        "--limit": None,
        "--out": "runs/seq2seq",
        "--patience": 0,
        "--precision": "32-true",
        "--preset": "full",
        "--resume": "off",
        "--save-seconds": 60.0,
        "--seed": 0,
        "--validation": 0.05,
        "--weight-decay": None,
    },
    "detector": {
        "--batch": None,
        "--box-weight": None,
        "--choice-weight": None,
        "--color/--grayscale": None,
        "--data": None,
        "--dataset": "",
        "--device": "auto",
        "--devices": 1,
        "--epochs": None,
        "--framing": "auto",
        "--init": "",
        "--iou-threshold": None,
        "--json": "off",
        "--learning-rate": None,
        "--limit": None,
        "--mirror": "off",
        "--out": "runs/detector",
        "--patience": 0,
        "--precision": "32-true",
        "--preset": "full",
        "--resume": "off",
        "--save-seconds": 60.0,
        "--scenes": 4096,
        "--seed": 0,
        "--side": None,
        "--size": None,
        "--validation": None,
        "--width": None,
    },
}
"""Family → option → default, as README's, the model cards' and the users' commands rely on; a flag that is not given is off."""


def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("family", OPTIONS)
def test_every_option_keeps_its_name_and_its_default(family: str) -> None:
    found = {}
    for parameter in commands()[family].params:
        if parameter.name != "help":
            default = str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
            one_way = parameter.is_flag and not parameter.secondary_opts
            found["/".join([*parameter.opts, *parameter.secondary_opts])] = "off" if one_way and not default else default
    assert found == OPTIONS[family]


def test_the_families_are_those_that_are_known() -> None:
    assert set(OPTIONS) == set(commands()) - {"unknown"} == set(FAMILIES) == set(PRESETS)  # unknown completes a recogniser


def help_of(family: str) -> str:
    shown = CliRunner().invoke(app, [family, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize("family", OPTIONS)
def test_help_has_its_options_in_groups_and_none_without(family: str) -> None:
    groups = [words for words in re.findall(r"╭─ (\w+)", help_of(family)) if words != "Options"]
    assert groups == ["Data", "Model", "Training", "Run"]
    assert [p.name for p in commands()[family].params if p.name != "help" and not p.rich_help_panel] == []


def test_help_has_the_dataclasses_words_and_the_presets_values() -> None:
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", help_of("rnn")).split())
    for found in [*options_of(RnnConfig), *options_of(RnnOptions), *options_of(LoopConfig)]:
        assert found.help in shown
        assert f"--{found.name.replace('_', '-')}" in shown
    assert "[default: (quick: 256, full: 384)]" in shown
    assert "[default: (gru)]" in shown  # of both presets
    assert "[default: 32-true]" in shown
    assert "[default: (on)]" in shown  # a flag
    assert "False" not in shown


def test_every_preset_sets_fields_that_there_are() -> None:
    for family, kinds in {"cnn": (CnnConfig, CnnOptions), "rnn": (RnnConfig, RnnOptions)}.items():
        names = {field.name for kind in kinds for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        assert [name for preset in PRESETS[family].values() for name in preset if name not in names] == []


def test_an_option_that_there_is_not_is_a_programmers_error() -> None:
    with pytest.raises(TypeError, match=r"'framing' cannot be set: expected one of .*width"):
        cnn_learner(None, "quick", figures=True, framing="ink")  # type: ignore[arg-type]


def test_a_width_has_one_default() -> None:
    assert PRESETS["cnn"]["full"] == {}
    assert CnnConfig(labels=("a", "b")).width == CnnConfig.width == 24


def test_options_reach_their_dataclasses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got: dict[str, Any] = {}
    monkeypatch.setattr("onnxferry.train.cli.rnn.train", lambda learner, run, **_: got.update(learner=learner, run=run))
    network = ["--no-skip", "--tied", "--width", "8", "--embedding", "4", "--dropout", "0"]
    words = ["--preset", "quick", *network, "--device", "cpu", "--save-seconds", "3", "--resume"]
    app(["rnn", *words, "--out", str(tmp_path)], standalone_mode=False)
    assert got["learner"].config == RnnConfig(depth=1, width=8, embedding=4, tied=True, skip=False)
    quick = rnn_learner(got["learner"].data, "quick").options
    assert got["learner"].options == dataclasses.replace(quick, dropout=0.0)
    command = got["run"].command
    assert got["run"] == LoopConfig(out=tmp_path, command=command, device="cpu", save_seconds=3.0, resume=True)


@pytest.mark.parametrize("words", [["rnn", "--depth", "17"], ["cnn", "--epochs", "0"], ["ae", "--size", "97"], ["gan", "--width", "many"]])
def test_values_out_of_range_are_usage_errors(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cnn", "--device", "tpu"], "unknown device 'tpu'; expected auto, cpu or cuda"),
        (["rnn", "--precision", "8"], "unknown precision '8'; expected 32-true, bf16-mixed or 16-mixed"),
        (["cnn", "--learning-rate", "0", "--limit", "50"], "learning_rate must be above 0, got 0.0"),
    ],
)
def test_contradictions_are_input_errors(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        app(words, standalone_mode=False)


def test_a_field_is_an_option_only_where_it_says_so() -> None:
    @dataclasses.dataclass(frozen=True)
    class Made:
        rate: float = option(0.5, "of change, per step", min=0.0)
        hidden: int = 3

    (found,) = options_of(Made)
    assert found == Option("rate", float, 0.5, "of change, per step", min=0.0, max=None)
    assert Made() == Made(rate=0.5, hidden=3)
    with pytest.raises(InputError, match="rate must be above 0, got 0"):
        check_positive(Made(rate=0), "rate")
