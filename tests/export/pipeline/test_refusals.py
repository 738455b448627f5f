"""Models that must be refused: each with words that say what is wrong, and nothing left on the disk."""

from __future__ import annotations

import logging
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.export import ExportError, ParityError, export_model
from onnxferry.export.parity.report import ParityReport
from onnxferry.runtime.errors import InputError, OnnxFerryError


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing may be left: neither an .onnx nor a data file nor a temporary one."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def refused(model: nn.Module, inputs: Any, folder: Path, axes: Any = None, **options: Any) -> OnnxFerryError:
    with pytest.raises(OnnxFerryError) as caught:
        export_model(model.eval(), inputs, folder / "m.onnx", dynamic_shapes=axes, **options)
    message = str(caught.value).splitlines()[0]
    assert message
    assert "Traceback" not in message
    assert len(message) < 500
    return caught.value


def kinds(error: OnnxFerryError) -> set[str]:
    assert isinstance(error, ParityError)
    assert isinstance(error.report, ParityReport)
    assert not error.report.passed
    return {failure.kind for failure in error.report.failures}


class Apply(nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


X = torch.linspace(-1, 1, 12).reshape(3, 4)
BATCH = {"x": {0: "batch"}}


def test_dropout_left_on(folder: Path) -> None:
    error = refused(Apply(lambda self, x: F.dropout(self.linear(x), 0.5, training=True)), X, folder, BATCH)
    assert "changes from run to run" in str(error)
    assert "dropout" in str(error).splitlines()[0]
    assert kinds(error) == {"random-source"}


def test_random_numbers_that_do_not_show_in_the_source(folder: Path) -> None:
    """Noise too small to see: the graph is looked at as well."""
    error = refused(Apply(lambda self, x: self.linear(x) + 0.0 * torch.rand_like(x)), X, folder, BATCH)
    assert kinds(error) == {"random"}
    assert "RandomUniform" in str(error).splitlines()[0]


def test_state_that_changes_with_every_call(folder: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    error = refused(Counter(), X, folder, BATCH)
    assert kinds(error) == {"random-source"}


def test_an_if_on_a_value(folder: Path) -> None:
    error = refused(Apply(lambda self, x: self.linear(x) if x.sum() > 0 else x * 2), X, folder, BATCH)
    first = str(error).splitlines()[0]
    assert "branches on a tensor's value in Python" in first
    assert "test_refusals.py, line" in first
    assert "torch.cond" in first
    assert str(Path(__file__).parent) not in str(error)


class Steps(nn.Module):
    """Runs a layer as often as its input says."""

    def __init__(self, count: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.count = count

    def forward(self, x: Tensor, n: Tensor) -> Tensor:
        for _ in range(self.count(n)):
            x = self.linear(x)
        return x


@pytest.mark.parametrize("count", [int, Tensor.item, Tensor.max], ids=["int", "item", "max"])
def test_a_loop_as_long_as_a_value_says(folder: Path, count: Callable[[Tensor], Any]) -> None:
    first = str(refused(Steps(count), {"x": X, "n": torch.tensor(2)}, folder, BATCH))
    assert "loops in Python as often as a tensor's value says" in first
    assert "for _ in range(self.count(n))" in first or count is not Tensor.max  # of int() and item(), torch tells this test's own line
    assert "torch.while_loop" in first


def test_what_a_loop_is_told_to_be_instead_goes_across(tmp_path: Path) -> None:
    class Fixed(Steps):
        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            for i in range(4):
                x = torch.where(i < n, self.linear(x), x)
            return x

    class While(Steps):
        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            start = (torch.zeros((), dtype=torch.int64), x)
            return torch.while_loop(lambda i, _: i < n, lambda i, y: (i + 1, self.linear(y)), start)[1]

    for model in (Fixed(int), While(int)):
        inputs = {"x": X, "n": torch.tensor(3)}
        assert export_model(model.eval(), inputs, tmp_path / "m.onnx", dynamic_shapes=BATCH).passed


def test_a_value_as_a_python_number(folder: Path) -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor, n: Tensor) -> Tensor:
            return (torch.tanh, torch.relu, torch.exp)[int(n)](x)

    first = str(refused(Chosen(), {"x": X, "n": torch.tensor(2)}, folder, BATCH))
    assert "takes a tensor's value as a Python number at test_refusals.py" in first
    assert "compute with the tensor itself" in first


class Packed(nn.Module):
    """A recurrent layer over rows of different lengths."""

    def __init__(self, answer: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, batch_first=True, **options)
        self.answer = answer

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.answer(x, *self.rnn(packed))


def padded(packed: Any, length: int | None = None) -> Tensor:
    return nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=length)[0]


ROWS = {"x": torch.linspace(-1, 1, 72).reshape(3, 6, 4), "lengths": torch.tensor([4, 6, 2])}
ROW_AXES = {"x": {0: "batch", 1: "time"}, "lengths": {0: "batch"}}


@pytest.mark.parametrize(
    "answer", [lambda x, out, state: state[0], lambda x, out, state: padded(out)], ids=["state alone", "padded to the longest"]
)
def test_packed_sequences(folder: Path, capfd: pytest.CaptureFixture[str], answer: Callable[..., Any]) -> None:
    first = str(refused(Packed(answer), ROWS, folder, ROW_AXES)).splitlines()[0]
    assert "a packed sequence at test_refusals.py, line" in first
    assert "total_length=x.shape[1]" in first
    assert "the lengths or a mask as an input" in first
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_as_they_go_across(tmp_path: Path, capfd: pytest.CaptureFixture[str], bidirectional: bool) -> None:
    model = Packed(lambda x, out, state: padded(out, x.shape[1]), bidirectional=bidirectional)
    assert export_model(model.eval(), ROWS, tmp_path / "m.onnx", dynamic_shapes=ROW_AXES).passed
    assert capfd.readouterr() == ("", "")


def test_lengths_beside_a_padded_batch_are_a_packed_sequence_in_one_direction(tmp_path: Path) -> None:
    torch.manual_seed(0)
    packed = Packed(lambda x, out, state: state[0][0]).eval()

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = packed.rnn

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            return self.rnn(x)[0][torch.arange(x.shape[0]), lengths - 1]

    torch.testing.assert_close(Padded()(**ROWS), packed(**ROWS))
    assert export_model(Padded().eval(), ROWS, tmp_path / "m.onnx", dynamic_shapes=ROW_AXES).passed


def test_an_if_on_a_size_that_no_usual_probe_reaches(folder: Path) -> None:
    error = refused(Apply(lambda self, x: self.linear(x) if x.shape[0] <= 40 else x * 2), X, folder, BATCH)
    assert isinstance(error, ParityError)
    assert isinstance(error.report, ParityReport)
    assert "one side" in error.report.located["cause"]
    assert "'batch'" in error.report.located["cause"]


def test_a_batch_that_the_code_fixes(folder: Path) -> None:
    error = refused(Apply(lambda self, x: self.linear(x).reshape(3, 2, 2)), X, folder, BATCH)
    first = str(error).splitlines()[0]
    assert "the axis 'batch' was named dynamic" in first
    assert "the traced 3" in first
    assert "[3, 2, 2]" in first


def test_a_state_for_one_batch_says_so_without_torchs_own_traces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Baked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(x, torch.zeros(1, 2, 5))[0]

    records: list[logging.LogRecord] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", records.append)
    log = logging.getLogger("torch._guards")  # where torch logs the trace of what its export cannot vary
    log.addHandler(listener)
    try:
        error = refused(Baked(), torch.randn(2, 6, 4), folder, BATCH)
    finally:
        log.removeHandler(listener)
    assert "the axis 'batch'" in str(error).splitlines()[0]
    assert "Expected hidden size" in str(error).splitlines()[0]
    assert [record for record in records if record.levelno >= logging.WARNING] == []


def test_an_axis_that_only_works_at_its_traced_size(folder: Path) -> None:
    """The source itself refuses every other size: naming the axis dynamic promises what nobody can prove."""
    weight = torch.randn(4, 4)

    def fixed(self: nn.Module, x: Tensor) -> Tensor:
        if x.shape[0] != 3:
            raise ValueError("three rows, please")
        return x @ weight

    error = refused(Apply(fixed), X, folder, BATCH)
    assert "batch" in str(error).splitlines()[0]


def test_python_numbers_inside(folder: Path) -> None:
    """What is computed outside torch would become a constant."""
    error = refused(Apply(lambda self, x: self.linear(x) + torch.tensor([math.sin(v) for v in x[0].tolist()])), X, folder, BATCH)
    assert isinstance(error, ExportError)


def test_numpy_that_torch_can_follow_goes_across(tmp_path: Path) -> None:
    model = Apply(lambda self, x: self.linear(x) + torch.from_numpy(x.detach().numpy().round()))
    assert export_model(model.eval(), X, tmp_path / "m.onnx", dynamic_shapes=BATCH).passed


def test_all_nan(folder: Path) -> None:
    model = Apply(lambda self, x: self.linear(x))
    nn.init.constant_(model.linear.weight, float("nan"))
    error = refused(model, X, folder, BATCH)
    assert kinds(error) == {"all-nan"}
    assert "nothing is verified" in str(error).splitlines()[0]


def test_an_output_that_is_no_tensor(folder: Path) -> None:
    error = refused(Apply(lambda self, x: {"y": self.linear(x), "name": "a"}), X, folder, BATCH)
    assert "output 'name' is a str" in str(error).splitlines()[0]


@pytest.mark.parametrize(("dtype", "words"), [(torch.bfloat16, ".float()"), (torch.complex64, "torch.view_as_real")])
def test_a_dtype_that_runtimes_do_not_share(folder: Path, dtype: torch.dtype, words: str) -> None:
    error = refused(Apply(lambda self, x: self.linear(x).to(dtype)), X, folder, BATCH)
    first = str(error).splitlines()[0]
    assert str(dtype).removeprefix("torch.") in first
    assert words in first


def test_a_complex_answer_taken_apart(tmp_path: Path) -> None:
    model = Apply(lambda self, x: torch.view_as_real(torch.fft.fft(self.linear(x))))
    assert export_model(model.eval(), X, tmp_path / "m.onnx", dynamic_shapes=BATCH).passed


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.bfloat16, "its weights are bfloat16, which ONNX Runtime does not run on every machine: export model.float()"),
        (torch.float16, "its weights are float16: give inputs of that dtype, or export model.float()"),
    ],
)
def test_inputs_of_another_dtype_than_the_weights(folder: Path, dtype: torch.dtype, words: str) -> None:
    assert words in str(refused(Apply(lambda self, x: self.linear(x)).to(dtype), X, folder, BATCH)).splitlines()[0]


