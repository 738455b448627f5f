"""Every layer of keras.layers in a small model, exported, and run in bare ONNX Runtime at other batches, lengths and values.

    KERAS_BACKEND=torch python tests/conformance/keras_layers.py --record rows.jsonl    # all of them; begun again, it goes on
    KERAS_BACKEND=torch python tests/conformance/keras_layers.py --only LSTM,Masking

Axes that a layer leaves open (time, height and width) are open in the model. A row is one of:

- right: the file gives what Keras gives, NaN and infinity in the inputs included;
- noted: right for finite inputs; for NaN or infinity in the inputs the file answers otherwise;
- refused: ``export_model`` wrote no file, and its first line says why;
- wrong: the file gives another answer where the inputs and Keras' answer are finite;
- foreign: an exception that is none of onnxferry's;
- outside: no layer of its own (a base class), or one that needs another framework than PyTorch.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import onnxruntime
from keras import layers

RTOL, ATOL_SHARE = 1e-4, 2e-5
KERNEL_FLOOR = 1e-7  # ONNX Runtime's sigmoid and tanh are within 3e-8

OUTSIDE = {
    "InputLayer": "it takes no input",
    "Layer": "a base class",
    "Wrapper": "a base class",
    "FlaxLayer": "it holds a Flax model",
    "JaxLayer": "it holds a JAX function",
    "TFSMLayer": "it holds a TensorFlow SavedModel",
    "StringLookup": "it runs in TensorFlow",
    "IntegerLookup": "it runs in TensorFlow",
    "Hashing": "it runs in TensorFlow",
    "HashedCrossing": "it runs in TensorFlow",
    "TextVectorization": "it runs in TensorFlow",
    "MaxNumBoundingBoxes": "it pads bounding boxes for training",
    "MixUp": "it mixes labelled images for training",
    "CutMix": "it mixes labelled images for training",
}

SEQUENCE, IMAGE, VOLUME = (None, 6), (None, None, 3), (8, 9, 10, 2)


@dataclass(frozen=True)
class Row:
    """One layer, in one way of use."""

    layer: str
    use: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class Case:
    """``make`` builds the model."""

    layer: str
    use: str
    make: Callable[[], Any]


def _one(layer: Callable[[], Any], shape: Sequence[int | None], dtype: str = "float32") -> Callable[[], Any]:
    def make() -> Any:
        x = keras.Input(tuple(shape), dtype=dtype, name="x")
        return keras.Model(x, layer()(x))

    return make


def _two(layer: Callable[[], Any], first: Sequence[int | None], second: Sequence[int | None] | None = None) -> Callable[[], Any]:
    def make() -> Any:
        a = keras.Input(tuple(first), name="a")
        b = keras.Input(tuple(first if second is None else second), name="b")
        return keras.Model([a, b], layer()([a, b]))

    return make


def _masked(*stack: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        x = keras.Input((None,), dtype="int32", name="x")
        y = layers.Embedding(9, 5, mask_zero=True)(x)
        for layer in stack:
            y = layer()(y)
        return keras.Model(x, y)

    return make


def _self_attention(layer: Callable[[], Any], causal: bool = False) -> Callable[[], Any]:
    def make() -> Any:
        x = keras.Input((None, 8), name="x")
        return keras.Model(x, layer()(x, x, use_causal_mask=causal))

    return make


def _adapted(layer: Any, data: np.ndarray) -> Any:
    layer.adapt(data)
    return layer


# Where a layer takes its own shape or dtype, or cannot be made without arguments.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Activation": {"activation": "gelu"},
    "CategoryEncoding": {"num_tokens": 7, "output_mode": "multi_hot"},
    "CenterCrop": {"height": 4, "width": 5},
    "Dense": {"units": 4, "activation": "relu"},
    "EinsumDense": {"equation": "abc,cd->abd", "output_shape": (None, 4), "bias_axes": "d"},
    "Embedding": {"input_dim": 9, "output_dim": 4},
    "ReversibleEmbedding": {"input_dim": 9, "output_dim": 4},
    "GaussianNoise": {"stddev": 0.3},
    "GroupNormalization": {"groups": 3},
    "Permute": {"dims": (2, 1)},
    "RepeatVector": {"n": 3},
    "Rescaling": {"scale": 1 / 255, "offset": -0.5},
    "Reshape": {"target_shape": (-1, 3)},
    "Resizing": {"height": 6, "width": 7},
    "Solarization": {"addition_factor": 0.3, "threshold_factor": 0.5, "value_range": (0, 1)},
    "Equalization": {"value_range": (0, 255)},
    "AutoContrast": {"value_range": (0, 255)},
    "ContrastLimitedAdaptiveHistogramEqualization": {"value_range": (0, 255), "tile_grid_size": (2, 2)},
    "MelSpectrogram": {"num_mel_bins": 8, "sampling_rate": 800, "sequence_stride": 32, "fft_length": 64, "max_freq": 400.0},
    "STFTSpectrogram": {"frame_length": 32, "frame_step": 16, "fft_length": 32},
    "RandomBrightness": {"factor": 0.2},
    "RandomContrast": {"factor": 0.2},
    "RandomCrop": {"height": 5, "width": 6},
    "RandomRotation": {"factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomColorJitter": {"value_range": (0, 1), "brightness_factor": 0.2},
    "RandomColorDegeneration": {"factor": 0.3},
    "RandomHue": {"factor": 0.2},
    "RandomPosterization": {"factor": 4},
    "RandomSaturation": {"factor": 0.3},
    "RandomSharpness": {"factor": 0.3},
    "UnitNormalization": {"axis": -1},
}

SHAPES: dict[str, tuple[int | None, ...]] = {
    "AutoContrast": (8, 9, 3),
    "Equalization": (8, 9, 3),
    "ContrastLimitedAdaptiveHistogramEqualization": (8, 8, 3),
    "RepeatVector": (6,),
    "MelSpectrogram": (320,),
    "STFTSpectrogram": (160, 1),
    "Flatten": (5, 6),
    "SpectralNormalization": (6,),
    "PReLU": (5, 6),
    "TorchModuleWrapper": (6,),
    "Reshape": (4, 6),
    "RandomElasticTransform": (8, 9, 3),
}


def _shape(name: str) -> tuple[int | None, ...]:
    if name in SHAPES:
        return SHAPES[name]
    if name.startswith("ConvLSTM"):
        return (None, *(6, 7, 5)[: int(name[-2])], 2)
    if name.endswith("Embedding"):
        return (None,)
    if "3D" in name:
        return VOLUME
    images = "2D" in name or name.startswith(("Random", "Rand", "AugMix", "Center", "Resizing", "Solar", "Group"))
    return IMAGE if images else SEQUENCE


def _arguments(name: str) -> dict[str, Any]:
    if name in ARGUMENTS:
        return ARGUMENTS[name]
    dims = int(name[-2]) if name[-1] == "D" and name[-2].isdecimal() else 1
    if name.startswith("Adaptive"):
        return {"output_size": 3}
    if name.startswith("ConvLSTM"):
        return {"filters": 3, "kernel_size": 3, "padding": "same"}
    if name.startswith("Depthwise"):
        return {"kernel_size": 3}
    if name.startswith(("Conv", "SeparableConv")):
        return {"filters": 4, "kernel_size": 3}
    if name.startswith("Cropping"):
        return {"cropping": ((1, 2),) * dims if dims > 1 else (1, 2)}
    if name in ("SimpleRNN", "LSTM", "GRU"):
        return {"units": 4}
    if "Dropout" in name:
        return {"rate": 0.3}
    if name.startswith("AveragePooling"):
        return {"pool_size": 2}
    return {}


def cases() -> list[Case]:
    """All layers once in a plain way, and those with modes that converters get wrong in these too."""
    public = [getattr(layers, name) for name in sorted(dir(layers))]
    found = {kind: kind.__name__ for kind in public if isinstance(kind, type) and issubclass(kind, layers.Layer)}
    special = _special()
    plain = []
    for kind, name in found.items():
        if name in OUTSIDE or name in {case.layer for case in special if not case.use}:
            continue
        arguments = _arguments(name)
        dtype = "int32" if "Embedding" in name else "float32"
        plain.append(Case(name, "", _one(lambda kind=kind, arguments=arguments: kind(**arguments), _shape(name), dtype)))
    return sorted([*plain, *special, *(Case(name, "", lambda: None) for name in OUTSIDE)], key=lambda case: (case.layer, case.use))


def _special() -> list[Case]:
    rng = np.random.default_rng(1)
    data = rng.normal(size=(50, 6)).astype(np.float32)
    rows: list[Case] = []

    def add(layer: str, use: str, make: Callable[[], Any]) -> None:
        rows.append(Case(layer, use, make))

    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"):
        add(name, "", _two(getattr(layers, name), SEQUENCE))
    add("Dot", "", _two(lambda: layers.Dot(axes=-1), (6,)))
    add("Dot", "normalized, of matrices", _two(lambda: layers.Dot(axes=(2, 2), normalize=True), (4, 6), (5, 6)))
    add("Attention", "", _two(layers.Attention, (None, 6)))
    add("AdditiveAttention", "", _two(layers.AdditiveAttention, (None, 6)))
    add("MultiHeadAttention", "", _self_attention(lambda: layers.MultiHeadAttention(2, 4)))
    add("MultiHeadAttention", "causal", _self_attention(lambda: layers.MultiHeadAttention(2, 4), causal=True))
    add("MultiHeadAttention", "masked", _attention_masked)
    add("GroupedQueryAttention", "", _self_attention(lambda: layers.GroupQueryAttention(4, 4, 2)))
    add("Masking", "", _one(lambda: layers.Masking(0.5), SEQUENCE))
    add("Normalization", "", _one(lambda: _adapted(layers.Normalization(), data), (6,)))
    add("Discretization", "", _one(lambda: layers.Discretization(bin_boundaries=[-1.0, 0.1, 1.0]), (6,)))
    add("Discretization", "one_hot", _one(lambda: layers.Discretization([-1.0, 0.1, 1.0], output_mode="one_hot"), (1,)))
    add("CategoryEncoding", "", _one(lambda: layers.CategoryEncoding(7, "multi_hot"), (4,), "int32"))
    add("CategoryEncoding", "one_hot", _one(lambda: layers.CategoryEncoding(7, "one_hot"), (1,), "int32"))
    add("Lambda", "", _one(lambda: layers.Lambda(lambda t: t * 2 + 1), SEQUENCE))
    add("Pipeline", "", _one(lambda: layers.Pipeline([layers.Rescaling(0.5), layers.CenterCrop(4, 4)]), (8, 9, 3)))
    add("SpectralNormalization", "", _one(lambda: layers.SpectralNormalization(layers.Dense(4)), (6,)))
    add("TimeDistributed", "", _one(lambda: layers.TimeDistributed(layers.Dense(4)), (5, 6)))
    add("TimeDistributed", "convolution, open time", _one(lambda: layers.TimeDistributed(layers.Conv2D(2, 3)), (None, 6, 7, 2)))
    add("TorchModuleWrapper", "", _one(_torch_module, (6,)))
    add("PReLU", "shared axes", _one(lambda: layers.PReLU(shared_axes=[1]), SEQUENCE))
    add("BatchNormalization", "", _one(_batch_normalization, SEQUENCE))
    add("Flatten", "open axis", _one(layers.Flatten, SEQUENCE))
    for name in ("SimpleRNN", "LSTM", "GRU"):
        kind = getattr(layers, name)
        add(name, "return_sequences", _one(lambda kind=kind: kind(4, return_sequences=True), SEQUENCE))
        add(name, "return_state", _one(lambda kind=kind: kind(4, return_sequences=True, return_state=True), SEQUENCE))
        add(name, "go_backwards", _one(lambda kind=kind: kind(4, return_sequences=True, go_backwards=True), SEQUENCE))
        add(name, "masked", _masked(lambda kind=kind: kind(4)))
        add(name, "masked, return_sequences", _masked(lambda kind=kind: kind(4, return_sequences=True)))
        add(name, "masked, go_backwards", _masked(lambda kind=kind: kind(4, return_sequences=True, go_backwards=True)))
        add(name, "masked, stacked", _masked(lambda kind=kind: kind(4, return_sequences=True), lambda kind=kind: kind(3)))
        add(name, "stateful", lambda kind=kind: keras.Sequential([keras.Input(batch_shape=(3, 5, 6)), kind(4, stateful=True)]))
        add(name, "relu, no bias", _one(lambda kind=kind: kind(4, activation="relu", use_bias=False), SEQUENCE))
        add(name, "unroll, fixed length", _one(lambda kind=kind: kind(4, unroll=True), (5, 6)))
        cell = getattr(layers, name + "Cell")
        add(name + "Cell", "", _one(lambda cell=cell: layers.RNN(cell(4)), SEQUENCE))
    add("GRU", "reset_after=False", _one(lambda: layers.GRU(4, reset_after=False), SEQUENCE))
    add("LSTM", "initial state from another input", _encoder_decoder)
    add("RNN", "", _one(lambda: layers.RNN(layers.SimpleRNNCell(4), return_sequences=True), SEQUENCE))
    add("StackedRNNCells", "", _one(lambda: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(3), layers.GRUCell(4)])), SEQUENCE))
    add("Bidirectional", "", _one(lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True)), SEQUENCE))
    add("Bidirectional", "masked", _masked(lambda: layers.Bidirectional(layers.LSTM(3))))
    add("Bidirectional", "masked, return_sequences", _masked(lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True))))
    add("Bidirectional", "sum", _one(lambda: layers.Bidirectional(layers.GRU(3), merge_mode="sum"), SEQUENCE))
    add("Masking", "before LSTM", _stacked(SEQUENCE, layers.Masking, lambda: layers.LSTM(4)))
    states = _stacked(SEQUENCE, layers.Masking, lambda: layers.GRU(4, return_sequences=True), layers.GlobalAveragePooling1D)
    add("Masking", "before GRU and a mean", states)
    add("Masking", "before ConvLSTM1D", _masked_convlstm)
    add("Embedding", "mask, mean over time", _masked(layers.GlobalAveragePooling1D))
    add("Embedding", "mask, TimeDistributed", _masked(lambda: layers.TimeDistributed(layers.Dense(3))))
    add("ConvLSTM2D", "return_sequences, strides", _one(lambda: layers.ConvLSTM2D(2, 3, strides=2, return_sequences=True), (None, 7, 8, 2)))
    for dims, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME)):
        conv, transposed = getattr(layers, f"Conv{dims}D"), getattr(layers, f"Conv{dims}DTranspose")
        largest, mean = getattr(layers, f"MaxPooling{dims}D"), getattr(layers, f"AveragePooling{dims}D")
        add(f"Conv{dims}D", "same, strides", _one(lambda conv=conv: conv(4, 4, strides=2, padding="same"), shape))
        add(f"Conv{dims}DTranspose", "same, strides", _one(lambda conv=transposed: conv(4, 3, strides=2, padding="same"), shape))
        add(f"MaxPooling{dims}D", "same", _one(lambda pool=largest: pool(3, strides=2, padding="same"), shape))
        add(f"AveragePooling{dims}D", "same", _one(lambda pool=mean: pool(3, strides=2, padding="same"), shape))
    add("Conv1D", "causal, dilated", _one(lambda: layers.Conv1D(4, 3, dilation_rate=2, padding="causal"), SEQUENCE))
    add("Conv2D", "groups, dilated", _one(lambda: layers.Conv2D(6, 3, dilation_rate=2, groups=3), IMAGE))
    add("UpSampling2D", "bilinear", _one(lambda: layers.UpSampling2D(2, interpolation="bilinear"), IMAGE))
    add("UpSampling2D", "bicubic", _one(lambda: layers.UpSampling2D(2, interpolation="bicubic"), IMAGE))
    for method in ("nearest", "bicubic", "lanczos3"):
        add("Resizing", method, _one(lambda method=method: layers.Resizing(6, 7, interpolation=method), IMAGE))
    add("Resizing", "crop_to_aspect_ratio", _one(lambda: layers.Resizing(6, 7, crop_to_aspect_ratio=True), (9, 12, 3)))
    add("Resizing", "crop_to_aspect_ratio, open", _one(lambda: layers.Resizing(6, 7, crop_to_aspect_ratio=True), IMAGE))
    add("LayerNormalization", "rms", _one(lambda: layers.RMSNormalization(), SEQUENCE))
    return rows


def _stacked(shape: Sequence[int | None], *stack: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        return keras.Sequential([keras.Input(tuple(shape), name="x"), *(layer() for layer in stack)])

    return make


def _masked_convlstm() -> Any:
    x = keras.Input((None, 6, 2), name="x")
    mask = layers.Lambda(lambda t: t[:, :, 0, 0] > 0, output_shape=(None,))(x)
    return keras.Model(x, layers.ConvLSTM1D(2, 3, padding="same", return_sequences=True)(x, mask=mask))


def _attention_masked() -> Any:
    x, mask = keras.Input((None, 8), name="x"), keras.Input((None,), dtype="bool", name="mask")
    attended = layers.MultiHeadAttention(2, 4)(x, x, attention_mask=layers.Reshape((1, -1))(mask))
    return keras.Model([x, mask], attended)


def _encoder_decoder() -> Any:
    a, b = keras.Input((None, 6), name="a"), keras.Input((None, 5), name="b")
    _, h, c = layers.LSTM(4, return_state=True)(a)
    return keras.Model([a, b], layers.LSTM(4, return_sequences=True)(b, initial_state=[h, c]))


def _torch_module() -> Any:
    import torch

    inner = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    return layers.TorchModuleWrapper(inner, output_shape=(None, 2))


def _batch_normalization() -> Any:
    layer = layers.BatchNormalization()
    layer.build((None, None, 6))
    rng = np.random.default_rng(2)
    layer.set_weights([abs(rng.normal(size=w.shape)).astype(np.float32) for w in layer.get_weights()])
    return layer


def checked(case: Case) -> Row:
    """The layer with its place in the table."""
    from onnxferry.export import export_model
    from onnxferry.runtime.errors import OnnxFerryError

    if case.layer in OUTSIDE:
        return Row(case.layer, case.use, "outside", OUTSIDE[case.layer])
    keras.utils.set_random_seed(1)
    try:
        model = case.make()
    except Exception as error:  # noqa: BLE001 - a case that cannot be made is a row of its own
        return Row(case.layer, case.use, "outside", f"Keras cannot make it: {type(error).__name__}: {_line(error)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        try:
            export_model(model, None, path)
        except OnnxFerryError as error:
            return Row(case.layer, case.use, "refused", str(error).splitlines()[0][:300])
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            return Row(case.layer, case.use, "foreign", f"{type(error).__name__}: {_line(error)}")
        return Row(case.layer, case.use, *_compared(model, path))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _compared(model: Any, path: Path) -> tuple[str, str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    noted = ""
    for name, finite, feeds in probes(session.get_inputs()):
        want = _answer(model, list(feeds.values()))
        if want is None or (finite and not all(np.isfinite(a).all() for a in want if a.dtype.kind == "f")):
            continue
        try:
            found = session.run(None, feeds)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own
            return "wrong", f"{name}: ONNX Runtime fails: {_line(error)}"
        for number, (a, b) in enumerate(zip(want, found, strict=True)):
            words = _differs(a, b)
            if words and finite:
                return "wrong", f"{name}, output {number}: {words}"
            noted = noted or (f"{name}, output {number}" if words else "")
    return ("noted", noted) if noted else ("right", "")


def _answer(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray] | None:
    """Keras' answer, None where it cannot run. States are put back: the file keeps none between calls."""
    import torch

    try:
        with torch.no_grad(), keras.StatelessScope():
            found = model(arrays if len(arrays) > 1 else arrays[0], training=False)
    except Exception:  # noqa: BLE001 - what Keras itself cannot compute is compared with nothing
        return None
    return [each.detach().numpy() for each in keras.tree.flatten(found)]


