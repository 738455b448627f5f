"""A text generator as its user sees it: generate, stream, score, batches, UTF-8, and what is refused.

The model is made by hand, without torch: a recurrent network whose state is the byte before, which writes a fixed cycle of
bytes when it is greedy, and whose every probability is known.
"""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.cli import main as cli
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.tasks.loading import load
from onnxferry.runtime.tasks.text_generator import READ_CHUNK, STREAM_CHUNK, TextGenerator, sampling_feeds

CYCLE = "añ日🎭\n".encode()  # characters of one, two, three and four bytes
CERTAIN = 6.0  # logit of the byte that comes next in the cycle; the others have 0


def write_echo(path: Path, kind: str = "text-generator", without: str = "", cycle: bytes = CYCLE) -> Path:
    """A graph with the inputs and outputs of a text generator: the state is one number, the place in ``cycle``; reading moves it on.

    At temperature 0 it writes the cycle; otherwise ``uniforms`` choose among all bytes, the cycle's next with weight e^(6 / T).
    ``without`` names an input or an output that is left out, to make a broken one.
    """
    length = len(cycle)
    following = np.zeros((length, 256), np.float32)
    following[np.arange(length), np.frombuffer(cycle, np.uint8)] = CERTAIN
    constants = {
        "logits_by_place": following,
        "cycle_length": np.array(float(length), np.float32),
        "last_byte": np.array([255]),
        "one_axis": np.array([1]),
        "zero_axis": np.array([0]),
        "zero": np.array(0),
        "unit": np.array(1),
        "none": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "sharpest": np.array(1e30, np.float32),
        "column": np.array([-1, 1]),
        "state_shape": np.array([-1, 1, 1]),
        "flat": np.array([-1]),
        "minus": np.array(-1),
        "prompt_length": np.array([-1]),
        "temperature": np.array(1, np.float32),
        "top_k": np.array(0),
        "top_p": np.array(1, np.float32),
        "state": np.zeros((1, 1, 1), np.float32),
    }
    info = helper.make_tensor_value_info
    node = helper.make_node
    body = helper.make_graph(
        [
            node("Cast", ["place_in"], ["place_index"], to=TensorProto.INT64),
            node("Gather", ["logits_by_place", "place_index"], ["row"], axis=0),  # (batch, 256)
            node("Mul", ["row", "sharpness"], ["sharp"]),
            node("Softmax", ["sharp"], ["weights"], axis=1),
            node("CumSum", ["weights", "unit"], ["running"]),
            node("Unsqueeze", ["draw", "one_axis"], ["draw_column"]),
            node("Greater", ["running", "draw_column"], ["beyond"]),
            node("Cast", ["beyond"], ["beyond_number"], to=TensorProto.INT32),
            node("ArgMax", ["beyond_number"], ["chosen"], axis=1, keepdims=0),
            node("Cast", ["chosen"], ["written"], to=TensorProto.UINT8),
            node("Add", ["place_in", "one"], ["moved"]),
            node("Mod", ["moved", "cycle_length"], ["place_out"], fmod=1),
        ],
        "step",
        [info("place_in", TensorProto.FLOAT, ["batch"]), info("draw", TensorProto.FLOAT, ["batch"])],
        [info("place_out", TensorProto.FLOAT, ["batch"]), info("written", TensorProto.UINT8, ["batch"])],
    )
    writes = helper.make_graph(
        [node("Scan", ["place", "draws"], ["w_place", "w_bytes"], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1])],
        "writes",
        [],
        [info("w_place", TensorProto.FLOAT, None), info("w_bytes", TensorProto.UINT8, None)],
    )
    silent = helper.make_graph(
        [node("Identity", ["place"], ["s_place"]), node("Cast", ["draws"], ["s_bytes"], to=TensorProto.UINT8)],
        "silent",
        [],
        [info("s_place", TensorProto.FLOAT, None), info("s_bytes", TensorProto.UINT8, None)],
    )
    nodes = [
        node("Shape", ["prompt"], ["shape"]),
        node("Gather", ["shape", "zero_axis"], ["batch_size"]),
        node("Gather", ["shape", "one_axis"], ["length"]),
        node("Less", ["prompt_length", "zero_axis"], ["all_of_it"]),
        node("Where", ["all_of_it", "length", "prompt_length"], ["given_lengths"]),
        node("Expand", ["given_lengths", "batch_size"], ["lengths"]),
        node("Reshape", ["state", "flat"], ["before_one"]),
        node("Expand", ["before_one", "batch_size"], ["before"]),
        node("Cast", ["lengths"], ["lengths_float"], to=TensorProto.FLOAT),
        node("Add", ["before", "lengths_float"], ["read"]),
        node("Mod", ["read", "cycle_length"], ["place"], fmod=1),
        # The log-probability of each prompt byte, at the place that it is read at.
        node("Squeeze", ["length", "zero_axis"], ["length_number"]),
        node("Range", ["zero", "length_number", "unit"], ["positions"]),
        node("Cast", ["positions"], ["positions_float"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["before", "one_axis"], ["before_column"]),
        node("Add", ["before_column", "positions_float"], ["places"]),
        node("Mod", ["places", "cycle_length"], ["places_around"], fmod=1),
        node("Cast", ["places_around"], ["places_index"], to=TensorProto.INT64),
        node("Gather", ["logits_by_place", "places_index"], ["all_logits"], axis=0),
        node("LogSoftmax", ["all_logits"], ["all_scores"], axis=2),
        node("Cast", ["prompt"], ["prompt_index"], to=TensorProto.INT64),
        node("Unsqueeze", ["prompt_index", "two_axis"], ["prompt_column"]),
        node("GatherElements", ["all_scores", "prompt_column"], ["picked"], axis=2),
        node("Squeeze", ["picked", "two_axis"], ["picked_rows"]),
        node("Unsqueeze", ["lengths", "one_axis"], ["lengths_column"]),
        node("Less", ["positions", "lengths_column"], ["counts"]),
        node("Where", ["counts", "picked_rows", "none"], ["log_probabilities"]),
        node("Cast", ["place"], ["place_now"], to=TensorProto.INT64),
        node("Gather", ["logits_by_place", "place_now"], ["next_logits"], axis=0),
        node("LessOrEqual", ["temperature", "none"], ["greedy"]),
        node("Reciprocal", ["temperature"], ["inverse"]),
        node("Where", ["greedy", "sharpest", "inverse"], ["sharpness"]),
        node("Where", ["greedy", "none", "uniforms"], ["draws"]),
        node("Shape", ["uniforms"], ["uniforms_shape"]),
        node("Gather", ["uniforms_shape", "unit"], ["steps"]),
        node("Equal", ["steps", "zero"], ["is_silent"]),
        node("If", ["is_silent"], ["place_after", "bytes"], then_branch=silent, else_branch=writes),
        node("Reshape", ["place_after", "state_shape"], ["state_after"]),
        # Read, so that they are inputs: this model leaves them be.
        node("Identity", ["top_k"], ["unused_k"]),
        node("Identity", ["top_p"], ["unused_p"]),
    ]
    constants["two_axis"] = np.array([2])
    inputs = [
        info("prompt", TensorProto.UINT8, ["batch", "length"]),
        info("uniforms", TensorProto.FLOAT, ["batch", "steps"]),
        info("prompt_length", TensorProto.INT64, ["rows"]),
        info("temperature", TensorProto.FLOAT, []),
        info("top_k", TensorProto.INT64, []),
        info("top_p", TensorProto.FLOAT, []),
        info("state", TensorProto.FLOAT, ["rows", 1, 1]),
    ]
    outputs = [
        info("bytes", TensorProto.UINT8, ["batch", "steps"]),
        info("log_probabilities", TensorProto.FLOAT, ["batch", "length"]),
        info("next_logits", TensorProto.FLOAT, ["batch", 256]),
        info("state_after", TensorProto.FLOAT, ["batch", 1, 1]),
    ]
    if without == "top_p":
        nodes.pop()
    kept = [[value for value in side if value.name != without] for side in (inputs, outputs)]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items() if name != without]
    model = helper.make_model(
        helper.make_graph(nodes, "echo", *kept, initializers), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.checker.check_model(model)
    helper.set_model_props(model, metadata_from_contract(Contract(kind=kind, name="echo", labels=("x",) if kind == "recogniser" else ())))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echo(tmp_path_factory.mktemp("echo") / "echo.onnx")


@pytest.fixture(scope="module")
def model(path: Path) -> TextGenerator:
    opened = load(path, device="cpu", threads=1)
    assert isinstance(opened, TextGenerator)
    return opened


def test_greedy_text_goes_on_after_the_prompt(model: TextGenerator) -> None:
    assert model.generate(max_bytes=22, temperature=0) == "añ日🎭\nañ日🎭\n"
    assert model.generate("añ", max_bytes=8, temperature=0) == "日🎭\n"
    assert model.generate("añ".encode(), max_bytes=8, temperature=0) == "日🎭\n"


@pytest.mark.parametrize(("max_bytes", "expected"), [(1, "a"), (2, "a"), (3, "añ"), (5, "añ"), (6, "añ日"), (9, "añ日"), (10, "añ日🎭")])
def test_a_character_is_never_cut(model: TextGenerator, max_bytes: int, expected: str) -> None:
    assert model.generate(max_bytes=max_bytes, temperature=0) == expected
    assert "".join(model.stream(max_bytes=max_bytes, temperature=0, bytes_at_once=1)) == expected


def test_pieces_are_whole_characters(model: TextGenerator) -> None:
    pieces = list(model.stream(max_bytes=22, temperature=0, bytes_at_once=1))
    assert pieces == list("añ日🎭\nañ日🎭\n")


@pytest.mark.parametrize("at_once", [None, 1, 7, 24, 5000])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 3.0])
def test_what_is_streamed_is_what_is_generated(model: TextGenerator, temperature: float, at_once: int | None) -> None:
    whole = model.generate("To be", max_bytes=300, temperature=temperature, seed=3)
    assert "".join(model.stream("To be", max_bytes=300, temperature=temperature, seed=3, bytes_at_once=at_once)) == whole
    assert len(whole) > 50


