"""Text weights in 8 bits: rounded once, stored exactly, carried by the file, the network that is rebuilt of it, and its 8-bit loop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from onnxferry.export import export_checkpoint
from onnxferry.export.families.rnn.bits import rounded
from onnxferry.export.families.rnn.export import text_cases
from onnxferry.export.families.rnn.graph import text_graph
from onnxferry.export.families.rnn.source import TextSource, prompt_batch
from onnxferry.export.graphs.nodes import RUNTIME_DOMAIN, all_nodes
from onnxferry.export.graphs.weight_storage import exact_rows, row_rounded, stored, stored_values
from onnxferry.export.optimize.optimize import optimize
from onnxferry.export.optimize.rewrites.integer_text import integer_text
from onnxferry.export.optimize.rewrites.quantize_text import eight_bit_loop
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.tasks.loading import load
from onnxferry.train.families.rnn import Rnn, RnnConfig
from onnxferry.train.loop.checkpoint import Checkpoint
from scoreboard.rebuilt import rebuild_text

TEXT = b"The quality of mercy is not strain'd,\nIt droppeth as the gentle rain from heaven\nUpon the place beneath.\n" * 8


def network(cell: str, *, tied: bool = False, skip: bool = True, width: int = 32, half: bool = True) -> Rnn:
    torch.manual_seed(0)
    made = Rnn(RnnConfig(cell=cell, depth=2, width=width, embedding=32, tied=tied, skip=skip, half=half)).eval()
    with torch.no_grad():
        made.head.weight.normal_(0, 0.7)
        made.bias.normal_(0, 1)
    return rounded(made, 16) if half else made


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with Engine(model.SerializeToString(), device="cpu", threads=1) as session:
        return session.run(feeds)


def test_a_row_is_rounded_to_the_nearest_of_its_scale() -> None:
    weight = np.random.default_rng(0).standard_normal((1, 50, 64)).astype(np.float32)
    weight[0, 3] = 0
    weight[0, 4] *= 1e-30
    rows = row_rounded(weight)
    assert rows.numbers.dtype == np.int8
    assert rows.scales.shape == (1, 50, 1)
    assert (np.abs(rows.numbers).max(axis=-1)[0, np.arange(50) != 3] == 127).all()
    assert (np.abs(rows.value() - weight) <= 0.5001 * rows.scales)[0, np.arange(50) != 3].all()
    assert not rows.value()[0, 3].any()
    # Ties to even: 0.5 and 1.5 of a scale.
    assert row_rounded(np.array([[127.0, 0.5, 1.5, -2.5]], np.float32)).numbers.tolist() == [[127, 0, 2, -2]]


def test_what_was_rounded_is_known_again_exactly_and_nothing_else_is() -> None:
    rng = np.random.default_rng(1)
    for seed in range(20):
        weight = (rng.standard_normal((128, 32)) * np.exp(rng.standard_normal((128, 1)) * 3)).astype(np.float32)
        value = row_rounded(weight).value()
        rows = exact_rows(value)
        assert rows is not None, seed
        assert np.array_equal(rows.value(), value)
        assert np.array_equal(row_rounded(value).value(), value)
        value[77, 5] = np.nextafter(value[77, 5], np.float32(9))
        assert exact_rows(value) is None
    assert exact_rows(weight) is None
    assert exact_rows(weight[0]) is None


@pytest.mark.parametrize("kind", ["int8", "half", "float32"])
def test_a_weight_takes_the_smallest_form_that_loses_nothing(kind: str) -> None:
    weight = np.random.default_rng(2).standard_normal((16, 32)).astype(np.float32)
    weight = {"int8": row_rounded(weight).value(), "half": weight.astype(np.float16).astype(np.float32), "float32": weight}[kind]
    tensors, _ = stored("w", weight)
    assert str(onnx.numpy_helper.to_array(tensors[0]).dtype) == {"half": "float16"}.get(kind, kind)
    assert np.array_equal(stored_values(tensors)["w"], weight)


def test_bits_that_make_no_sense_are_refused() -> None:
    made = network("gru", half=False)
    assert rounded(made, 32) is made
    with pytest.raises(InputError, match="cannot be stored in 4 bits; expected 8, 16 or 32"):
        rounded(made, 4)
    with torch.no_grad():
        made.bias[0] = 1e5
    with pytest.raises(InputError, match=r"'bias' holds numbers beyond half precision's range"):
        rounded(made, 16)
    assert torch.equal(rounded(made, 8).bias, made.bias)


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_graph_in_8_bits_gives_what_the_rounded_network_gives(cell: str, tied: bool) -> None:
    made = network(cell, tied=tied)
    small = rounded(made, 8)
    assert not torch.equal(small.layers[0].weight_hh_l0, made.layers[0].weight_hh_l0)  # type: ignore[arg-type]
    model = text_graph(small)
    matrices = sum(p.numel() for p in small.parameters() if p.ndim == 2)
    held = sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8)
    assert held == matrices
    cases = text_cases(small, TEXT)
    source = TextSource(small, cases["two prompts"])
    with Engine(model.SerializeToString(), device="cpu", threads=1) as session:
        for case, feeds in list(cases.items())[:6]:
            expected, actual = source.run(feeds), session.run(feeds)
            assert np.array_equal(actual["bytes"], expected["bytes"]), case
            for name in ("log_probabilities", "next_logits", "state_after"):
                np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=1e-4, err_msg=f"{case}: {name}")


def test_the_runtime_makes_float32_of_the_weights_when_it_loads_them(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(text_graph(rounded(network("lstm"), 8)).SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert not [t.name for t in optimised.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert not [n.name for n in all_nodes(optimised) if any(name.endswith(("_int8", "_scales")) for name in n.input)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.pt"
    made = network("lstm")
    weights = {name: weight.clone() for name, weight in made.state_dict().items()}
    config = {"cell": "lstm", "depth": 2, "width": 32, "embedding": 32}
    examples = {"text": torch.frombuffer(bytearray(TEXT), dtype=torch.uint8)}
    Checkpoint(family="rnn", config=config, weights=weights, data={"name": "mercy"}, examples=examples).save(path)
    return path


def test_a_checkpoint_in_8_bits_is_proved_and_rebuilt(run_folder: Path, tmp_path: Path) -> None:
    sizes = {}
    for bits in (8, 16, None):
        path = tmp_path / f"mercy-{bits}.onnx"
        assert export_checkpoint(run_folder, path, bits=bits).passed
        sizes[bits] = path.stat().st_size
        with load(path, device="cpu") as model:
            assert model.contract is not None
            assert model.contract.provenance["weight_bits"] == (bits or 16)
            assert replay_goldens(model.run, model.contract).passed
    assert sizes[8] < sizes[16] - 5000
    assert abs(sizes[16] - sizes[None]) < 100  # the same weights; the contract holds times
    rebuilt, _ = rebuild_text(tmp_path / "mercy-8.onnx")
    expected = rounded(network("lstm"), 8).state_dict()
    for name, value in rebuilt.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_bits_are_for_text_runs(tmp_path: Path, scale_model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Checkpoint(family="gan", config={}, weights={}).save(tmp_path / "best.pt")
    with pytest.raises(InputError, match="the option bits is for text generators and translators, and this run's family is 'gan'"):
        export_checkpoint(tmp_path / "best.pt", tmp_path / "gan.onnx", bits=8)
    (tmp_path / "scale.onnx").write_bytes(scale_model)
    assert main(["export", str(tmp_path / "scale.onnx"), "-o", str(tmp_path / "out.onnx"), "--bits", "8"]) == 1
    assert "the option bits does not apply to an .onnx file: it is for text generators" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_loop_in_8_bits_reads_as_its_source_and_writes_nearly_so(cell: str, bits: int) -> None:
    made = rounded(network(cell), bits)
    model = text_graph(made)
    before = model.SerializeToString(deterministic=True)
    variant = eight_bit_loop(model)
    assert model.SerializeToString(deterministic=True) == before
    products = [node for node in all_nodes(variant) if node.op_type == "MatMulNBits"]
    assert len(products) == 4  # the head, the second layer's inputs, two recurrences
    assert {node.domain for node in products} == {RUNTIME_DOMAIN}
    assert [opset.version for opset in variant.opset_import if opset.domain == RUNTIME_DOMAIN] == [1]
    names = Counter(tensor.name for tensor in variant.graph.initializer)
    assert max(names.values()) == 1
    # The quantised matrices stand in the file once.
    assert not [name for name in names if name.startswith(("r_0", "r_1", "w_1", "head_int8", "head_half"))]
    feeds = {**prompt_batch([TEXT[:80], b""]), "uniforms": np.zeros((2, 0), np.float32)}
    expected, actual = run(model, feeds), run(variant, feeds)
    # From a file in 8 bits the loop takes the very same numbers; else they are rounded now.
    for name in ("log_probabilities", "state_after"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=1e-5 if bits == 8 else 0.1)
    assert (bits == 8) == bool(np.abs(actual["next_logits"] - expected["next_logits"]).max() < 1e-4)
    written = {**prompt_batch([TEXT[:80]]), "uniforms": np.full((1, 1), 0.5, np.float32), "temperature": np.array(0.0, np.float32)}
    expected, actual = run(model, written), run(variant, written)
    assert np.array_equal(actual["bytes"], expected["bytes"])
    # One byte read inside the loop, whose inputs are 8-bit numbers too.
    np.testing.assert_allclose(actual["state_after"], expected["state_after"], rtol=0, atol=0.05)
    assert not np.array_equal(actual["state_after"], expected["state_after"])


def test_a_loop_s_rows_do_not_touch_each_other() -> None:
    variant = eight_bit_loop(text_graph(rounded(network("lstm"), 8)))
    uniforms = np.random.default_rng(3).random((3, 40), dtype=np.float32)
    whole = run(variant, {"prompt": np.zeros((3, 0), np.uint8), "uniforms": uniforms})
    alone = run(variant, {"prompt": np.zeros((1, 0), np.uint8), "uniforms": uniforms[1:2]})
    assert np.array_equal(alone["bytes"][0], whole["bytes"][1])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("cell", "skip", "tied"), [("lstm", False, False), ("gru", True, False), ("lstm", True, True), ("gru", False, True)]
)
def test_in_integers_it_reads_and_writes_nearly_as_its_source(cell: str, skip: bool, tied: bool, bits: int) -> None:
    made = rounded(network(cell, skip=skip, tied=tied), bits)
    model = text_graph(made)
    before = model.SerializeToString(deterministic=True)
    variant = integer_text(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(variant)
    kinds = Counter(node.op_type for node in all_nodes(variant))
    assert (
        kinds["MatMulIntegerToFloat"] == 9
    )  # four that write, the same three of the layers that read, and the head of what was read, twice
    assert not {"LSTM", "GRU"} & set(kinds)
    names = Counter(tensor.name for tensor in variant.graph.initializer)
    assert max(names.values()) == 1
    assert not [name for name in names if name.startswith(("r_0", "r_1", "w_1", "head_int8", "head_half"))]
    for name, feeds in text_cases(made, TEXT).items():
        expected, actual = run(model, feeds), run(variant, feeds)
        assert actual.keys() == expected.keys()
        assert {n: (a.shape, a.dtype) for n, a in actual.items()} == {n: (a.shape, a.dtype) for n, a in expected.items()}, name
        if not feeds["uniforms"].shape[1]:
            np.testing.assert_allclose(actual["state_after"], expected["state_after"], rtol=0, atol=0.1, err_msg=name)
        np.testing.assert_allclose(actual["log_probabilities"], expected["log_probabilities"], rtol=0, atol=0.4, err_msg=name)
        np.testing.assert_allclose(actual["next_logits"], expected["next_logits"], rtol=0, atol=0.4, err_msg=name)
    state = run(model, {**prompt_batch([TEXT[:50]]), "uniforms": np.zeros((1, 0), np.float32)})["state_after"]
    nothing = {"prompt": np.zeros((1, 0), np.uint8), "uniforms": np.zeros((1, 0), np.float32), "state": state}
    assert np.array_equal(run(variant, nothing)["state_after"], state)  # the byte that stands for none does not count


def test_in_integers_rows_do_not_touch_each_other() -> None:
    variant = integer_text(text_graph(rounded(network("lstm"), 8)))
    uniforms = np.random.default_rng(3).random((3, 40), dtype=np.float32)
    whole = run(variant, {**prompt_batch([TEXT[:9], TEXT[40:90], b""]), "uniforms": uniforms})
    alone = run(variant, {**prompt_batch([TEXT[40:90]]), "uniforms": uniforms[1:2]})
    assert np.array_equal(alone["bytes"][0], whole["bytes"][1])
    assert np.array_equal(alone["log_probabilities"][0], whole["log_probabilities"][1, :50])
    assert not whole["log_probabilities"][0, 9:].any()


def test_a_text_generator_s_file_is_optimized(run_folder: Path, tmp_path: Path) -> None:
    path, text = tmp_path / "mercy.onnx", tmp_path / "text.txt"
    assert export_checkpoint(run_folder, path, bits=8).passed
    text.write_bytes(TEXT)
    found = optimize(path, data=text, budget="nats +0.5", batches=(1,), seconds=0.01)
    for tag in ("int8", "int8-batch"):
        eight = next(verdict for verdict in found.verdicts if verdict.tag == tag)
        assert eight.score is not None  # its contract's defaults are inputs of the graph while it is made
        assert eight.score.inside


def test_what_has_no_loop_to_quantise_is_refused(scale_model: bytes) -> None:
    with pytest.raises(ExportError, match="no loop with weights"):
        eight_bit_loop(onnx.load_from_string(scale_model))
    with pytest.raises(ExportError, match="nothing to quantise in it"):
        eight_bit_loop(text_graph(network("gru", width=24)))
    with pytest.raises(ExportError, match="no loop that writes text"):
        integer_text(onnx.load_from_string(scale_model))
    unbounded = text_graph(network("lstm"))
    for node in all_nodes(unbounded):
        if node.op_type == "Tanh":
            node.op_type = "Relu"
    with pytest.raises(ExportError, match="its inputs have no known bounds"):
        integer_text(unbounded)
