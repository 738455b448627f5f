"""The whole-task graph of a translator against PyTorch, byte by byte: batches, lengths, empty texts, beams, attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from onnxferry.export import export_checkpoint
from onnxferry.export.families.seq2seq.export import batch_of, clear, translator_cases
from onnxferry.export.families.seq2seq.graph import translator_graph
from onnxferry.export.families.seq2seq.source import TranslatorSource, search
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import InputError, ParityError
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.translator import Translator
from onnxferry.train.families.seq2seq import Seq2Seq, Seq2SeqConfig, padded, translate
from onnxferry.train.loop.checkpoint import Checkpoint

TEXTS = [b"3 mars 2019", "2019年3月3日".encode(), b"Mar 3, '19", b"x", "३ मार्च २०१९".encode(), b"3. III. 2019"]


FEW = (0, 45, 50, 97, 195, 255)
"""An alphabet: a translation may hold four bytes of UTF-8 and one that is none."""


def network(half: bool = False, alphabet: tuple[int, ...] = ()) -> Seq2Seq:
    torch.manual_seed(1)
    config = Seq2SeqConfig(embedding=8, encoder=12, decoder=14, attention=6, half=half, max_bytes=12, alphabet=alphabet)
    made = Seq2Seq(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.5)  # so that translations differ
            if half:
                parameter.copy_(parameter.half().float())
        made.head.bias[0] = 2.0  # and that some of them end
    return made


def checkpoint(made: Seq2Seq) -> Checkpoint:
    from dataclasses import asdict

    text, lengths = padded(TEXTS)
    return Checkpoint(
        family="seq2seq", config=asdict(made.config), weights=dict(made.state_dict()), examples={"text": text, "lengths": lengths},
        data={"name": "test"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def session() -> Engine:
    return Engine(translator_graph(network()).SerializeToString(), device="cpu", threads=1)


@pytest.fixture(scope="module")
def of_few() -> Engine:
    return Engine(translator_graph(network(alphabet=FEW)).SerializeToString(), device="cpu", threads=1)


@pytest.mark.parametrize("alphabet", [(), FEW], ids=["all bytes", "few bytes"])
@pytest.mark.parametrize("case", translator_cases(TEXTS))
def test_every_case_gives_what_pytorch_gives(session: Engine, of_few: Engine, case: str, alphabet: tuple[int, ...]) -> None:
    made = network(alphabet=alphabet)
    feeds = clear(made, translator_cases(TEXTS)[case], 0)
    expected, actual = TranslatorSource(made, feeds).run(feeds), (of_few if alphabet else session).run(feeds)
    assert set(np.unique(actual["bytes"]).tolist()) <= set(made.config.writable)
    assert np.array_equal(actual["bytes"], expected["bytes"])
    np.testing.assert_allclose(actual["log_probability"], expected["log_probability"], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(actual["attention"], expected["attention"], rtol=0, atol=1e-5)
    weights = actual["attention"].sum(axis=3)
    assert np.allclose(weights[weights > 0.5], 1, atol=1e-5)
    assert set(np.unique(weights > 0.5)) <= {False, True}


def test_translations_end_and_differ(session: Engine) -> None:
    """Else the cases above would compare little."""
    bytes_ = session.run({**batch_of(TEXTS), "beam": np.array(4, np.int64)})["bytes"]
    lengths = (bytes_ != 0).sum(axis=2)
    assert lengths.min() < lengths.max()
    assert len({row.tobytes() for row in bytes_.reshape(-1, bytes_.shape[2])}) > 8


def test_a_text_in_a_batch_is_translated_as_alone(session: Engine) -> None:
    for beam in (1, 3):
        options = {"beam": np.array(beam, np.int64)}
        together = session.run({**batch_of(TEXTS), **options})
        for row, text in enumerate(TEXTS):
            alone = session.run({**batch_of([text]), **options})
            steps = alone["bytes"].shape[2]
            assert np.array_equal(together["bytes"][row, :, :steps], alone["bytes"][0])
            assert not together["bytes"][row, :, steps:].any()
            np.testing.assert_allclose(together["log_probability"][row], alone["log_probability"][0], atol=1e-5)
            seen = together["attention"][row, :, :steps]
            np.testing.assert_allclose(seen[..., : len(text) + 1], alone["attention"][0], atol=1e-6)
            assert not seen[..., len(text) + 1 :].any()


def test_the_padding_s_bytes_are_not_read(session: Engine) -> None:
    feeds = batch_of(TEXTS)
    dirty = {
        **feeds,
        "text": np.where(np.arange(feeds["text"].shape[1]) < feeds["text_length"][:, None], feeds["text"], 255).astype(np.uint8),
    }
    one, other = session.run(feeds), session.run(dirty)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_one_beam_is_greedy_and_more_find_no_worse() -> None:
    made = network()
    for text in TEXTS:
        greedy = search(made, text, 1, 12, 0.0).beams[0]
        assert bytes(greedy.bytes_).rstrip(b"\0") == translate(made, [text])[0]
        scores = [search(made, text, width, 12, 0.0).beams[0].score for width in (1, 60)]
        assert scores[1] >= scores[0] - 1e-6


def test_export_load_and_the_file_s_own_samples(tmp_path: Path) -> None:
    made = network(half=True)
    report = export_checkpoint_of(made, tmp_path / "t.onnx")
    assert report.passed
    assert report.summary()["untraced_shapes"] > 10
    with load(tmp_path / "t.onnx") as model:
        assert isinstance(model, Translator)
        assert model.contract is not None
        assert model.contract.defaults["beam"] == 1
        assert replay_goldens(model.engine.run, model.contract, allow_loose=False).passed
        assert model.translate(TEXTS) == [each.decode(errors="replace") for each in translate(made, TEXTS)]
    size = (tmp_path / "t.onnx").stat().st_size
    export_checkpoint_of(made, tmp_path / "t8.onnx", bits=8)
    assert (tmp_path / "t8.onnx").stat().st_size < size
    with load(tmp_path / "t8.onnx") as model:
        assert model.contract is not None
        assert model.contract.provenance["weight_bits"] == 8


def export_checkpoint_of(made: Seq2Seq, path: Path, **options: object):  # type: ignore[no-untyped-def]
    checkpoint(made).save(path.with_suffix(".pt"))
    return export_checkpoint(path.with_suffix(".pt"), path, **options)  # type: ignore[arg-type]


def test_a_graph_that_does_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxferry.export.families.seq2seq import source

    def broken(made: Seq2Seq):  # type: ignore[no-untyped-def]
        model = translator_graph(made)
        loop = next(node for node in model.graph.node if node.op_type == "Loop")
        body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
        next(node for node in body.node if node.op_type == "Sub").input[:] = ["greedy_state", "greedy_state"]
        return model

    monkeypatch.setattr(source, "translator_graph", broken)
    with pytest.raises(ParityError):
        export_checkpoint_of(network(), tmp_path / "t.onnx")
    assert not (tmp_path / "t.onnx").exists()


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for options, words in (
        ({"with_labels": True}, "has no classes"),
        ({"bits": 3}, "cannot be stored in 3 bits"),
        ({"golden": [{"beam": np.array(1)}]}, "has no 'text'"),
        ({"golden": [{"text": np.zeros((1, 1), np.uint8), "heat": np.array(1)}]}, "which no translator takes"),
        ({"golden": [{"text": np.zeros(1, np.uint8)}]}, "must be uint8 with 2 axes"),
    ):
        with pytest.raises(InputError, match=words):
            export_checkpoint_of(network(), tmp_path / "t.onnx", **options)