def test_autocast_inside(folder: Path) -> None:
    def cast(self: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x).float()

    first = str(refused(Apply(cast), X, folder, BATCH)).splitlines()[0]
    assert "it has none for bfloat16: export model.float(), without autocast" in first


def test_a_model_that_fails_by_itself(folder: Path) -> None:
    error = refused(Apply(lambda self, x: self.linear(x[:, :3])), X, folder, BATCH)
    assert "the model itself fails on the example inputs" in str(error).splitlines()[0]


def test_one_side_of_a_branch_that_no_input_takes(folder: Path) -> None:
    error = refused(Apply(lambda self, x: torch.cond(x.sum() > 1e6, lambda t: t * 2, lambda t: t - 1, (x,))), X, folder, BATCH)
    assert kinds(error) == {"branch-untested"}
    assert "the true side of the branch" in str(error).splitlines()[0]
    assert "samples" in str(error).splitlines()[0]


def test_that_branch_goes_across_with_a_sample(tmp_path: Path) -> None:
    model = Apply(lambda self, x: torch.cond(x.sum() > 1e6, lambda t: t * 2, lambda t: t - 1, (x,)))
    sample = {"x": (X + 1e6).numpy()}
    report = export_model(model.eval(), X, tmp_path / "m.onnx", dynamic_shapes=BATCH, samples=[sample])
    assert report.passed


