"""JAX functions and modules through the whole export: compared at open sizes and special values, written, and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from onnxferry.export import export_model, verify_file
from onnxferry.runtime import load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ExportError, InputError

BATCH = {0: "batch"}
OPEN = {0: "batch", 1: "time"}


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


W1, W2, KERNEL = drawn(16, 32) * 0.3, drawn(32, 8) * 0.3, drawn(3, 3, 3, 8) * 0.2
WI, WH = drawn(8, 64) * 0.2, drawn(16, 64) * 0.2
TABLE = jnp.asarray(drawn(20, 6))


def mlp(x: Any) -> Any:
    return jax.nn.softmax(jax.nn.relu(x @ W1 + 0.1) @ W2)


def cnn(x: Any) -> Any:
    h = jax.nn.relu(lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    return lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").mean((1, 2))


def lstm(x: Any) -> Any:
    def step(state: Any, v: Any) -> Any:
        h, c = state
        i, g, f, o = jnp.split(v @ WI + h @ WH, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[0], 16))
    (h, _), all_of_them = lax.scan(step, (zero, zero), x.swapaxes(0, 1))
    return {"last": h, "all": all_of_them.swapaxes(0, 1)}


def causal(x: Any) -> Any:
    t = x.shape[1]
    scores = jnp.where(jnp.tril(jnp.ones((t, t), bool)), jnp.einsum("bqd,bkd->bqk", x, x) / 8**0.5, -jnp.inf)
    return jax.nn.softmax(scores, -1) @ x


def embed(ids: Any) -> Any:
    return (TABLE[ids] + jnp.arange(ids.shape[1])[None, :, None]).sum(1)


@pytest.mark.parametrize(
    ("function", "example", "axes"),
    [
        (jax.jit(mlp), drawn(4, 16), BATCH),
        (cnn, drawn(2, 8, 8, 3), BATCH),
        (lstm, drawn(3, 5, 8), OPEN),
        (causal, drawn(2, 6, 8), OPEN),
        (embed, np.arange(10, dtype=np.int32).reshape(2, 5), OPEN),
    ],
)
def test_functions(function: Any, example: np.ndarray, axes: dict[int, str], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    report = export_model(function, (example,), path, dynamic_shapes=(axes,))
    assert report.passed
    assert report.strategy == "jax"
    with load(path, device="cpu", threads=1) as model:
        (name,) = (spec.name for spec in model.engine.inputs)
        larger = np.concatenate([example, example, example[:1]])
        made = model.run({name: larger})
        wanted = jax.tree.leaves(function(jnp.asarray(larger)))
        for output, expected in zip(made.values(), wanted, strict=True):
            np.testing.assert_allclose(output, np.asarray(expected), rtol=1e-4, atol=2e-6)


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.dropout(self.dense(self.norm(self.attention(x))))


class Images(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dense = nnx.Linear(4 * 4 * 4, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
        return self.dense(x.reshape(x.shape[0], -1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, ids: Any, train: bool = False) -> Any:
        x = nn.RNN(nn.LSTMCell(8))(nn.Embed(20, 6)(ids))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3)(x[:, -1])


def test_nnx_with_dropout_and_attention(tmp_path: Path) -> None:
    model = Block(nnx.Rngs(0))
    report = export_model(model, {"x": drawn(2, 5, 8)}, tmp_path / "m.onnx", dynamic_shapes={"x": OPEN})
    assert report.passed
    assert any("the model was in training mode" in note for note in report.notes)
    assert model.dropout.deterministic is False  # the user's own is as it was


def test_nnx_with_batch_norm(tmp_path: Path) -> None:
    model = Images(nnx.Rngs(0))
    model(jnp.asarray(drawn(8, 8, 8, 1)))  # running statistics of its own
    model.eval()
    report = export_model(model, (drawn(2, 8, 8, 1),), tmp_path / "m.onnx", dynamic_shapes=(BATCH,))
    assert report.passed
    assert not any("training mode" in note for note in report.notes)


def test_nnx_recurrence(tmp_path: Path) -> None:
    model = nnx.RNN(nnx.GRUCell(6, 8, rngs=nnx.Rngs(0)))
    assert export_model(model, (drawn(2, 5, 6),), tmp_path / "m.onnx", dynamic_shapes=(OPEN,)).passed


def test_linen_with_its_variables(tmp_path: Path) -> None:
    module, ids = Recurrent(), np.arange(10, dtype=np.int32).reshape(2, 5)
    variables = module.init(jax.random.key(0), ids)
    report = export_model((module, variables), {"ids": ids, "train": False}, tmp_path / "m.onnx", dynamic_shapes={"ids": OPEN})
    assert report.passed
    assert "the argument train = False is no array: it is fixed in the graph" in report.notes
    bound = module.bind(variables)
    assert export_model(bound, (ids,), tmp_path / "b.onnx", dynamic_shapes=(OPEN,)).passed
    with pytest.raises(InputError, match=r"without variables: give the pair \(module, variables\)"):
        export_model(module, (ids,), tmp_path / "none.onnx")


def test_equinox(tmp_path: Path) -> None:
    model = eqx.nn.MLP(6, 3, 16, 2, key=jax.random.key(0))
    assert export_model(jax.vmap(model), (drawn(4, 6),), tmp_path / "v.onnx", dynamic_shapes=(BATCH,)).passed
    noisy = eqx.nn.Sequential([eqx.nn.Linear(6, 4, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
    report = export_model(noisy, (drawn(6),), tmp_path / "d.onnx")
    assert report.passed
    assert any("training mode" in note for note in report.notes)


def test_nested_arguments_and_answers(tmp_path: Path) -> None:
    def model(x: Any, state: Any, scale: float = 2.0) -> Any:
        return {"sum": x * scale + state["h"], "pair": (state["c"], x.sum())}

    path, state = tmp_path / "m.onnx", {"h": drawn(4, 3), "c": drawn(4, 1)}
    export_model(model, {"x": drawn(4, 3), "state": state}, path, dynamic_shapes={"x": BATCH, "state": {"h": BATCH, "c": BATCH}})
    with load(path, device="cpu") as loaded:
        assert [spec.name for spec in loaded.engine.inputs] == ["x", "state_c", "state_h"]
        assert [spec.name for spec in loaded.engine.outputs] == ["pair_0", "pair_1", "sum"]
    assert verify_file(path, model).passed  # by the flat names that the file has


def test_verify_and_provenance(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_model(mlp, (drawn(4, 16),), path, dynamic_shapes=(BATCH,))
    assert verify_file(path, mlp).passed
    with load(path, device="cpu") as loaded:
        assert loaded.contract.provenance["framework"] == "jax"
        assert loaded.contract.provenance["model"] == "mlp"
        assert loaded.contract.provenance["versions"]["jax"]
    wrong = verify_file(path, lambda x: mlp(x) * 1.01)
    assert not wrong.passed


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "import jax, jax.numpy as jnp\n\n\ndef double(x):\n    return jnp.tanh(x) * 2\n\n\ndef make():\n    return jax.jit(double)\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("mine:double", "mine:make"):
        assert main(["export", name, "--input", "x:float32[batch,3]", "-o", "m.onnx"]) == 0
        assert "passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "examples", "kind", "words"),
    [
        (mlp, None, InputError, "a JAX model needs example inputs"),
        (mlp, (drawn(4, 5),), ExportError, "the model itself fails on the example inputs .*give inputs that it accepts"),
        (mlp, {"y": drawn(4, 16)}, InputError, "do not fit the model's arguments.*it takes x"),
        (lambda x: x * (1 + 2j), (drawn(3),), ExportError, "the output is complex64.*return its absolute value or its parts"),
        (lambda x: {}, (drawn(3),), ExportError, "returns no array"),
        (lambda x: "no", (drawn(3),), ExportError, "the output is a str"),
        (lambda x: x, (jnp.ones(3, jnp.bfloat16),), InputError, "is bfloat16.*give float32"),
    ],
)
def test_what_is_refused(function: Any, examples: Any, kind: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=words):
        export_model(function, examples, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