def test_the_first_piece_comes_early(model: TextGenerator) -> None:
    first = next(model.stream(max_bytes=10_000, temperature=0))
    assert 0 < len(first.encode()) <= STREAM_CHUNK // 3


def test_bytes_that_are_no_utf8_become_replacement_characters(model: TextGenerator) -> None:
    hot = model.generate(max_bytes=400, temperature=50.0)
    assert "\ufffd" in hot


def test_seeds_differ_and_repeat(model: TextGenerator) -> None:
    texts = [model.generate(max_bytes=60, temperature=2.0, seed=seed) for seed in range(5)]
    assert len(set(texts)) == 5
    assert texts == [model.generate(max_bytes=60, temperature=2.0, seed=seed) for seed in range(5)]


def test_the_uniform_numbers_are_pcg64_s(model: TextGenerator) -> None:
    uniforms = np.random.Generator(np.random.PCG64(9)).random((1, 40), dtype=np.float32)
    feeds = {"prompt": np.zeros((1, 0), np.uint8), "uniforms": uniforms, "temperature": np.array(2.0, np.float32)}
    written = model.run(feeds)["bytes"][0].tobytes()
    assert model.generate(max_bytes=40, temperature=2.0, seed=9) == written.decode("utf-8", "replace").removesuffix("\ufffd") or (
        model.generate(max_bytes=40, temperature=2.0, seed=9) == written.decode("utf-8", "replace")
    )