def test_an_operator_without_translation(folder: Path) -> None:
    @torch.library.custom_op("onnxferry_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)
    error = refused(Apply(lambda self, x: twice(self.linear(x))), X, folder, BATCH)
    first = str(error).splitlines()[0]
    assert "onnxferry_tests" in first
    assert "no translation to ONNX" in first


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: torch.special.airy_ai(self.linear(x)),  # goes by another name where it is converted
        lambda self, x: torch.linalg.eigvalsh(self.linear(x).mT @ self.linear(x)),  # is another operator there
        lambda self, x: torch.sparse.mm(self.linear.weight.to_sparse(), x.T),  # fails in the capture
    ],
)
def test_the_line_of_an_operator_without_translation(folder: Path, capfd: pytest.CaptureFixture[str], function: Callable[..., Any]) -> None:
    first = str(refused(Apply(function), X, folder, BATCH)).splitlines()[0]
    assert "no translation to ONNX at test_refusals.py, line" in first
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.linear(x) if x.sum() > 0 else x * 2,
        lambda self, x: self.linear(x) if x[x > 0].numel() else x * 2,
        lambda self, x: x.split(x.long().sum(1).abs().tolist()),
    ],
)
def test_the_screen_is_left_to_the_model(folder: Path, capfd: pytest.CaptureFixture[str], function: Callable[..., Any]) -> None:
    """torch prints the graph up to where its capture failed: not what a model prints itself."""

    def printing(self: nn.Module, x: Tensor) -> Any:
        print("here", file=sys.stderr)
        return function(self, x)

    refused(Apply(printing), X, folder, BATCH)
    out, err = capfd.readouterr()
    assert out == ""
    assert set(err.split()) == {"here"}


