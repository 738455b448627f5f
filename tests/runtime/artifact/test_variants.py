"""Certified variants beside a model: found by their certificates, opened by their tags, and never by their names alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxferry.runtime import Autoencoder, Classifier, load
from onnxferry.runtime.artifact import zoo as catalog
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import runs_per_row
from onnxferry.runtime.artifact.metadata import contract_from_metadata
from onnxferry.runtime.artifact.variants import certified_variants, original_path, variants_beside
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.onnx_file.reader import read_model
from onnxferry.runtime.onnx_file.summary import Limits

Make = Callable[..., Path]


def contract(path: Path) -> Contract:
    read = contract_from_metadata(read_model(path).metadata)
    assert read is not None
    return read


def test_a_variant_is_found_with_what_its_certificate_says(recogniser: Path, certify: Make) -> None:
    assert certified_variants(recogniser) == ()
    int8, slim = certify(recogniser, "int8"), certify(recogniser, "slim", rows_alone=True, goal="smaller")
    first, second = certified_variants(recogniser)
    assert (first.tag, first.path, second.tag, second.path) == ("int8", int8, "slim", slim)
    assert (first.goal, first.budget, first.data, first.machine) == ("faster", "top1 -0.1pt", "1000 images", "a CPU")
    assert first.speed == {1: 2.125, 64: 1.5}
    assert (first.original_bytes, first.variant_bytes) == (2000, int8.stat().st_size)
    assert first.score["variant"] == 0.9895
    assert (first.per_row, second.per_row) == (False, True)
    assert first.words().startswith("within top1 -0.1pt, 2.1 × as fast at batch 1, 1.5 × at 64, ")


def test_a_variant_of_other_bytes_proves_nothing(recogniser: Path, certify: Make, make_recogniser: Make) -> None:
    certify(recogniser, "int8")
    make_recogniser(name=recogniser.name, sharpness=199.0)
    variants, (ignored,) = variants_beside(recogniser)
    assert variants == ()
    assert "other bytes" in ignored.reason
    with pytest.raises(ArtifactError, match=r"brightness\.onnx has no certified variant 'int8'; .*int8\.onnx is not one: .*other bytes"):
        load(recogniser, variant="int8")


def broken_stranger(path: Path, recogniser: Path) -> None:
    path.write_bytes(b"\x08\x0anot a model at all")


def empty(path: Path, recogniser: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path, recogniser: Path) -> None:
    path.mkdir()


def somebody_elses(path: Path, recogniser: Path) -> None:
    shutil.copy(recogniser, path)


def a_broken_contract(path: Path, recogniser: Path) -> None:
    model = onnx.load(recogniser)
    helper.set_model_props(model, {"onnxferry.schema": "1", "onnxferry.contract": "{"})
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("make", [broken_stranger, empty, a_folder, somebody_elses, a_broken_contract])
def test_what_somebody_else_put_beside_breaks_nothing(
    recogniser: Path, tmp_path: Path, make: Callable[[Path, Path], None], certify: Make
) -> None:
    make(tmp_path / "brightness.old.onnx", recogniser)
    certify(recogniser, "int8")
    variants, ignored = variants_beside(recogniser)
    assert [variant.tag for variant in variants] == ["int8"]
    assert [(other.tag, bool(other.reason)) for other in ignored] == [("old", True)]
    assert load(recogniser, variant="int8").labels == ("black", "dark", "light", "white")
    assert main(["inspect", str(recogniser)]) == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"variant": "fp16"}, "for a variant 'fp16', not 'int8'"),
        ({"variant": None}, "for a variant '', not 'int8'"),
        ({"of": 5}, "other bytes"),
        ({"of": "00" * 32}, "other bytes"),
    ],
)
def test_a_certificate_that_is_none(recogniser: Path, changes: dict[str, Any], reason: str, certify: Make) -> None:
    certify(recogniser, "int8", **changes)
    variants, (ignored,) = variants_beside(recogniser)
    assert variants == ()
    assert reason in ignored.reason


def test_odd_figures_in_a_certificate_are_left_out(recogniser: Path, certify: Make) -> None:
    odd = {"1": 1.5, "0": 2, "x": 3, "64": "fast", "8": -1, "16": True, "32": 1e308, "99999999": 2}
    certify(recogniser, "int8", speed=odd, bytes=["many"], score=[1], goal=["faster"], budget=7, machine=None)
    (variant,) = certified_variants(recogniser)
    assert variant.speed == {1: 1.5, 32: 1e308}
    assert (variant.original_bytes, dict(variant.score), variant.goal, variant.budget, variant.machine) == (0, {}, "", "", "")
    certify(recogniser, "int8", speed=None, bytes=None, budget="")
    assert certified_variants(recogniser)[0].words() == "certified"


def test_a_variant_must_be_interchangeable(recogniser: Path, tmp_path: Path, doubler: Path, certify: Make, make_recogniser: Make) -> None:
    colour = make_recogniser(contract(recogniser), "colour.onnx", channels=3)
    certify(recogniser, "colour", colour)
    other = make_recogniser(contract(recogniser).replace(labels=("a", "b", "c", "d")), "other.onnx")
    certify(recogniser, "other", other)
    model = onnx.load(recogniser)
    del model.graph.output[2]
    onnx.save(model, tmp_path / "fewer.onnx")
    certify(recogniser, "fewer", tmp_path / "fewer.onnx")
    certify(recogniser, "strange", doubler)
    variants, ignored = variants_beside(recogniser)
    assert variants == ()
    reasons = {other.tag: other.reason for other in ignored}
    assert "its inputs are not the original's: image: uint8 (batch, height, width, 3), expected" in reasons["colour"]
    assert "other labels" in reasons["other"]
    assert "its outputs are not the original's" in reasons["fewer"]
    assert "no certificate" in reasons["strange"]  # a certificate without a contract is none


def test_names_that_are_no_variants(recogniser: Path, tmp_path: Path, certify: Make) -> None:
    for name in (
        "brightness.decoder.onnx",
        "brightness.a.b.onnx",
        "brightness.int8.onnx.bak",
        "brightness.UP.onnx",
        "brightness2.int8.onnx",
    ):
        shutil.copy(recogniser, tmp_path / name)
    assert variants_beside(recogniser) == ((), ())
    odd = tmp_path / "br[ight]*.onnx"
    shutil.copy(recogniser, odd)
    certify(odd, "int8")
    assert [variant.tag for variant in certified_variants(odd)] == ["int8"]


def test_limits_reach_the_variants(recogniser: Path, certify: Make) -> None:
    certify(recogniser, "int8")
    with pytest.raises(ArtifactError, match="nodes"):
        certified_variants(recogniser, Limits(nodes=1))
    assert [variant.tag for variant in certified_variants(recogniser, Limits(nodes=7))] == ["int8"]


def test_load_takes_the_original_unless_told(recogniser: Path, certify: Make) -> None:
    path = certify(recogniser, "int8")
    with load(recogniser) as plain, load(recogniser, variant="int8") as model:
        assert plain.engine.path == recogniser
        assert model.engine.path == path
        assert isinstance(model, Classifier)
        assert model.contract is not None
        assert model.contract.certificate["variant"] == "int8"
        image = np.full((4, 4), 250, np.uint8)
        assert model.predict(image)[0].label == plain.predict(image)[0].label == "white"


def test_an_unknown_variant_is_named_with_those_there_are(recogniser: Path, certify: Make) -> None:
    with pytest.raises(
        ArtifactError, match=r"brightness\.onnx has no certified variant 'int8'; it has none; `onnxferry optimize` makes them"
    ):
        load(recogniser, variant="int8")
    certify(recogniser, "int8")
    certify(recogniser, "slim")
    with pytest.raises(ArtifactError, match="no certified variant 'int9'; did you mean 'int8'"):
        load(recogniser, variant="int9")
    with pytest.raises(ArtifactError, match="no certified variant 'zzz'; it has 'int8', 'slim'"):
        load(recogniser, variant="zzz")
    with pytest.raises(ArtifactError, match=r"no certified variant '\.\./x'"):
        load(recogniser, variant="../x")


def test_an_autoencoder_takes_the_variant_of_each_half(certify: Make, zoo_copy: Make) -> None:
    encoder = zoo_copy("digits-ae")
    decoder = encoder.with_name("digits-ae.decoder.onnx")
    int8 = certify(encoder, "int8")
    both = certify(encoder, "fp16"), certify(decoder, "fp16")
    only = certify(decoder, "slim")
    for tag, (first, second) in {"int8": (int8, decoder), "fp16": both, "slim": (encoder, only)}.items():
        with load(encoder, variant=tag) as model:
            assert isinstance(model, Autoencoder)
            assert model.decoder is not None
            assert (model.engine.path, model.decoder.path) == (first, second)
            assert model.decode(np.zeros((1, model.latent), np.float32)).shape == (1, 28, 28)
    with pytest.raises(ArtifactError, match="no certified variant 'fp1'; did you mean 'fp16'"):
        load(encoder, variant="fp1")


def test_a_variant_opened_by_its_own_path_keeps_its_other_half(certify: Make, zoo_copy: Make) -> None:
    encoder = zoo_copy("digits-ae")
    with load(certify(encoder, "int8")) as model:
        assert isinstance(model, Autoencoder)
        assert model.decoder is not None
        assert model.decoder.path == encoder.with_name("digits-ae.decoder.onnx")


def test_the_original_of_a_variant(recogniser: Path, tmp_path: Path, certify: Make) -> None:
    path = certify(recogniser, "int8")
    with load(path) as model:
        assert original_path(path, model.contract) == recogniser
        assert original_path(tmp_path / "renamed.onnx", model.contract) == tmp_path / "renamed.onnx"
        assert original_path(tmp_path / ".int8.onnx", model.contract) == tmp_path / ".int8.onnx"
    assert original_path(recogniser, contract(recogniser)) == recogniser
    assert original_path(recogniser, None) == recogniser


@pytest.mark.parametrize(("value", "alone"), [(True, True), (False, False), ("yes", False), (1, True), (None, False)])
def test_rows_alone_in_certificate_or_options(recogniser: Path, value: object, alone: bool) -> None:
    plain = contract(recogniser)
    assert runs_per_row(plain.replace(certificate={"rows_alone": value})) is alone
    assert runs_per_row(plain.replace(options={**plain.options, "rows_alone": value})) is alone
    assert not runs_per_row(None)


def test_a_graph_that_shares_scales_runs_alone_whatever_it_says(recogniser: Path, certify: Make, tmp_path: Path) -> None:
    model = onnx.load(recogniser)
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    gemm.input[0] = "rounded"
    at = list(model.graph.node).index(gemm)
    model.graph.node.insert(at, helper.make_node("DynamicQuantizeLinear", ["features"], ["q", "scale", "zero"]))
    model.graph.node.insert(at + 1, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["rounded"]))
    onnx.save(model, tmp_path / "dynamic.onnx")
    certify(recogniser, "int8", tmp_path / "dynamic.onnx")
    (variant,) = certified_variants(recogniser)
    assert variant.per_row


def test_the_zoo_with_variants(
    recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], certify: Make
) -> None:
    folder = tmp_path / "zoo" / "brightness"
    folder.mkdir(parents=True)
    original = recogniser.rename(folder / "brightness.onnx")
    (folder / "card.json").write_text(json.dumps({"description": "How bright?"}))
    variant = certify(original, "int8")
    monkeypatch.setattr(catalog, "_zoo", lambda: folder.parent)
    assert catalog.zoo_names() == ("brightness",)
    assert zoo_model("brightness").size == original.stat().st_size + variant.stat().st_size
    assert load("brightness", variant="int8").engine.path == variant
    assert main(["models", "brightness"]) == 0
    assert "int8" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    (listed,) = model["variants"]
    assert (listed["variant"], listed["bytes"], listed["speed"]) == ("int8", variant.stat().st_size, {"1": 2.125, "64": 1.5})


def test_models_names_both_halves_of_an_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], certify: Make, zoo_copy: Make
) -> None:
    folder = tmp_path / "digits-ae"
    folder.mkdir()
    encoder = zoo_copy("digits-ae", folder)
    (folder / "card.json").write_text("{}")
    certify(encoder, "slim")
    certify(encoder.with_name("digits-ae.decoder.onnx"), "int8")
    monkeypatch.setattr(catalog, "_zoo", lambda: tmp_path)
    assert main(["models", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert [variant["variant"] for variant in model["variants"]] == ["slim", "decoder.int8"]


def test_inspect_says_what_lies_beside(recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], certify: Make) -> None:
    certify(recogniser, "int8")
    shutil.copy(recogniser, tmp_path / "brightness.old.onnx")
    assert main(["inspect", str(recogniser)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "within top1 -0.1pt, 2.1 × as fast at batch 1" in out
    assert "not a variant of this file: it carries no certificate" in out
    assert main(["inspect", str(recogniser), "--json"]) == 0
    beside = json.loads(capsys.readouterr().out)["variants"]
    assert [(item["variant"], item["certified"]) for item in beside] == [("int8", True), ("old", False)]


@pytest.mark.parametrize(("where", "other"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_variant_is_offered_on_the_device_it_is_certified_for(recogniser: Path, certify: Make, where: str, other: str) -> None:
    certify(recogniser, "float16", device=where)
    (variant,) = certified_variants(recogniser)
    assert variant.device == where
    assert ("on CUDA" in variant.words()) is (where == "cuda")
    assert certified_variants(recogniser, device=where) == (variant,)
    assert certified_variants(recogniser, device=other) == ()
    words = rf"brightness\.float16\.onnx is certified for {where} alone; leave the device out, or say device='{where}'"
    with pytest.raises(ArtifactError, match=words):
        load(recogniser, variant="float16", device=other)
    with pytest.raises(InputError, match="device must be 'auto', 'cpu' or 'cuda', got 'gpu'"):
        load(recogniser, variant="float16", device="gpu")
    with pytest.raises(ArtifactError, match=words) if where == "cuda" else contextlib.nullcontext():
        load(recogniser, variant="float16", providers=["cpu"]).close()


def test_a_certificate_without_a_device_is_the_cpus(recogniser: Path, certify: Make) -> None:
    certify(recogniser, "int8")
    assert [variant.device for variant in certified_variants(recogniser)] == ["cpu"]
    with load(recogniser, variant="int8") as model:  # "auto" is where it is certified, GPU or not
        assert model.engine.device == "cpu"