def test_a_batch_is_written_as_its_rows_alone(model: TextGenerator) -> None:
    prompts = ["", "añ", "añ日🎭\n" * 3, b"a"]
    together = model.generate_batch(prompts, max_bytes=50, temperature=1.5, seed=4)
    assert together == [model.generate(prompt, max_bytes=50, temperature=1.5, seed=4 + row) for row, prompt in enumerate(prompts)]
    assert model.generate_batch([]) == []


def write_mixing_echo(path: Path, alone: bool) -> Path:
    """An echo whose place depends on the padded width of its prompt: a row is changed by its neighbours, as of an int8 LSTM."""
    model = onnx.load(write_echo(path))
    (cast,) = [node for node in model.graph.node if node.output[0] == "lengths_float"]
    cast.input[0] = "length"
    contract = Contract(kind="text-generator", name="echo", options={"rows_alone": True} if alone else {})
    helper.set_model_props(model, metadata_from_contract(contract))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("alone", [False, True])
def test_rows_that_must_run_alone_are_changed_by_no_neighbour(tmp_path: Path, alone: bool) -> None:
    model = load(write_mixing_echo(tmp_path / "echo.onnx", alone), device="cpu", threads=1)
    assert isinstance(model, TextGenerator)
    prompts = ["", "añ", "añ日🎭\n" * 3, b"a", CYCLE * 1000]
    together = model.generate_batch(prompts, max_bytes=50, temperature=1.5, seed=4)
    by_row = [model.generate(prompt, max_bytes=50, temperature=1.5, seed=4 + row) for row, prompt in enumerate(prompts)]
    assert (together == by_row) is alone