def test_warnings_of_the_model_are_shown_and_torchs_own_are_not(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    def warned(self: nn.Module, x: Tensor) -> Tensor:
        warnings.warn("of the model", stacklevel=1)
        warnings.warn_explicit("of torch", UserWarning, torch.nn.__file__, 1)
        return self.linear(x)

    warnings.simplefilter("always")
    assert export_model(Apply(warned).eval(), X, tmp_path / "m.onnx", dynamic_shapes=BATCH).passed
    assert {str(warning.message) for warning in recwarn} == {"of the model"}


class Last(nn.Module):
    """The answer of a recurrent layer alone, without its states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.parametrize(
    ("model", "shape", "operator"),
    [
        (nn.Conv1d(4, 4, 3), (2, 4, 6), "Conv"),  # missed when the graph is loaded
        (nn.GELU(), (2, 6), "Erf"),
        (Last(nn.GRU(4, 4, batch_first=True)), (2, 6, 4), "GRU"),  # missed when it is run
    ],
)
def test_an_operator_that_the_runtime_lacks_in_float64(folder: Path, model: nn.Module, shape: tuple[int, ...], operator: str) -> None:
    error = refused(model.double(), torch.randn(shape).double(), folder)
    first = str(error).splitlines()[0]
    assert re.search(rf"\b{operator}\b", first)
    assert "it has none for float64: export model.float()" in first
    assert isinstance(error, ParityError)
    assert isinstance(error.report, ParityReport)
    assert error.report.located["try"] == "model.float()"


def test_a_tolerance_that_nothing_can_hold(folder: Path) -> None:
    error = refused(Apply(lambda self, x: F.softmax(self.linear(x * 3), -1)), X, folder, BATCH, rtol=0.0, atol=0.0)
    assert "difference" in kinds(error)
    assert isinstance(error, ParityError)
    text = error.report.explain()  # type: ignore[attr-defined]
    for word in ("worst at", "in the model", "in the file", "ulp", "likely cause", "try:", "against float64"):
        assert word in text


@pytest.mark.parametrize(
    ("inputs", "axes", "words"),
    [
        ({"y": X, "z": X}, None, "'y' is no argument of the model's forward(x)"),
        ((X, X), None, "do not fit forward(x:"),
        (X, {"y": {0: "batch"}}, "dynamic_shapes names 'y', which is no input"),
        (X, {"x": {2: "batch"}}, "there is no axis 2"),
        (X, {"x": {0: "a b"}}, "must be like 'batch'"),
        ((3,), None, "hold no tensor"),
        ("x", None, "must be a tensor"),
        (None, None, "say what the model takes"),
    ],
)
def test_arguments_that_make_no_sense(folder: Path, inputs: Any, axes: Any, words: str) -> None:
    error = refused(Apply(lambda self, x: x), inputs, folder, axes)
    assert isinstance(error, InputError)
    assert words in str(error)


def test_layers_that_have_no_way_say_what_to_do(folder: Path) -> None:
    error = refused(nn.LSTM(3, 4, proj_size=2, batch_first=True), torch.rand(2, 5, 3), folder)
    assert "proj_size=2, and ONNX's LSTM has no projection" in str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), {nn.Linear})
    error = refused(quantized, torch.rand(2, 3), folder)
    assert str(error).startswith("'0' is a quantized Linear of PyTorch")
    assert "onnxferry optimize" in str(error)


def test_a_size_cut_by_int_is_named(folder: Path) -> None:
    error = refused(Apply(lambda m, x: x[:, : int(x.shape[1] * 0.7)]), torch.rand(2, 10), folder, {"x": {1: "time"}})
    assert kinds(error) == {"frozen-axis"}
    assert "write math.trunc(n * 0.7) for int(n * 0.7)" in str(error.report.explain())  # type: ignore[attr-defined]