def _differs(want: np.ndarray, got: np.ndarray) -> str:
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"file {got.dtype} {got.shape}, right {want.dtype} {want.shape}"
    if want.dtype.kind != "f":
        apart = want != got
    else:
        finite = np.isfinite(want)
        scale = float(np.abs(want[finite]).max(initial=0.0))
        with np.errstate(invalid="ignore"):
            near = np.abs(want.astype(np.float64) - got) <= KERNEL_FLOOR + ATOL_SHARE * scale + RTOL * np.abs(want)
        apart = ~np.where(finite, near, (want == got) | (np.isnan(want) & np.isnan(got)))
    if not apart.any():
        return ""
    place = tuple(np.argwhere(apart)[0])
    return f"file {got[place]!s}, right {want[place]!s}, {int(apart.sum())} of {apart.size} elements"


def probes(inputs: Sequence[Any]) -> Iterator[tuple[str, bool, dict[str, np.ndarray]]]:
    """(name, whether all is finite, values) for the file's inputs, at sizes that the export did not have."""
    draws: list[tuple[str, bool, int, int, Callable[[np.random.Generator, list[int]], np.ndarray]]] = [
        ("of the size of 1", True, 1, 5, lambda rng, shape: rng.normal(size=shape)),
        ("one step", True, 2, 1, lambda rng, shape: rng.normal(size=shape)),
        ("of the size of 100", True, 3, 11, lambda rng, shape: rng.uniform(-100, 100, shape)),
        ("between 0 and 255", True, 2, 13, lambda rng, shape: rng.uniform(0, 255, shape)),
        ("of the size of 1e-7", True, 6, 8, lambda rng, shape: 1e-7 * rng.normal(size=shape)),
        ("whole steps of zeros, ties", True, 5, 9, _some_zero),
        ("NaN and infinity among them", False, 3, 12, lambda rng, shape: rng.choice([np.nan, np.inf, 0.0, 1.0, -2.0, 0.5], shape)),
    ]
    for number, (name, finite, batch, size, draw) in enumerate(draws):
        rng = np.random.default_rng((7, number))
        feeds = {}
        for spec in inputs:
            shape = [n if isinstance(n, int) else batch if n == "batch" else size for n in spec.shape]
            if spec.type == "tensor(bool)":
                feeds[spec.name] = rng.random(shape) < 0.6
            elif spec.type == "tensor(float)":
                feeds[spec.name] = np.asarray(draw(rng, shape), np.float32)
            else:
                feeds[spec.name] = rng.integers(0, 7, shape).astype("int32" if "int32" in spec.type else "int64")
        yield name, finite, feeds


