"""The whole-task graph of a text generator against PyTorch, byte by byte: cells, depths, batches, states, ways to sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnxferry.export import export_checkpoint
from onnxferry.export.families.rnn.export import text_cases
from onnxferry.export.families.rnn.graph import text_graph
from onnxferry.export.families.rnn.source import TextSource, prompt_batch
from onnxferry.export.graphs.nodes import all_nodes
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.runtime.artifact.metadata import contract_from_metadata
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import CheckpointError, InputError, ParityError
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.text_generator import TextGenerator
from onnxferry.train.families.rnn import HIGHEST_UNIFORM, START, Rnn, RnnConfig, nats_per_byte, running_weights, state_after
from onnxferry.train.loop.checkpoint import Checkpoint

TEXT = b"The quality of mercy is not strain'd,\nIt droppeth as the gentle rain from heaven\nUpon the place beneath.\n" * 8
NOTHING = np.zeros((1, 0), np.uint8)


def network(cell: str, depth: int, *, half: bool = False, tied: bool = False, skip: bool = True, width: int = 32) -> Rnn:
    torch.manual_seed(0)
    made = Rnn(RnnConfig(cell=cell, depth=depth, width=width, embedding=8, half=half, tied=tied, skip=skip)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if half:
                parameter.copy_(parameter.half().float())
        made.head.weight.normal_(0, 0.7)
        made.bias.normal_(0, 1)
        if half:
            made.head.weight.copy_(made.head.weight.half().float())
            made.bias.copy_(made.bias.half().float())
    return made


def engine(made: Rnn) -> Engine:
    return Engine(text_graph(made).SerializeToString(), device="cpu", threads=1)


def margin(made: Rnn, state: torch.Tensor, written: np.ndarray, uniforms: np.ndarray, place: int, options: dict[str, float]) -> float:
    """How near, as a share of the total, the draw at ``place`` lies to a border between two bytes, after the bytes before it."""
    with torch.inference_mode():
        if place:
            _, state = made(torch.from_numpy(written[:place].astype(np.int64))[:, None], state)
        running = running_weights(made.logits_of(state).double(), **{"temperature": 1.0, **options})[0]  # type: ignore[arg-type]
    return float((running / running[-1] - min(float(uniforms[place]), HIGHEST_UNIFORM)).abs().min())


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.9}], ids=["plain", "filtered"])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_same_numbers_give_the_same_thousand_bytes_as_pytorch(cell: str, depth: int, batch: int, options: dict[str, float]) -> None:
    made = network(cell, depth)
    rng = np.random.default_rng(depth * 10 + batch)
    state = np.tanh(rng.standard_normal((batch, made.config.slots, 32))).astype(np.float32)
    uniforms = rng.random((batch, 1000), dtype=np.float32)
    feeds = {"prompt": np.zeros((batch, 0), np.uint8), "uniforms": uniforms, "state": state}
    feeds |= {name: np.array(value, np.float32) for name, value in options.items()}
    expected = TextSource(made, feeds).run(feeds)
    with engine(made) as session:
        actual = session.run(feeds)
    for row in range(batch):
        different = np.flatnonzero(expected["bytes"][row] != actual["bytes"][row])
        if different.size:
            # Only a tie may tip the other way; what comes after it is another text.
            near = margin(made, torch.from_numpy(state[row : row + 1]), expected["bytes"][row], uniforms[row], int(different[0]), options)
            print(f"row {row}, byte {different[0]}: a tie, the draw lies {near:.1e} from the border between two bytes")
            assert near < 3e-6
        else:
            np.testing.assert_allclose(actual["state_after"][row], expected["state_after"][row], rtol=0, atol=2e-5)
    assert len(set(expected["bytes"].ravel().tolist())) > 20


@pytest.mark.parametrize("more", [{}, {"tied": True}, {"skip": False}], ids=["", "tied", "no skip"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_way_to_sample_and_ragged_prompts_give_what_pytorch_gives(cell: str, more: dict[str, bool]) -> None:
    made = network(cell, 2, **more)  # type: ignore[arg-type]
    cases = text_cases(made, TEXT)
    source = TextSource(made, cases["two prompts"])
    with engine(made) as session:
        for case, feeds in cases.items():
            expected, actual = source.run(feeds), session.run(feeds)
            assert np.array_equal(actual["bytes"], expected["bytes"]), case
            for name in ("log_probabilities", "next_logits", "state_after"):
                np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=1e-4, err_msg=f"{case}: {name}")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_nothing_of_a_state_is_lost_when_the_prompt_is_empty(cell: str) -> None:
    made = network(cell, 2)
    state = np.tanh(np.random.default_rng(0).standard_normal((3, made.config.slots, 32))).astype(np.float32)
    nothing = {"prompt": np.zeros((3, 0), np.uint8), "uniforms": np.zeros((3, 0), np.float32), "state": state}
    padded = {**nothing, "prompt": np.full((3, 4), 65, np.uint8), "prompt_length": np.array([0, 4, 0])}
    with engine(made) as session:
        assert np.array_equal(session.run(nothing)["state_after"], state)
        after = session.run(padded)
        assert np.array_equal(after["state_after"][[0, 2]], state[[0, 2]])
        assert not np.allclose(after["state_after"][1], state[1])
        assert np.array_equal(after["log_probabilities"][[0, 2]], np.zeros((2, 4)))


def test_a_text_written_in_two_runs_is_the_text_written_in_one() -> None:
    made = network("lstm", 2)
    uniforms = np.random.default_rng(0).random((1, 60), dtype=np.float32)
    prompt = np.frombuffer(b"To be", np.uint8)[None]
    with engine(made) as session:
        whole = session.run({"prompt": prompt, "uniforms": uniforms})
        first = session.run({"prompt": prompt, "uniforms": uniforms[:, :23]})
        second = session.run({"prompt": NOTHING, "uniforms": uniforms[:, 23:], "state": first["state_after"]})
        assert np.array_equal(np.concatenate([first["bytes"], second["bytes"]], axis=1), whole["bytes"])
        assert np.array_equal(second["state_after"], whole["state_after"])
        # And what was written, read as a prompt, leads to the same state.
        read = session.run({"prompt": np.concatenate([prompt, whole["bytes"]], axis=1), "uniforms": np.zeros((1, 0), np.float32)})
        np.testing.assert_allclose(read["state_after"], whole["state_after"], rtol=0, atol=1e-5)


def test_without_a_state_a_text_follows_a_line_break() -> None:
    made = network("gru", 1)
    start = state_after(made, START).numpy()
    feeds = {**prompt_batch([b"Good morrow"]), "uniforms": np.random.default_rng(0).random((1, 20), dtype=np.float32)}
    with engine(made) as session:
        default, given = session.run(feeds), session.run({**feeds, "state": start})
        assert np.array_equal(default["bytes"], given["bytes"])
        score = -default["log_probabilities"].mean()
    assert score == pytest.approx(nats_per_byte(made, feeds["prompt"][0]), abs=1e-5)


def test_weights_stand_in_the_file_once_and_in_half_precision_where_that_loses_nothing() -> None:
    whole, half = text_graph(network("gru", 2, width=96)), text_graph(network("gru", 2, half=True, width=96))
    parameters = sum(p.numel() for p in network("gru", 2, width=96).parameters())
    assert 4 * parameters < whole.ByteSize() < 4 * parameters + 20_000
    assert 2 * parameters < half.ByteSize() < 2 * parameters + 20_000
    # Constants stand in the outer graph only: subgraphs with initialisers cannot be saved again by some runtimes.
    for node in all_nodes(half):
        for attribute in node.attribute:
            assert not attribute.g.initializer
    made = network("gru", 2, half=True, width=96)
    feeds = {**prompt_batch([TEXT[:50]]), "uniforms": np.zeros((1, 0), np.float32)}
    with engine(made) as session:
        expected = TextSource(made, {**feeds, "uniforms": feeds["uniforms"]}).run({**feeds, "uniforms": np.full((1, 1), 0.5, np.float32)})
        np.testing.assert_allclose(session.run(feeds)["log_probabilities"], expected["log_probabilities"], rtol=0, atol=2e-5)


def test_the_graph_draws_no_random_numbers_and_uses_standard_operators_only() -> None:
    model = text_graph(network("lstm", 2))
    operators = {node.op_type for node in all_nodes(model)}
    assert not operators & {"Multinomial", "RandomUniform", "RandomNormal", "Bernoulli"}
    assert {node.domain for node in all_nodes(model)} == {""}
    assert {"LSTM", "Scan", "If"} <= operators
    assert model.opset_import[0].version == 18
    assert model.ir_version == 9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.pt"
    made = network("gru", 2, half=True)
    weights = {name: weight.clone() for name, weight in made.state_dict().items()}
    Checkpoint(
        family="rnn",
        config={"cell": "gru", "depth": 2, "width": 32, "embedding": 8, "tied": False, "half": True},
        weights=weights,
        metrics={"epoch": 3, "test": {"loss": 1.5}},
        data={"name": "mercy", "sha256": "0" * 64, "source": "Shakespeare"},
        provenance={"command": "onnxferry train rnn --data /home/somebody/secret/mercy.txt --out /tmp/runs/mercy"},
        examples={"text": torch.frombuffer(bytearray(TEXT), dtype=torch.uint8)},
    ).save(path)
    return path


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "mercy.onnx"
    report = export_checkpoint(checkpoint, path, license="MIT", command=["onnxferry", "export", "/tmp/runs/mercy"])
    assert report.passed
    assert report.summary()["untraced_shapes"] >= 5
    return path


def test_a_checkpoint_becomes_an_artifact_that_carries_its_proof(artifact: Path) -> None:
    with load(artifact, device="cpu") as model:
        assert isinstance(model, TextGenerator)
        contract = model.contract
        assert contract is not None
        assert (contract.kind, contract.family, contract.name) == ("text-generator", "rnn", "mercy")
        assert contract.options["random"].startswith("numpy.random.Generator(PCG64(seed))")
        assert contract.parity["passed"] is True
        assert len(contract.goldens) == 3
        report = replay_goldens(model.run, contract)
        assert report.passed
        assert {c.output for c in report.comparisons} == {"bytes", "log_probabilities", "next_logits", "state_after"}
    raw = artifact.read_bytes()
    assert b"secret" not in raw
    assert b"/tmp" not in raw


def test_a_file_with_one_weight_changed_does_not_pass_its_golden_samples(artifact: Path) -> None:
    model = onnx.load(artifact)
    tensor = next(t for t in model.graph.initializer if t.name.startswith("head_half") or t.name == "head")
    weight = onnx.numpy_helper.to_array(tensor).copy()
    weight[101] *= -1  # the byte e
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    contract = contract_from_metadata({p.key: p.value for p in model.metadata_props})
    assert contract is not None
    with Engine(model.SerializeToString(), device="cpu") as session:
        assert not replay_goldens(session.run, contract).passed


def test_a_graph_that_does_something_else_is_refused_and_nothing_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgets_linear_before_reset(made: Rnn) -> onnx.ModelProto:
        model = text_graph(made)
        for node in model.graph.node:
            if node.op_type == "GRU":
                del node.attribute[[a.name for a in node.attribute].index("linear_before_reset")]
        return model

    monkeypatch.setattr("onnxferry.export.families.rnn.source.text_graph", forgets_linear_before_reset)
    with pytest.raises(ParityError) as caught:
        export_checkpoint(checkpoint, tmp_path / "wrong.onnx")
    assert caught.value.report is not None
    assert list(tmp_path.iterdir()) == []


def test_golden_samples_of_one_s_own_and_none(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    own = {"prompt": np.frombuffer(b"Shylock", np.uint8)[None].copy(), "uniforms": np.full((1, 5), 0.5, np.float32)}
    export_checkpoint(checkpoint, path, golden=[own])
    with load(path, device="cpu") as model:
        assert model.contract is not None
        assert np.array_equal(model.contract.goldens[0].inputs["prompt"], own["prompt"])
    export_checkpoint(checkpoint, path, golden=False)
    with load(path, device="cpu") as model:
        assert model.contract is not None
        assert not model.contract.goldens
    with pytest.raises(InputError, match="has no 'uniforms'"):
        export_checkpoint(checkpoint, path, golden=[{"prompt": own["prompt"]}])
    with pytest.raises(InputError, match="a text generator has no classes"):
        export_checkpoint(checkpoint, path, with_labels=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": np.zeros(7, np.uint8)}, r"golden sample's prompt must be uint8 with 2 axes, got uint8 \(7,\)"),
        ({"prompt": np.zeros((1, 7), np.int64)}, "prompt must be uint8 with 2 axes, got int64"),
        ({"prompt": "Shylock"}, "prompt must be uint8 with 2 axes, got str"),
        ({"uniforms": np.full(5, 0.5, np.float32)}, "uniforms must be float32 with 2 axes"),
        ({"uniforms": np.full((2, 5), 0.5, np.float32)}, "has 1 prompts and 2 rows of uniforms"),
        ({"warmth": np.array(1.0, np.float32)}, "has 'warmth', which no text generator takes"),
    ],
)
def test_golden_samples_that_do_not_fit_are_one_clear_error(
    checkpoint: Path, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    own = {"prompt": np.frombuffer(b"Shylock", np.uint8)[None].copy(), "uniforms": np.full((1, 5), 0.5, np.float32)}
    with pytest.raises(InputError, match=words):
        export_checkpoint(checkpoint, tmp_path / "own.onnx", golden=[{**own, **change}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"examples": {}}, "no examples 'text'"),
        ({"examples": {"text": torch.zeros(4, 100, dtype=torch.uint8)}}, r"'text' are torch.uint8 \(4, 100\), not torch.uint8 \(n\)"),
        ({"examples": {"text": torch.zeros(100)}}, "'text' are torch.float32"),
        ({"examples": {"text": torch.zeros(3, dtype=torch.uint8)}}, "n >= 18"),
        ({"config": {"cell": "gru", "depth": 0}}, "makes no network .depth must be at least 1"),
        ({"config": {"cell": "gru", "depth": 2.0}}, "depth = 2.0, expected int"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(checkpoint: Path, tmp_path: Path, change: dict[str, object], words: str) -> None:
    torch.save({**torch.load(checkpoint, weights_only=True), **change}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=words):
        export_checkpoint(tmp_path / "odd.pt", tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()


def test_a_command_that_no_shell_reads_is_one_clear_error() -> None:
    with pytest.raises(CheckpointError, match="command line cannot be parsed"):
        without_paths({"command": "onnxferry train rnn --data 'mercy.txt"})
