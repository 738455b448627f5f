"""Twenty-six functions and modules as people write them in JAX, Flax and Equinox: what each is called with, and which axes are open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import lax

BATCH, OPEN = {0: "batch"}, {0: "batch", 1: "time"}

Made = tuple[Any, tuple[np.ndarray, ...], tuple[dict[int, str], ...]]


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def images() -> np.ndarray:
    return drawn(2, 12, 12, 3)


def conv(x: Any, kernel: np.ndarray, stride: int = 1, **options: Any) -> Any:
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def perceptron() -> Made:
    one, two = drawn(16, 32) * 0.3, drawn(32, 8) * 0.3
    return lambda x: jax.nn.softmax(jax.nn.relu(x @ one + 0.1) @ two), (drawn(2, 16),), (BATCH,)


def pooled_nhwc() -> Made:
    kernel = drawn(3, 3, 3, 8) * 0.2

    def call(x: Any) -> Any:
        pooled = lax.reduce_window(jax.nn.relu(conv(x, kernel)), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return pooled.mean((1, 2))

    return call, (images(),), (BATCH,)


def pooled_nchw() -> Made:
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "SAME"), (drawn(2, 3, 12, 12),), (BATCH,)


def transposed() -> Made:
    kernel = drawn(3, 3, 3, 4) * 0.2
    return lambda x: lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), (images(),), (BATCH,)


def grouped_and_dilated() -> Made:
    kernel = drawn(3, 3, 1, 6) * 0.3
    return lambda x: conv(x, kernel, feature_group_count=3, rhs_dilation=(2, 2)), (images(),), (BATCH,)


def lstm_by_scan() -> Made:
    wi, wh = drawn(8, 64) * 0.2, drawn(16, 64) * 0.2

    def call(x: Any) -> Any:
        def step(state: Any, v: Any) -> Any:
            h, c = state
            i, g, f, o = jnp.split(v @ wi + h @ wh, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[0], 16))
        return lax.scan(step, (zero, zero), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    return call, (drawn(2, 5, 8),), (OPEN,)


def while_loop() -> Made:
    def call(x: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.tanh(s[1] * 1.1)), (0, x))[1]

    return call, (drawn(2, 6),), (BATCH,)


def condition() -> Made:
    return lambda x: lax.cond(x.sum() > 0, lambda v: v * 2, lambda v: jnp.exp(-jnp.abs(v)), x), (drawn(2, 6),), (BATCH,)


def causal_attention() -> Made:
    def call(x: Any) -> Any:
        time = x.shape[1]
        scores = jnp.where(jnp.tril(jnp.ones((time, time), bool)), jnp.einsum("bqd,bkd->bqk", x, x) / 8**0.5, -jnp.inf)
        return jax.nn.softmax(scores, -1) @ x

    return call, (drawn(2, 5, 8),), (OPEN,)


def embedding() -> Made:
    table = jnp.asarray(drawn(20, 6))
    return lambda ids: table[ids].mean(1), (np.arange(10, dtype=np.int32).reshape(2, 5),), (OPEN,)


def positions() -> Made:
    return lambda x: x + jnp.sin(jnp.arange(x.shape[1]) / 10.0)[None, :, None], (drawn(2, 5, 4),), (OPEN,)


def running_sum() -> Made:
    return lambda x: jnp.cumsum(x, 1), (drawn(2, 5),), (OPEN,)


def fourier() -> Made:
    return lambda x: jnp.abs(jnp.fft.rfft(x)), (drawn(2, 16),), (BATCH,)


def resized() -> Made:
    return lambda x: jax.image.resize(x, (x.shape[0], 6, 6, 3), "bilinear", antialias=True), (images(),), (BATCH,)


def a_key_of_ones_own() -> Made:
    return lambda x: x + jax.random.normal(jax.random.PRNGKey(0), (6,)), (drawn(2, 6),), (BATCH,)


class NnxPerceptron(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.one, self.two = nnx.Linear(6, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(16, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.two(self.dropout(jax.nn.relu(self.norm(self.one(x)))))


def nnx_perceptron() -> Made:
    model = NnxPerceptron(nnx.Rngs(0))
    model(jnp.asarray(drawn(32, 6)))
    model.eval()
    return model, (drawn(2, 6),), (BATCH,)


def nnx_left_in_training() -> Made:
    model = NnxPerceptron(nnx.Rngs(0))
    model(jnp.asarray(drawn(32, 6)))
    return model, (drawn(2, 6),), (BATCH,)


class NnxImages(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv, self.dense = nnx.Conv(3, 8, (3, 3), rngs=rngs), nnx.Linear(8 * 36, 5, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        pooled = nnx.max_pool(jax.nn.relu(self.conv(x)), (2, 2), (2, 2))
        return self.dense(pooled.reshape(x.shape[0], -1))


def nnx_images() -> Made:
    return NnxImages(nnx.Rngs(0)), (images(),), (BATCH,)


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.attention(self.norm(x))


def nnx_attention() -> Made:
    return NnxBlock(nnx.Rngs(0)), (drawn(2, 5, 8),), (OPEN,)


def nnx_recurrence() -> Made:
    return nnx.RNN(nnx.LSTMCell(6, 8, rngs=nnx.Rngs(0))), (drawn(2, 5, 6),), (OPEN,)


class LinenPerceptron(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(3)(nn.gelu(nn.Dense(16)(x)))


class LinenImages(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.max_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(5)(x.mean((1, 2)))


class LinenRecurrent(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(nn.RNN(nn.LSTMCell(8))(x))


def _linen(module: nn.Module, x: np.ndarray, axes: dict[int, str]) -> Made:
    return (module, module.init(jax.random.key(0), x)), (x,), (axes,)


def equinox_perceptron() -> Made:
    return jax.vmap(eqx.nn.MLP(6, 3, 16, 2, key=jax.random.key(0))), (drawn(2, 6),), (BATCH,)


def equinox_images() -> Made:
    key = jax.random.key(0)
    layers = [eqx.nn.Conv2d(3, 6, 3, key=key), eqx.nn.Lambda(jax.nn.relu), eqx.nn.MaxPool2d(2, 2), eqx.nn.Lambda(jnp.ravel)]
    return jax.vmap(eqx.nn.Sequential([*layers, eqx.nn.Linear(6 * 25, 4, key=key)])), (drawn(2, 3, 12, 12),), (BATCH,)


def equinox_recurrence() -> Made:
    cell = eqx.nn.LSTMCell(4, 8, key=jax.random.key(0))

    def call(x: Any) -> Any:
        zero = jnp.zeros(8)
        return lax.scan(lambda state, v: (cell(v, state), None), (zero, zero), x)[0][0]

    return jax.vmap(call), (drawn(2, 5, 4),), (OPEN,)


SAMPLES: dict[str, Callable[[], Made]] = {
    "perceptron": perceptron,
    "convolution and pooling, NHWC": pooled_nhwc,
    "pooling, NCHW": pooled_nchw,
    "transposed convolution": transposed,
    "grouped and dilated convolution": grouped_and_dilated,
    "LSTM by lax.scan": lstm_by_scan,
    "while_loop": while_loop,
    "cond": condition,
    "causal attention": causal_attention,
    "embedding": embedding,
    "positions by arange": positions,
    "cumsum": running_sum,
    "rfft": fourier,
    "image.resize with antialias": resized,
    "random numbers with a fixed key": a_key_of_ones_own,
    "NNX perceptron": nnx_perceptron,
    "NNX, left in training mode": nnx_left_in_training,
    "NNX convolution and max_pool": nnx_images,
    "NNX attention": nnx_attention,
    "NNX RNN of LSTM cells": nnx_recurrence,
    "Linen perceptron": lambda: _linen(LinenPerceptron(), drawn(2, 6), BATCH),
    "Linen convolution and max_pool": lambda: _linen(LinenImages(), images(), BATCH),
    "Linen RNN of LSTM cells": lambda: _linen(LinenRecurrent(), drawn(2, 5, 4), OPEN),
    "Equinox perceptron": equinox_perceptron,
    "Equinox convolution": equinox_images,
    "Equinox LSTM": equinox_recurrence,
}
"""By name: what to export."""

REFUSED = {"random numbers with a fixed key": r"it uses a random key: take random numbers as an input"}
"""Those that are refused, and why."""