def _some_zero(rng: np.random.Generator, shape: list[int]) -> np.ndarray:
    """Rows of zeros and of halves, whole and among others: what masks look for."""
    found = rng.choice([0.0, 0.5, -0.5, 1.0, -1.0, 2.5], shape)
    if len(shape) > 1:
        for row in range(shape[0]):
            found[row, int(rng.integers(0, shape[1] + 1)) :] = 0.5 if row % 2 else 0.0
    return found


ORDER = ("right", "noted", "refused", "wrong", "foreign")


def recorded(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def record(row: Row, path: Path) -> None:
    """Keep the row, in the place of an older one."""
    rows = {(kept.layer, kept.use): kept for kept in [*recorded(path), row]}
    path.write_text("".join(json.dumps(asdict(rows[key])) + "\n" for key in sorted(rows)))


def prepare() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def main() -> None:
    parser = argparse.ArgumentParser(description="the layers of Keras, exported and compared")
    parser.add_argument("--only", default="", help="names of layers, with commas")
    parser.add_argument("--record", type=Path, help="a .jsonl file; rows that it has are not run again, unless --only names them")
    arguments = parser.parse_args()
    prepare()
    only = [name for name in arguments.only.split(",") if name]
    done = {(row.layer, row.use) for row in recorded(arguments.record)} if arguments.record and not only else set()
    rows = []
    for case in cases():
        if (case.layer, case.use) in done or (only and case.layer not in only):
            continue
        row = checked(case)
        rows.append(row)
        print(row.status, row.layer, row.use, row.detail, file=sys.stderr, flush=True)
        if arguments.record:
            record(row, arguments.record)
    print(dict(Counter(row.status for row in (recorded(arguments.record) if arguments.record else rows))))


if __name__ == "__main__":
    main()
