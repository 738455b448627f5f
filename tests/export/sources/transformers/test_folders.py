"""Model folders as ``save_pretrained`` writes them, randomly initialised: encoders, a decoder, a model of images; and broken ones."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onnxferry.export import export_model
from onnxferry.runtime import load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ArtifactError, DataError, ExportError, InputError

if os.environ.get("CI"):
    transformers = importlib.import_module("transformers")
else:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'onnxferry[transformers]'")

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
TEXTS = ["the ferry leaves at noon.", "not today, 北京", "", "a lovely film " * 30]


def word_pieces(folder: Path) -> int:
    """A BERT tokenizer from a vocabulary alone, as older folders have it."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "ferry", "leaves", "at", "noon", ".", "lovely", "film", "not", "today", ","]
    words += [*letters, *(f"##{letter}" for letter in letters)]
    folder.joinpath("vocab.txt").write_text("\n".join(words))
    said = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32}
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(said))
    return len(words)


def byte_pairs(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(["the ferry leaves at noon and the film was lovely"], trainer)
    made.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "model_max_length": 48}
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(said))
    return int(made.get_vocab_size())


def named(*labels: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def saved(folder: Path, kind: str, config: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentiment")
    size = word_pieces(folder)
    saved(
        folder,
        "BertForSequenceClassification",
        "BertConfig",
        vocab_size=size,
        max_position_embeddings=32,
        **named("bad", "fair", "good"),
        **SMALL,
    )
    return folder


def predicted(capsys: pytest.CaptureFixture[str], folder: Path, *texts: str) -> Any:
    """What ``onnxferry predict FOLDER "text"`` says of each."""
    capsys.readouterr()
    assert main(["predict", str(folder), *texts, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["predictions"]


@pytest.mark.slow
def test_encoder_classifies_text(sentiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = export_model(sentiment, None, tmp_path / "m.onnx")
    assert report.passed
    assert sum(not case.traced for case in report.compared) >= 5
    tokenizer = transformers.AutoTokenizer.from_pretrained(sentiment)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(sentiment)
    with torch.no_grad():
        wanted = torch.softmax(model(**tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")).logits, dim=-1).numpy()
    with load(tmp_path, device="cpu") as ours:  # the folder: one .onnx file with its tokenizer
        found = ours.classify(TEXTS)  # type: ignore[attr-defined]
        np.testing.assert_allclose([each.probabilities for each in found], wanted, atol=1e-6)
        assert [each.label for each in found] == [ours.labels[index] for index in wanted.argmax(axis=1)]
        assert ours.classify(TEXTS[0]).label == found[0].label  # type: ignore[attr-defined]
        assert ours.classify([]) == []  # type: ignore[attr-defined]
        with pytest.raises(InputError, match="a list of texts"):
            ours.classify([3])  # type: ignore[attr-defined]
    assert predicted(capsys, tmp_path, TEXTS[0], TEXTS[1])[1]["label"] == found[1].label
    assert main(["predict", str(sentiment), "a text"]) == 1
    assert f"was not exported: onnxferry export {sentiment} -o" in " ".join(capsys.readouterr().err.split())
    tokens = tmp_path / "m.tokenizer.json"
    tokens.write_text(tokens.read_text() + " ")
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        load(tmp_path / "m.onnx", device="cpu")
    tokens.unlink()
    with pytest.raises(ArtifactError, match="copy it from where"):
        load(tmp_path / "m.onnx", device="cpu")


@pytest.mark.slow
def test_encoder_embeds_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    model = saved(folder, "BertModel", "BertConfig", vocab_size=word_pieces(folder), max_position_embeddings=32, **SMALL)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
    (folder / "2_Normalize").mkdir()
    export_model(folder, None, tmp_path / "m.onnx")
    given = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = model(**given).last_hidden_state, given["attention_mask"][..., None]
        wanted = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    with load(tmp_path / "m.onnx", device="cpu") as ours:
        np.testing.assert_allclose(ours.embed(TEXTS), wanted, atol=1e-6)  # type: ignore[attr-defined]
        assert ours.embed(TEXTS[0]).shape == (32,)  # type: ignore[attr-defined]
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:2]), "utf-8")
    told = predicted(capsys, tmp_path, str(tmp_path / "texts.txt"), TEXTS[3])
    np.testing.assert_allclose([each["embedding"] for each in told], wanted[[0, 1, 3]], atol=1e-6)
    assert main(["predict", str(tmp_path), TEXTS[0], "--device", "cpu"]) == 0
    assert f"{told[0]['embedding'][0]:.4f}" in capsys.readouterr().out
    assert main(["predict", str(tmp_path), TEXTS[0], "--photo", "--device", "cpu"]) == 1
    assert "--photo is for models of images" in capsys.readouterr().err


@pytest.mark.slow
def test_encoder_tags_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    options = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 32, **named("O", "PER", "LOC")}
    saved(folder, "DistilBertForTokenClassification", "DistilBertConfig", vocab_size=word_pieces(folder), **options)
    export_model(folder, None, tmp_path / "m.onnx")
    text = "the ferry leaves at noon."
    with load(tmp_path / "m.onnx", device="cpu") as ours:
        tags = ours.tag(text)  # type: ignore[attr-defined]
    assert [tag.text for tag in tags] == ["the", "ferry", "leaves", "at", "noon", "."]
    assert all(text[tag.start : tag.end] == tag.text and tag.label in ("O", "PER", "LOC") for tag in tags)
    (told,) = predicted(capsys, tmp_path, text)
    assert [(each["text"], each["label"], each["start"]) for each in told["tags"]] == [(tag.text, tag.label, tag.start) for tag in tags]
    assert main(["predict", str(tmp_path), text, "--device", "cpu"]) == 0
    assert "leaves" in capsys.readouterr().out


@pytest.mark.slow
def test_decoder_goes_on_with_its_cache(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    size = byte_pairs(folder)
    options = {"max_position_embeddings": 48, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, **SMALL}
    model = saved(folder, "LlamaForCausalLM", "LlamaConfig", vocab_size=size, **options)
    report = export_model(folder, None, tmp_path / "m.onnx")
    assert "the first call, without a past" in {case.name for case in report.compared}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the ferry", return_tensors="pt")["input_ids"]
    wanted = tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False)[0], skip_special_tokens=True)
    with load(tmp_path / "m.onnx", device="cpu") as ours:
        assert ours.generate("the ferry", tokens=12) == wanted  # type: ignore[attr-defined]
        drawn = [ours.generate("the ferry", tokens=12, temperature=1.0, seed=seed) for seed in (1, 1, 2)]  # type: ignore[attr-defined]
        assert drawn[0] == drawn[1] != drawn[2]
        assert len(tokenizer(ours.generate("the ferry", tokens=500))["input_ids"]) <= 60  # type: ignore[attr-defined]


def vision_folder(folder: Path, **said: Any) -> Any:
    model = saved(folder, "ViTForImageClassification", "ViTConfig", image_size=32, patch_size=8, **named("cat", "dog", "owl"), **SMALL)
    preparation = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.6], **said}
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return model


