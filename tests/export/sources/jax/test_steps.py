"""Each lowering against JAX, at sizes and values that the trace did not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax
from jax.experimental import io_callback

from onnxferry.export.sources.jax.convert import make_graph
from onnxferry.export.sources.jax.source import JaxSource
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import ExportError

EDGES = np.array([0, -0.0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-8, -1e-8, 1e-3, 3, -3, 20, -20, 1e4, -1e4], np.float32)
WHOLE = np.array([0, 1, -1, 2, -2, 7, -7, 31, 32, -32, 2**24 + 1, 2**31 - 1, -(2**31), 100], np.int32)

UNARY = [
    jnp.abs, jnp.sign, jnp.floor, jnp.ceil, jnp.round, jnp.exp, jnp.exp2, jnp.expm1, jnp.tanh, jnp.sin, jnp.cos, jnp.arctan, jnp.arcsinh,
    jnp.cbrt, jnp.square, jnp.isfinite, jnp.isnan, jnp.negative, jax.nn.sigmoid, jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.elu,
    jax.nn.softplus, jax.nn.gelu, jax.nn.hard_swish, jax.nn.leaky_relu, jax.nn.selu, jax.nn.log_sigmoid, jax.scipy.special.erf,
    jax.scipy.special.erfc, jax.scipy.special.ndtr, lambda x: jnp.log1p(jnp.abs(x)), lambda x: jnp.sqrt(jnp.abs(x)),
    lambda x: lax.rsqrt(jnp.abs(x) + 1e-6), lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), lambda x: x**3, lambda x: x**-2,
    lambda x: jnp.clip(x, -1, 2), lambda x: x.astype(jnp.int32), lambda x: x.astype(bool), lambda x: x.astype(jnp.uint8),
    lambda x: jax.scipy.special.erfinv(jnp.tanh(x)), lambda x: jax.scipy.special.gammaln(jnp.abs(x) + 0.1), lambda x: jnp.tan(x / 3e4),
    lambda x: jnp.sinh(x / 1e3), lambda x: jnp.arccosh(jnp.abs(x) + 1), lambda x: jnp.arctanh(jnp.tanh(x / 9)), lambda x: jnp.nan_to_num(x),
]  # fmt: skip
BINARY = [
    jnp.add, jnp.subtract, jnp.multiply, jnp.divide, jnp.maximum, jnp.minimum, jnp.arctan2, jnp.mod, jnp.fmod, jnp.floor_divide, jnp.hypot,
    jnp.logaddexp, jnp.greater, jnp.less_equal, jnp.equal, jnp.not_equal, lambda a, b: jnp.power(jnp.abs(a) + 1, b / 1e4),
    lambda a, b: jnp.where(a > b, a, b), lambda a, b: lax.clamp(-1.0, a, jnp.abs(b)),
]  # fmt: skip
WHOLES = [
    jnp.add, jnp.subtract, jnp.multiply, lax.div, lax.rem, jnp.floor_divide, jnp.mod, jnp.maximum, jnp.minimum, jnp.bitwise_and,
    jnp.bitwise_or, jnp.bitwise_xor, jnp.left_shift, jnp.right_shift, lax.shift_right_logical, jnp.greater, jnp.equal,
    lambda a, b: jnp.abs(a), lambda a, b: jnp.sign(a), lambda a, b: ~a, lambda a, b: a.astype(jnp.int8) + b.astype(jnp.int8),
    lambda a, b: a.astype(jnp.uint32) * b.astype(jnp.uint32), lambda a, b: (a.astype(jnp.uint8) // 3, b.astype(jnp.float32)),
    lambda a, b: jnp.minimum(a.astype(bool), b.astype(bool)),
]  # fmt: skip


def check(
    function: Callable[..., Any],
    *feeds: Sequence[np.ndarray],
    axes: Sequence[Mapping[int, str]] | None = None,
    rtol: float = 3e-6,
    atol: float = 1e-6,
) -> onnx.ModelProto:
    """The graph of the first feed, with its open axes, gives what JAX gives for all of them."""
    names = [f"x{number}" for number in range(len(feeds[0]))]
    source = JaxSource(function, feeds[0], dynamic_shapes=None if axes is None else tuple(axes))
    closed, shapes, _ = source._symbolic()
    declared = [(spec.name, np.dtype(spec.dtype), shape) for spec, shape in zip(source.inputs, shapes, strict=True)]
    model = make_graph(closed, declared, source.output_names, 18)
    onnx.checker.check_model(model, full_check=True)
    assert len(names) == len(source.inputs)
    with Engine(model.SerializeToString(), device="cpu", threads=1) as engine:
        for feed in feeds:
            given = {spec.name: np.asarray(value) for spec, value in zip(source.inputs, feed, strict=True)}
            made = engine.run(given)
            wanted = jax.tree.leaves(function(*map(jnp.asarray, feed)))
            for name, expected in zip(source.output_names, wanted, strict=True):
                assert made[name].dtype == np.asarray(expected).dtype
                np.testing.assert_allclose(made[name], np.asarray(expected), rtol=rtol, atol=atol, err_msg=f"{name} of {feed}")
    return model


def pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.meshgrid(values, values)
    return a.ravel(), b.ravel()


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def test_of_one_float() -> None:
    # sinh, exp and the like at 1e4 are infinite on both sides; a rounding of the argument shows in the last digits elsewhere
    check(lambda x: [function(x) for function in UNARY], (EDGES,), (EDGES[::-1][:7].copy(),), axes=[{0: "batch"}], rtol=2e-5)


def test_of_two_floats() -> None:
    check(lambda a, b: [function(a, b) for function in BINARY], pairs(EDGES[EDGES != 0]), axes=[{0: "n"}, {0: "n"}], rtol=2e-5)


def test_of_whole_numbers() -> None:
    check(lambda a, b: [function(a, b) for function in WHOLES], pairs(WHOLE), axes=[{0: "n"}, {0: "n"}])


@pytest.mark.parametrize("function", [jnp.sum, jnp.prod, jnp.max, jnp.min, jnp.mean, jnp.var, jnp.any, jnp.all, jnp.argmax, jnp.argmin])
def test_reductions(function: Callable[..., Any]) -> None:
    def both(x: Any) -> Any:
        wide = jnp.broadcast_to(x[:, :1, None], (x.shape[0], 3, 4))  # an axis that is repeated only in JAX
        return function(x), function(x, 0), function(x, 1), function(wide, 1), function(wide, axis=2), function(x > 0, 1)

    check(both, (drawn(4, 5),), (drawn(7, 5),), axes=[{0: "batch"}])


def test_running_ones() -> None:
    def running(x: Any) -> Any:
        whole = (x * 10).astype(jnp.int32)
        made = [
            jnp.cumsum(x, 1),
            jnp.cumprod(x, 1),
            lax.cummax(x, axis=1),
            lax.cummin(x, axis=0, reverse=True),
            lax.cumlogsumexp(x, axis=1),
        ]
        return [*made, jnp.cumsum(whole, 1), lax.cummax(whole, axis=1, reverse=True)]

    check(running, (drawn(3, 5),), (drawn(2, 9),), axes=[{0: "batch", 1: "time"}])


def test_shapes() -> None:
    def shapes(x: Any) -> Any:
        b, t = x.shape
        made = [x.reshape(b * t), x.reshape(b, 1, t), x.T, x[:, ::2], x[:, 1:], x[::-1, ::-1], x[:, -1], jnp.concatenate([x, x + 1], 1)]
        made += [jnp.tile(x, (1, 2)), jnp.repeat(x, 3, 1), jnp.roll(x, 1, 1), jnp.stack([x, x]), x[:, None] + x[..., None], jnp.flip(x, 1)]
        made += [
            jnp.pad(x, ((0, 0), (1, 2)), constant_values=3),
            lax.pad(x, 0.5, ((0, 0, 0), (1, -1, 2))),
            jnp.arange(t) * x,
            x.swapaxes(0, 1),
        ]
        return [
            *made,
            *jnp.unstack(x[:, :1].T),
            *jnp.split(jnp.tile(x[:, :1], (1, 4)), 2, 1),
            jnp.broadcast_to(x.mean(), (b, 3)),
            jnp.eye(4) + x[:1, :1],
            x.ravel(),
            x.sum() * 2,
        ]

    check(shapes, (drawn(2, 6),), (drawn(5, 8),), axes=[{0: "batch", 1: "time"}])


def test_padding_that_mirrors() -> None:
    check(
        lambda x: [jnp.pad(x, ((0, 0), (2, 2)), mode=mode) for mode in ("reflect", "edge", "wrap")],
        (drawn(2, 6),),
        (drawn(5, 6),),
        axes=[{0: "b"}],
    )


def test_products() -> None:
    def products(a: Any, b: Any) -> Any:
        made = [jnp.einsum(text, a, b) for text in ("bij,bjk->bik", "bij,bjk->ik", "bij,bjk->kbi", "bij,cjk->bcik")]
        return [*made, a @ b, jax.vmap(jnp.matmul)(a, b), jnp.tensordot(a, b[0], 1), a[0] @ b[0, :, 0], jnp.dot(a[0, 0], b[0, :, 0])]

    check(products, (drawn(2, 3, 4), drawn(2, 4, 5)), (drawn(6, 3, 4), drawn(6, 4, 5)), axes=[{0: "batch"}, {0: "batch"}], atol=1e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 3))])
def test_convolutions(strides: tuple[int, int], padding: Any) -> None:
    kernel, grouped = drawn(3, 3, 4, 6), drawn(2, 3, 1, 8)
    numbers = ("NHWC", "HWIO", "NHWC")

    def convolve(x: Any) -> Any:
        made = [lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)]
        made += [
            lax.conv_general_dilated(x, grouped, strides, padding, rhs_dilation=(1, 2), feature_group_count=4, dimension_numbers=numbers)
        ]
        made += [lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (2, 2)), lhs_dilation=strides, dimension_numbers=numbers)]
        return made

    check(convolve, (drawn(2, 8, 9, 4),), (drawn(3, 11, 10, 4),), axes=[{0: "batch", 1: "height", 2: "width"}], atol=2e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2)])
def test_transposed_convolutions(strides: tuple[int, int], padding: str) -> None:
    kernel = drawn(3, 2, 4, 5)
    check(
        lambda x: lax.conv_transpose(x, kernel, strides, padding),
        (drawn(2, 5, 6, 4),),
        (drawn(3, 5, 6, 4),),
        axes=[{0: "batch"}],
        atol=2e-5,
    )


def test_kernels_that_are_inputs() -> None:
    def convolve(x: Any, kernel: Any) -> Any:
        return lax.conv(x, kernel, (1, 1), "SAME"), lax.conv_transpose(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )

    check(
        convolve, (drawn(2, 3, 6, 6), drawn(3, 3, 3, 3)), (drawn(4, 3, 6, 6), drawn(3, 3, 3, 3, seed=1)), axes=[{0: "batch"}, {}], atol=2e-5
    )


def test_one_and_three_axes() -> None:
    one, three = drawn(3, 4, 5), drawn(2, 2, 2, 3, 4)

    def convolve(x: Any, y: Any) -> Any:
        made = lax.conv_general_dilated(x, one, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
        return made, lax.conv_general_dilated(y, three, (1, 2, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))

    feeds = (drawn(2, 7, 4), drawn(2, 4, 5, 6, 3)), (drawn(3, 9, 4), drawn(3, 4, 5, 6, 3))
    check(convolve, *feeds, axes=[{0: "batch", 1: "time"}, {0: "batch"}], atol=2e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_pooling(padding: str) -> None:
    def pool(x: Any) -> Any:
        size, stride = (1, 3, 2, 1), (1, 2, 2, 1)
        made = [lax.reduce_window(x, -jnp.inf, lax.max, size, stride, padding), lax.reduce_window(x, 0.0, lax.add, size, stride, padding)]
        made += [lax.reduce_window(x, jnp.inf, lax.min, size, stride, padding), lax.reduce_window(x, 1.0, lax.mul, size, stride, padding)]
        made += [lax.reduce_window(x, 0.0, lax.max, size, stride, padding)]
        whole = (x * 9).astype(jnp.int32)
        made += [
            lax.reduce_window(whole, 0, lax.add, size, stride, padding),
            lax.reduce_window(whole, -(2**31), lax.max, size, stride, padding),
        ]
        made += [lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), padding, window_dilation=(1, 2, 2, 1))]
        return [*made, lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 1, 2), (1, 1, 1, 2), padding)]

    check(pool, (drawn(2, 8, 9, 4),), (drawn(3, 11, 8, 4),), axes=[{0: "batch", 1: "height", 2: "width"}], atol=1e-5)


def test_gathers() -> None:
    table = drawn(10, 6)

    def gather(x: Any, places: Any) -> Any:
        rows = jnp.arange(x.shape[0])
        made = [jnp.asarray(table)[places], jnp.take(x, places[0], axis=1), jnp.take_along_axis(x, places, 1), x[rows, places[:, 0]]]
        made += [
            jnp.take(x, places, axis=1, mode="clip"),
            jnp.take(x, places + 3, axis=1, mode="fill"),
            x[:, [0, 2]],
            x[:, jnp.array([0, -1])],
        ]
        made += [
            jax.vmap(lambda row, place: row[place])(x, places),
            jax.vmap(lambda row, place: lax.dynamic_slice(row, (place[0],), (2,)))(x, places),
        ]
        return [*made, x.at[:, 1].get(), jnp.asarray(table)[places, 2], x[..., None][:, places[0], 0]]

    places = np.random.default_rng(1).integers(0, 6, (4, 3)).astype(np.int32)
    more = np.random.default_rng(2).integers(0, 6, (7, 3)).astype(np.int32)
    check(gather, (drawn(4, 6), places), (drawn(7, 6), more), axes=[{0: "batch"}, {0: "batch"}])


def test_scatters() -> None:
    def scatter(x: Any, places: Any) -> Any:
        rows = jnp.arange(x.shape[0])
        made = [x.at[:, 0].set(1.0), x.at[:, 1:3].add(2.0), x.at[:, -1].mul(3.0), x.at[rows, places].set(5.0), x.at[0].set(0.0)]
        made += [x.at[:, 2].max(0.5), x.at[:, 2].min(0.5), jnp.zeros(6).at[places].add(1.0), x.at[rows, places + 4].add(1.0, mode="drop")]
        made += [jnp.zeros(6, int).at[jnp.array([1, 3, 3])].add(2), jax.vmap(lambda row, place: row.at[place].set(9.0))(x, places)]
        return [*made, (x > 0).at[:, 0].set(True), x.at[:, ::2].set(0.0)]

    places = np.array([0, 5, 2, 2], np.int32)
    check(scatter, (drawn(4, 6), places), (drawn(3, 6), places[:3]), axes=[{0: "batch"}, {0: "batch"}])


def test_slices_by_value() -> None:
    def slices(x: Any, place: Any) -> Any:
        b = x.shape[0]
        made = [lax.dynamic_slice(x, (0, place), (b, 3)), lax.dynamic_update_slice(x, jnp.ones((b, 2)), (0, place))]
        return [*made, lax.dynamic_update_slice(x, jnp.ones((1, 2)), (place, place)), lax.dynamic_index_in_dim(x, place, 1)]

    feeds = [(drawn(4, 7), np.int32(number)) for number in (2, 0, 6, 9, -1)]
    check(slices, *feeds, axes=[{0: "batch"}, {}])


def test_sorting() -> None:
    def ordered(x: Any) -> Any:
        made = [
            jnp.sort(x, 1),
            jnp.argsort(x, 1),
            jnp.sort(x, 0),
            *lax.top_k(x, 3),
            jnp.median(x, 1),
            jnp.argsort(-x, 1),
            jnp.sort(x, 1)[:, ::-1],
        ]
        return [*made, *lax.sort((jnp.round(x), -x, x), num_keys=2), jnp.percentile(x, 30, axis=1), jnp.sort((x * 3).astype(jnp.int32), 1)]

    ties = np.round(drawn(5, 8) * 2) / 2
    check(ordered, (drawn(4, 8),), (ties + 0.0,), axes=[{0: "batch"}])


def test_loops_and_branches() -> None:
    weights = drawn(3, 3)

    def loops(x: Any) -> Any:
        forwards = lax.scan(lambda c, v: (jnp.tanh(c @ weights + v), c.sum(1)), jnp.zeros((x.shape[0], 3)), x.swapaxes(0, 1))
        backwards = lax.scan(lambda c, v: (c * 0.5 + v, (c, v.sum())), x[:, 0], x.swapaxes(0, 1), reverse=True)
        counted = lax.scan(lambda c, _: (c * 1.5, None), x, None, length=3)
        whiled = lax.while_loop(lambda s: (s[0] < 7) & (jnp.abs(s[1]).max() < 50), lambda s: (s[0] + 1, s[1] * 1.7), (0, x))
        folded = lax.fori_loop(0, 4, lambda i, s: s + i, x)
        branched = lax.cond(x.sum() > 0, lambda v: v * 2, lambda v: -v, x)
        switched = [lax.switch(number, [lambda v: v, lambda v: v + 1, lambda v: v * 3], x) for number in (x.sum().astype(jnp.int32),)]
        return forwards, backwards, counted[0], whiled, folded, branched, switched, lax.map(lambda row: row.sum(), x)

    feeds = [(drawn(2, 5, 3) + shift,) for shift in (0, 3, -3)] + [(drawn(4, 8, 3),)]
    check(loops, *feeds, axes=[{0: "batch", 1: "time"}], atol=1e-5)


def test_fourier() -> None:
    def transformed(x: Any) -> Any:
        made = [jnp.abs(jnp.fft.rfft(x)), jnp.fft.irfft(jnp.fft.rfft(x) * 2), jnp.real(jnp.fft.ifft(jnp.fft.fft(x)))]
        grid = x.reshape(-1, 3, 4)
        return [
            *made,
            jnp.abs(jnp.fft.fft2(grid)),
            jnp.fft.irfft2(jnp.fft.rfft2(grid)),
            jnp.imag(jnp.fft.fft(x) / (1 + 2j)),
            jnp.fft.irfft(jnp.fft.rfft(x), 11),
        ]

    check(transformed, (drawn(2, 12),), (drawn(5, 12),), axes=[{0: "batch"}], atol=1e-5)


def test_resizing() -> None:
    def resize(x: Any) -> Any:
        b = x.shape[0]
        made = [jax.image.resize(x, (b, 16, 12, 3), method) for method in ("bilinear", "nearest", "cubic", "lanczos3")]
        return [*made, jax.image.resize(x, (b, 5, 5, 3), "bilinear", antialias=True)]

    check(resize, (drawn(2, 8, 8, 3),), (drawn(5, 8, 8, 3),), axes=[{0: "batch"}], atol=1e-5)


def test_sizes_in_arithmetic() -> None:
    def sizes(x: Any) -> Any:
        t = x.shape[1]
        half = x[:, : t // 2]
        return (
            half,
            x[:, t // 2 :],
            jnp.arange(t) / t,
            x.reshape(x.shape[0] * t // 1, 1).sum(),
            jnp.zeros((t, t)) + x[0, :, None],
            x.mean(1) * t,
        )

    model = check(sizes, (drawn(2, 6),), (drawn(3, 9),), (drawn(1, 2),), axes=[{0: "batch", 1: "time"}])
    assert [value.name for value in model.graph.input] == ["x"]


def test_least_sizes() -> None:
    """The first four steps are there from a length of 4 on: the range is stated."""
    source = JaxSource(lambda x: x[:, :4] * jnp.arange(4.0), (drawn(3, 6),), dynamic_shapes=({0: "batch", 1: "time"},))
    _, _, ranges = source._symbolic()
    assert ranges == {"time": (4, None)}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x + jax.random.normal(jax.random.key(0), x.shape), "it draws random numbers|it uses a random key"),
        (lambda x: x + jax.random.normal(jax.random.PRNGKey(0), (6,)), "it draws random numbers|it uses a random key"),
        (lambda x: x if x.sum() > 0 else -x, r"looks at values in Python .*: branch with jax.lax.cond or jnp.where"),
        (lambda x: jnp.asarray(np.sin(x)), "looks at values in Python"),
        (
            lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
            r"it calls Python while it runs \(pure_callback\)",
        ),
        (
            lambda x: io_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
            r"it calls Python while it runs \(io_callback\)",
        ),
        (lambda x: [x * 2, jax.debug.print("{}", x.sum())][0], r"it calls Python while it runs \(debug_print\)"),
        (lambda x: x * float(x.sum()), r"looks at values in Python .*\(ConcretizationTypeError\)"),
        (lambda x: jnp.linalg.svd(x)[1], "the JAX primitive svd has no counterpart in the graph .*test_steps.py"),
        (lambda x: x + np.random.default_rng().standard_normal(6).astype(np.float32), "another program each time JAX traces it"),
        (lambda x: x[: x.shape[0] // 2] + x[x.shape[0] // 2 :], "JAX cannot trace the model with open axes"),
    ],
)
def test_refused(function: Callable[..., Any], words: str) -> None:
    source = JaxSource(function, (drawn(4, 6),), dynamic_shapes=({0: "batch"},))
    with pytest.raises(ExportError, match=words):
        source.strategies(18)[0].build()