def test_rows_alone_give_the_outputs_of_one_run(path: Path, model: TextGenerator, tmp_path: Path) -> None:
    contract = Contract(kind="text-generator", name="echo", certificate={"variant": "int8", "rows_alone": True})
    certified = onnx.load(path)
    helper.set_model_props(certified, metadata_from_contract(contract))
    onnx.save(certified, tmp_path / "alone.onnx")
    alone = load(tmp_path / "alone.onnx", device="cpu", threads=1)
    prompt = np.frombuffer(CYCLE[:8] * 3, np.uint8).reshape(3, 8)
    feeds = {"prompt": prompt, "uniforms": np.random.default_rng(0).random((3, 5), dtype=np.float32)}
    lengths, states = np.array([8, 0, 3]), np.arange(3, dtype=np.float32).reshape(3, 1, 1)
    others = [{}, {"prompt_length": lengths}, {"prompt_length": np.array([4])}, {"prompt_length": -np.ones(1, np.int64)}]
    others += [{"state": states, "prompt_length": lengths}, {"state": states[:1], "temperature": np.array(0.5, np.float32)}]
    for more in others:
        wanted, got = model.run({**feeds, **more}), alone.run({**feeds, **more})
        assert list(wanted) == list(got)
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-6, err_msg=name)
    for wrong in ({"uniforms": feeds["uniforms"][:2]}, {"prompt": prompt[0]}, {"prompt_length": lengths[:2]}, {"uniforms": "none"}):
        with pytest.raises(InputError):
            alone.run({**feeds, **wrong})


def test_the_score_is_the_mean_over_all_bytes(model: TextGenerator) -> None:
    right = -math.log(math.exp(CERTAIN) / (math.exp(CERTAIN) + 255))
    assert model.score(CYCLE * 3) == pytest.approx(right, abs=1e-5)
    assert model.score(CYCLE.decode()) == pytest.approx(right, abs=1e-5)
    assert model.score(b"z") == pytest.approx(right + CERTAIN, abs=1e-5)
    assert model.score(b"az") == pytest.approx(right + CERTAIN / 2, abs=1e-5)