@pytest.mark.slow
def test_model_of_images(tmp_path: Path) -> None:
    model = vision_folder(tmp_path / "folder")
    export_model(tmp_path / "folder", None, tmp_path / "m.onnx")
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = (photo / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.5, 0.6]
    with torch.no_grad():
        wanted = torch.softmax(model(pixel_values=torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)).logits, -1)[0].numpy()
    with load(tmp_path / "m.onnx", device="cpu") as ours:
        found = ours.predict_one(photo)  # type: ignore[attr-defined]
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-6)
    assert found.label == ("cat", "dog", "owl")[int(wanted.argmax())]


def changed(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def refused(sentiment: Path, tmp_path: Path, name: str) -> tuple[type[Exception], str]:
    """A folder that is broken in one way, at ``tmp_path / "folder"``, and what is said of it."""
    folder = tmp_path / "folder"
    shutil.copytree(sentiment, folder)
    weights = folder / "model.safetensors"
    if name == "no weights":
        weights.unlink()
        return InputError, "has a config.json and no weights"
    if name == "pickle":
        weights.rename(folder / "pytorch_model.bin")
        return InputError, "a pickle, which may run code"
    if name == "remote code":
        changed(folder, model_type="mine", architectures=["MineModel"], auto_map={"AutoModel": "modeling_mine.MineModel"})
        (folder / "modeling_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\n")
        return InputError, "its code lies in the folder, which is never run"
    if name == "unknown":
        changed(folder, model_type="nothing", architectures=["NothingModel"])
        return InputError, "has no such model"
    if name == "other weights":
        changed(folder, num_hidden_layers=2)
        return ExportError, "lack 16 of BertForSequenceClassification, such as bert.encoder.layer.1"
    if name == "torn weights":
        weights.write_bytes(weights.read_bytes()[:200])
        return ExportError, "transformers cannot load"
    if name == "torn config":
        (folder / "config.json").write_text("{")
        return DataError, "cannot be read as JSON"
    if name == "encoder and decoder":
        changed(folder, is_encoder_decoder=True)
        return InputError, "has an encoder and a decoder"
    changed(folder, quantization_config={"bits": 4})
    return InputError, "are quantized"


BROKEN = (
    "no weights", "pickle", "remote code", "unknown", "other weights", "torn weights", "torn config", "encoder and decoder", "quantized",
)  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused(sentiment: Path, tmp_path: Path, name: str) -> None:
    kind, words = refused(sentiment, tmp_path, name)
    with pytest.raises(kind, match=words):
        export_model(tmp_path / "folder", None, tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"resample": 1}, "Pillow's filter 1"),
        ({"size": {"shortest_edge": 32}}, "keeps images of any shape"),
        ({"do_resize": False}, "does not resize images"),
        ({"size": "large"}, "which is not read"),
    ],
)
def test_preparations_without_an_equivalent_are_refused(tmp_path: Path, said: Mapping[str, Any], words: str) -> None:
    vision_folder(tmp_path / "folder", **said)
    with pytest.raises(InputError, match=words):
        export_model(tmp_path / "folder", None, tmp_path / "m.onnx")


def test_options_that_do_not_apply(sentiment: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels does not apply"):
        export_model(sentiment, None, tmp_path / "m.onnx", labels=["a", "b", "c"])