def test_long_texts_are_read_in_stretches_that_lose_nothing(model: TextGenerator) -> None:
    long = CYCLE * 1000
    assert len(long) > 2 * READ_CHUNK
    right = -math.log(math.exp(CERTAIN) / (math.exp(CERTAIN) + 255))
    assert model.score(long) == pytest.approx(right, abs=1e-5)
    assert model.generate(long + "añ".encode(), max_bytes=8, temperature=0) == "日🎭\n"
    assert model.generate_batch([long + "añ".encode(), "", "añ日"], max_bytes=4, temperature=0) == ["日", "añ", "🎭"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_bytes": 0}, "max_bytes must be a whole number >= 1, got 0"),
        ({"max_bytes": 2.5}, "max_bytes must be a whole number >= 1, got 2.5"),
        ({"max_bytes": True}, "max_bytes must be a whole number >= 1, got True"),
        ({"temperature": -0.1}, "temperature must be a finite number >= 0 .*, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"temperature": float("inf")}, "temperature must be a finite number"),
        ({"temperature": "hot"}, "temperature must be a finite number >= 0 .*, got 'hot'"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, got 1.1"),
        ({"top_p": float("nan")}, "top_p must be above 0"),
        ({"top_p": 1e-46}, "top_p must be above 0"),  # 0 as float32
        ({"temperature": 1e39}, "temperature must be a finite number"),  # infinite as float32
        ({"top_k": 0}, "top_k must be a whole number >= 1, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"prompt": 5}, "the prompt must be a str or bytes, got int"),
        ({"prompt": "half \ud83c"}, "half a character"),
    ],
)
def test_arguments_out_of_range_are_refused_at_the_call(model: TextGenerator, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        model.generate(**arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        model.stream(**arguments)  # type: ignore[arg-type]  # not only when the first piece is asked for


def test_other_arguments_that_make_no_sense(model: TextGenerator) -> None:
    with pytest.raises(InputError, match="an empty text has no score"):
        model.score("")
    with pytest.raises(InputError, match="bytes_at_once must be a whole number >= 1"):
        model.stream(bytes_at_once=0)
    with pytest.raises(InputError, match="prompts must be a list of texts"):
        model.generate_batch("To be")


def test_options_become_feeds_only_where_they_are_given() -> None:
    assert set(sampling_feeds()) == {"temperature"}
    feeds = sampling_feeds(0.5, top_k=1000, top_p=1)
    assert feeds["top_k"] == 256
    assert feeds["top_k"].dtype == np.int64
    assert feeds["top_p"].dtype == np.float32


@pytest.mark.parametrize("without", ["top_p", "log_probabilities"])
def test_a_graph_that_is_not_what_its_contract_says_is_refused(tmp_path: Path, without: str) -> None:
    broken = write_echo(tmp_path / "broken.onnx", without=without)
    with pytest.raises(ArtifactError, match=f"says that it is a text generator, which has .*{without}"):
        load(broken, device="cpu")


def test_the_command_prints_the_continuation(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--stream"]):
        assert cli.main(["generate", str(path), "añ", "--max-bytes", "8", "--temperature", "0", *more]) == 0
        out, err = capsys.readouterr()
        assert out == "日🎭\n\n"
        assert "bytes a second" in err


def test_the_command_speaks_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(path), "--max-bytes", "11", "--temperature", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["text"] == "añ日🎭\n"
    assert document["prompt"] == ""
    assert document["bytes_per_second"] > 0


def test_the_command_shows_a_stranger_s_control_codes_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = write_echo(tmp_path / "hostile.onnx", cycle=b"\x1b[31mred\x07\tend\n")
    assert cli.main(["generate", str(hostile), "--max-bytes", "14", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "\\x1b[31mred\\x07\tend\n\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-bytes", "0"], "max_bytes must be a whole number >= 1"),
        (["--temperature", "-1"], "temperature must be a finite number"),
        (["--top-p", "2"], "top_p must be above 0"),
    ],
)
def test_the_command_refuses_in_one_line(path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert cli.main(["generate", str(path), *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert "Traceback" not in err


def test_models_of_another_kind_are_told_apart(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(path), "three.png"]) == 1
    assert "text-generator" in capsys.readouterr().err
    other = write_echo(tmp_path / "plain.onnx", kind="model")
    assert cli.main(["generate", str(other)]) == 1
    assert "plain.onnx is not a text generator, its contract says model" in capsys.readouterr().err


TEXT = "añ日🎭\n" * 3  # what the model writes greedily, from the start of its cycle

STOPS: list[tuple[str | list[str], str]] = [
    ("日", "añ"),
    ("🎭\na", "añ日"),
    ("\nañ日🎭\n", "añ日🎭"),
    ("x", TEXT),
    (["x", "日", "ñ日"], "a"),  # 日 and ñ日 are complete together: before the longer one
    (["日🎭\nx", "🎭"], "añ日"),  # the first is never complete
    ("\n" * 2, TEXT),
    (TEXT + "a", TEXT),  # held back to the end, then shown
    ("a", ""),
]


@pytest.mark.parametrize(("stop", "before"), STOPS)
@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 100])
def test_a_stop_text_ends_the_text_before_it_however_it_is_cut(
    model: TextGenerator, stop: str | list[str], before: str, at_once: int
) -> None:
    options = {"max_bytes": len(TEXT.encode()), "temperature": 0, "stop": stop}
    assert "".join(model.stream("", bytes_at_once=at_once, **options)) == before  # type: ignore[arg-type]
    assert model.generate("", **options) == before  # type: ignore[arg-type]


def test_a_piece_that_may_begin_a_stop_is_held_back(model: TextGenerator) -> None:
    pieces = model.stream("", max_bytes=22, temperature=0, bytes_at_once=1, stop="🎭\nx")
    assert [next(pieces) for _ in range(5)] == ["a", "ñ", "日", "🎭\na", "ñ"]


def test_nothing_is_written_after_a_stop(model: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    run = model._run
    monkeypatch.setattr(model, "_run", lambda feeds, outputs: written.append(feeds["uniforms"].shape[1]) or run(feeds, outputs))
    assert model.generate("", max_bytes=100_000, temperature=0, stop="日") == "añ"
    assert written == [64]
    written.clear()
    assert model.generate_batch(["", "a"], max_bytes=100_000, temperature=0, stop=["日"]) == ["añ", "ñ"]
    assert written == [64]


@pytest.mark.parametrize("stop", ["", [""], ["a", ""], 5, [5], b"a", [b"a"]])
def test_a_stop_that_is_none_is_refused_at_the_call(model: TextGenerator, stop: object) -> None:
    for method in (model.generate, model.stream, model.astream):
        with pytest.raises(InputError, match="stop must be a text or a list of texts, none of them empty"):
            method("", stop=stop)  # type: ignore[operator]
    with pytest.raises(InputError, match="stop must be"):
        model.generate_batch([""], stop=stop)  # type: ignore[arg-type]


def test_an_async_stream_is_the_stream(model: TextGenerator) -> None:
    async def pieces(**options: object) -> list[str]:
        return [piece async for piece in model.astream("To be", **options)]  # type: ignore[arg-type]

    for options in ({}, {"seed": 3, "bytes_at_once": 7}, {"temperature": 0, "stop": "日"}, {"max_bytes": 5}):
        assert asyncio.run(pieces(**options)) == list(model.stream("To be", **options))  # type: ignore[arg-type]
    long = "x" * (READ_CHUNK + 10)

    async def after_a_long_prompt() -> str:
        return "".join([piece async for piece in model.astream(long)])

    assert asyncio.run(after_a_long_prompt()) == model.generate(long)
    with pytest.raises(InputError, match="max_bytes"):
        model.astream("", max_bytes=0)  # at the call


def test_cancelling_an_async_stream_stops_the_work(model: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, cancelled = [], []
    arun = type(model.engine).arun

    async def noted(self: object, feeds: object, outputs: object) -> object:
        runs.append(1)
        try:
            if len(runs) == 3:
                await asyncio.sleep(60)  # a long run
            return await arun(self, feeds, outputs)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    monkeypatch.setattr(type(model.engine), "arun", noted)

    async def read() -> None:
        async for piece in model.astream("", max_bytes=10**9):
            seen.append(piece)

    async def cancel_after_two_pieces() -> None:
        task = asyncio.create_task(read())
        while len(runs) < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    seen: list[str] = []
    asyncio.run(cancel_after_two_pieces())
    assert (len(runs), len(cancelled)) == (3, 1)
    assert len(seen) <= 2


def test_the_command_stops(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", str(path), "--temperature", "0", "--stop", "x", "--stop", "日", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "añ"
    assert cli.main(["generate", str(path), "--temperature", "0", "--stop", "日", "--stream"]) == 0
    out, err = capsys.readouterr()
    assert out == "añ\n"
    assert err.startswith("3 bytes in ")
