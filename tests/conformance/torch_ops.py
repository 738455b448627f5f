"""PyTorch's own operator database, exported operator by operator and compared with the file at other values.

    python tests/conformance/torch_ops.py --out docs/conformance/torch.md     # all of them: about an hour on two cores
    python tests/conformance/torch_ops.py --share 0.1 --seed 7                # a seeded tenth
    python tests/conformance/torch_ops.py --record rows.jsonl                 # keeps every row at once; begun again, it goes on
    python tests/conformance/torch_ops.py --only div,remainder

Every operator is exported by ``export_model`` with up to ``SAMPLES`` of the database's samples (plain tensors of float32, and of
int64 where the operator takes them). What was exported is then run by bare ONNX Runtime on values that neither the sample nor
the export's own verification used. A row is one of:

- right: the file gives what PyTorch gives, NaN and infinity in the inputs included;
- noted: right for finite inputs; for NaN or infinity in the inputs the file answers otherwise, or of several equal values it gives
  the place of another one, which PyTorch leaves open, or the last bit of a double differs;
- refused: ``export_model`` wrote no file, and its first line says why;
- wrong: the file gives another answer where the inputs and PyTorch's answer are finite;
- foreign: an exception that is none of onnxferry's, or the process ended;
- outside: not a function of tensors to tensors that ONNX can hold (random numbers, uninitialised memory, complex or sparse
  results, sizes that depend on PyTorch's memory layout).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

SAMPLES = 3
MAX_ELEMENTS = 4096
DTYPES = {"float32": torch.float32, "int64": torch.int64}
# As the export's own verification has them for float32; whole numbers and flags must be equal.
RTOL, ATOL_SHARE = 1e-4, 1e-5
# An answer of float32 is no exacter than this many times PyTorch's own distance from float64.
FLOAT64_FACTOR = 8.0
SUPPORTED = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
# Their answers are memory that nobody wrote, random numbers, or facts of PyTorch's memory layout.
OUTSIDE = frozenset(
    {
        "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided", "rand_like", "randn", "randn_like",
        "randint", "randint_like", "normal", "bernoulli", "multinomial", "uniform", "exponential", "geometric", "log_normal", "cauchy",
        "nn.functional.dropout", "nn.functional.dropout2d", "nn.functional.dropout3d", "nn.functional.alpha_dropout",
        "nn.functional.feature_alpha_dropout", "nn.functional.rrelu", "pca_lowrank", "svd_lowrank", "resize_", "resize_as_",
        "as_strided", "as_strided_copy", "as_strided_scatter", "as_strided.partial_views", "equal", "allclose", "is_complex", "item",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One operator at one dtype."""

    operator: str
    dtype: str
    status: str
    detail: str = ""
    samples: int = 0
    refused: int = 0


class Call(torch.nn.Module):
    """One or more calls of an operator, behind a flat list of tensors."""

    def __init__(self, function: Callable[..., Any], samples: Sequence[Any]) -> None:
        super().__init__()
        self._function = function
        self._plans = []
        self.tensors: list[torch.Tensor] = []
        for sample in samples:
            leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), dict(sample.kwargs)))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
            self.tensors += [leaves[i].detach().clone() for i in places]
            self._plans.append(([None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], places, spec))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        left = iter(tensors)
        answers = []
        for leaves, places, spec in self._plans:
            filled = list(leaves)
            for place in places:
                # A clone: some operators write into their first argument.
                filled[place] = next(left).clone()
            args, kwargs = pytree.tree_unflatten(filled, spec)
            answers += [leaf for leaf in pytree.tree_leaves(self._function(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
        return tuple(answers)


def operators(share: float = 1.0, seed: int = 0, only: Sequence[str] = ()) -> list[tuple[int, str]]:
    """(place in the database, dtype) of the rows to run, in a seeded order."""
    from torch.testing._internal.common_methods_invocations import op_db

    found = [(i, name) for i, op in enumerate(op_db) for name, dtype in DTYPES.items() if dtype in op.dtypes]
    if only:
        return [(i, name) for i, name in found if full_name(op_db[i]) in only or op_db[i].name in only]
    random.Random(seed).shuffle(found)
    return found[: max(1, math.ceil(share * len(found)))]


def _left(places: Sequence[tuple[int, str]], rows: Sequence[Row]) -> list[tuple[int, str]]:
    from torch.testing._internal.common_methods_invocations import op_db

    done = {(row.operator, row.dtype) for row in rows}
    return [(place, dtype) for place, dtype in places if (full_name(op_db[place]), dtype) not in done]


# Their second output says where the first is: of equal values, any place is right.
PLACES = frozenset({"kthvalue", "median", "nanmedian", "mode", "topk", "sort", "msort"})


def full_name(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def samples_of(op: Any, dtype: torch.dtype) -> list[Any]:
    """Up to ``SAMPLES`` of the database's samples that are plain tensors and run, spread over its list."""
    torch.manual_seed(0)
    fit = []
    for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
        leaves = [leaf for leaf in pytree.tree_leaves((sample.input, sample.args, sample.kwargs)) if isinstance(leaf, torch.Tensor)]
        plain = all(type(t) is torch.Tensor and t.layout is torch.strided and t.dtype in SUPPORTED for t in leaves)
        if leaves and plain and sum(t.numel() for t in leaves) <= MAX_ELEMENTS:
            fit.append(sample)
        if len(fit) == 40:
            break
    step = max(1, len(fit) / SAMPLES)
    return [fit[int(i * step)] for i in range(min(SAMPLES, len(fit)))]


def probes(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[str, bool, list[torch.Tensor]]]:
    """(name, whether all is finite, other values for the tensors). Flags are drawn; narrow whole numbers stay what they index."""
    draws: list[tuple[str, bool, Callable[[torch.Tensor, np.random.Generator], np.ndarray]]] = [
        ("the sample's own values, shuffled", True, _shuffled),
        ("of the size of 1", True, lambda t, rng: rng.standard_normal(t.shape)),
        ("of the size of 1e-7", True, lambda t, rng: 1e-7 * rng.standard_normal(t.shape)),
        ("of the size of 100", True, lambda t, rng: rng.uniform(-200, 200, t.shape)),
        ("of the size of 1e4", True, lambda t, rng: rng.uniform(-1e4, 1e4, t.shape)),
        ("halves, tenths, ties, both zeros", True, lambda t, rng: rng.choice(_TIES, t.shape)),
        ("positive", True, lambda t, rng: rng.uniform(0.01, 3, t.shape)),
        ("NaN and infinity among them", False, lambda t, rng: rng.choice(_NOT_FINITE, t.shape)),
    ]
    for number, (name, finite, draw) in enumerate(draws):
        rng = np.random.default_rng((3, number))
        values = []
        for tensor in tensors:
            if tensor.is_floating_point():
                values.append(torch.from_numpy(np.asarray(draw(tensor, rng))).to(tensor.dtype))
            elif tensor.dtype is torch.bool:
                values.append(torch.from_numpy(np.asarray(rng.random(tensor.shape) < 0.5)))
            else:
                values.append(torch.from_numpy(np.asarray(_shuffled(tensor, rng))).to(tensor.dtype))
        yield name, finite, values
    if any(t.dtype in (torch.int64, torch.int32) for t in tensors):
        for number, (name, pool) in enumerate(_WHOLE.items()):
            rng = np.random.default_rng((4, number))
            yield name, True, [_whole(t, pool, rng) for t in tensors]


_TIES = np.array([-0.0, 0.0, 0.5, -0.5, 1.5, 2.5, -1.5, 0.1, 0.2, 0.7, -0.1, 1.0, -1.0, 3.0, 0.3, -2.0])
_NOT_FINITE = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.0, 0.5])
_WHOLE = {
    "small whole numbers of both signs": [-7, -3, -2, -1, 1, 2, 3, 5, 7],
    "whole numbers beyond 2**24": [2**24 + 1, -(2**24) - 3, 60, -7, 2**25 + 5, 3, 2**31 - 1, -(2**31) + 1],
    "whole numbers beyond 2**31": [2**31, 2**31 + 7, 3_000_000_000, 2**32 - 1, 2**40 + 59, -(2**33) - 1, 5, -3, 7],
    "whole numbers beyond 2**53": [2**53 + 1, -(2**53) - 3, 2**62 + 1, 60, -7, 11],
}


def _shuffled(tensor: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    flat = tensor.detach().numpy().ravel().copy()
    rng.shuffle(flat)
    return flat.reshape(tensor.shape)


def _whole(tensor: torch.Tensor, pool: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    if tensor.dtype not in (torch.int64, torch.int32):
        return tensor
    fit = [n for n in pool if torch.iinfo(tensor.dtype).min <= n <= torch.iinfo(tensor.dtype).max]
    return torch.from_numpy(np.asarray(rng.choice(np.array(fit, np.int64), tensor.shape))).to(tensor.dtype)


def answer(module: Call, tensors: Sequence[torch.Tensor]) -> list[np.ndarray] | None:
    """PyTorch's answers, None where it fails on these values."""
    try:
        with torch.no_grad():
            return [t.detach().resolve_conj().resolve_neg().numpy() for t in module(*[t.clone() for t in tensors])]
    except Exception:  # noqa: BLE001 - what PyTorch itself cannot compute is compared with nothing
        return None


def classify(op: Any, name: str) -> Row:
    """Export one operator and compare."""
    row = Row(full_name(op), name, "outside")
    if op.name in OUTSIDE:
        return row
    samples = [s for s in samples_of(op, DTYPES[name]) if _inside(Call(op.op, [s]))]
    if not samples:
        return row
    # An answer of NaN alone, or of nothing, verifies nothing: such samples are left out where there are others.
    samples = [s for s in samples if _says_something(Call(op.op, [s]))] or samples
    carried: list[tuple[Call, Path]] = []
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        groups = [samples, *([s] for s in samples)] if len(samples) > 1 else [samples]
        for number, group in enumerate(groups):
            module = Call(op.op, group)
            target = Path(folder) / f"{number}.onnx"
            reason = _export(module, target)
            if reason is None:
                carried.append((module, target))
            elif len(group) == 1:
                refused.append(reason)
            if number == 0 and reason is None:
                break
        verdicts = [_compared(module, target, op.name) for module, target in carried]
    wrong = next((detail for status, detail in verdicts if status == "wrong"), None)
    noted = next((detail for status, detail in verdicts if status == "noted"), None)
    if wrong is not None:
        status, detail = "wrong", wrong
    elif refused:
        foreign = [r for r in refused if r.startswith("foreign")]
        status, detail = ("foreign", foreign[0]) if foreign else ("refused", refused[0])
    elif noted is not None:
        status, detail = "noted", noted
    else:
        status, detail = "right", ""
    return Row(full_name(op), name, status, detail, len(samples), len(refused))


def _inside(module: Call) -> bool:
    """Whether PyTorch gives tensors that ONNX has, the same ones every time."""
    first, again = answer(module, module.tensors), answer(module, module.tensors)
    if not first or again is None:
        return False
    known = {torch.zeros((), dtype=dtype).numpy().dtype for dtype in SUPPORTED}
    return all(
        a.dtype in known and a.size <= 1 << 16 and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(first, again, strict=True)
    )


def _says_something(module: Call) -> bool:
    """Whether every answer has an element that is a number."""
    found = answer(module, module.tensors) or []
    return all(a.size and not (a.dtype.kind == "f" and np.isnan(a).all()) for a in found)


def _export(module: Call, target: Path) -> str | None:
    """None where the file was written, else the first line of the refusal."""
    from onnxferry.export import export_model
    from onnxferry.runtime.errors import OnnxFerryError

    try:
        export_model(module, tuple(module.tensors), target, golden=False)
    except OnnxFerryError as error:
        return str(error).splitlines()[0][:300]
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"foreign {type(error).__name__}: {str(error)[:200]}"
    return None


def _compared(module: Call, target: Path, operator: str) -> tuple[str, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    noted = ""
    for name, finite, tensors in probes(module.tensors):
        want = answer(module, tensors)
        if want is None or not all(a.shape == b.shape for a, b in zip(want, answer(module, module.tensors) or [], strict=True)):
            continue
        shown = {n: t.numpy() for n, t in zip(names, tensors, strict=True)}
        try:
            got = session.run(None, shown)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's own
            return "wrong", f"{name}: ONNX Runtime fails: {str(error).splitlines()[0][:200]}"
        exact = _in_float64(module, tensors)
        for number, (a, b) in enumerate(zip(want, got, strict=True)):
            true = exact[number] if exact is not None and exact[number].shape == a.shape else None
            where = _differs(a, b, true, _floor(operator, tensors), only_finite=True)
            if where is not None and operator in PLACES and number % 2 and a.dtype.kind == "i" and a.shape == b.shape:
                noted = noted or f"{name}, output {number}: the place of another of several equal values"
            elif where is not None and operator == "linspace" and a.dtype.kind == "i" and _last_bit(a, b):
                noted = noted or f"{name}, output {number}: the last bit of whole numbers that PyTorch computes in double precision"
            elif where is not None and finite:
                return "wrong", f"{name}, output {number}: file {b[where]!s}, right {a[where]!s}"
            if not noted and (where is not None or _differs(a, b, None, _floor(operator, tensors), only_finite=False) is not None):
                noted = f"{name}, output {number}"
    return ("noted", noted) if noted else ("right", "")


def _floor(operator: str, tensors: Sequence[torch.Tensor]) -> float:
    """The measured error of ONNX Runtime's kernel, which is absolute or a share of the largest operand."""
    from onnxferry.export.parity.tolerances import KERNEL_ERRORS, KernelError

    name = operator.removeprefix("nn.functional.").removeprefix("special.")
    # x - tanh(x): what is left of two nearly equal numbers is as exact as they are.
    error = KernelError(of_operand=1.2e-7) if name == "tanhshrink" else KERNEL_ERRORS.get(name)
    if error is None:
        return 0.0
    floats = [t[t.isfinite()].abs() for t in tensors if t.is_floating_point()]
    return error.absolute + error.of_operand * max((float(t.max()) for t in floats if t.numel()), default=1.0)


def _differs(want: np.ndarray, got: np.ndarray, exact: np.ndarray | None, floor: float, *, only_finite: bool) -> tuple[int, ...] | None:
    """The first place where the two are apart, of those where ``want`` is finite or of all."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return ()
    if want.dtype.kind != "f":
        apart = want != got
    else:
        a, b = want.astype(np.float64), got.astype(np.float64)
        finite = np.isfinite(a)
        scale = float(np.abs(a[finite]).max(initial=0.0))
        with np.errstate(invalid="ignore", over="ignore"):
            allowed = floor + ATOL_SHARE * scale + RTOL * np.abs(a)
            if exact is not None:
                allowed = allowed + FLOAT64_FACTOR * np.nan_to_num(np.abs(a - exact), nan=0.0, posinf=0.0)
            apart = np.where(finite, ~(np.abs(a - b) <= allowed), False if only_finite else ~((a == b) | (np.isnan(a) & np.isnan(b))))
    if not apart.any():
        return None
    return tuple(int(i) for i in np.argwhere(apart)[0])


def _in_float64(module: Call, tensors: Sequence[torch.Tensor]) -> list[np.ndarray] | None:
    """The answers in double precision; from whole numbers alone too, where the operator takes floats in their place."""
    exact = answer(module, [t.double() if t.is_floating_point() else t for t in tensors])
    if exact is None or any(t.is_floating_point() for t in tensors):
        return exact
    real = answer(module, [t if t.dtype is torch.bool else t.double() for t in tensors])
    if real is None or len(real) != len(exact):
        return exact
    return [b if a.dtype.kind == "f" and a.shape == b.shape else a for a, b in zip(exact, real, strict=True)]


def _last_bit(want: np.ndarray, got: np.ndarray) -> bool:
    """Whether whole numbers differ by no more than one rounding of a double."""
    size = max(int(np.abs(want).max(initial=0)), int(np.abs(got).max(initial=0)))
    return want.shape == got.shape and all(abs(int(a) - int(b)) <= size >> 52 for a, b in zip(want.flat, got.flat, strict=True))


def prepare() -> None:
    """Undo what the database's import does to the process, be quiet, and leave no probe out however busy the machine is."""
    warnings.simplefilter("ignore")
    import torch.testing._internal.common_methods_invocations

    import onnxferry.export.parity.special.check

    onnxferry.export.parity.special.check.SECONDS = 30.0

    torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
    torch.set_num_threads(1)


def _worker(places: Sequence[tuple[int, str]]) -> None:
    from torch.testing._internal.common_methods_invocations import op_db

    prepare()
    for place, dtype in places:
        print(json.dumps({"begin": [place, dtype, full_name(op_db[place])]}), flush=True)
        try:
            row = classify(op_db[place], dtype)
        except Exception as error:  # noqa: BLE001 - a fault of this script must not end the table
            row = Row(full_name(op_db[place]), dtype, "foreign", f"the comparison failed: {type(error).__name__}: {str(error)[:200]}")
        print(json.dumps({"row": asdict(row)}), flush=True)


def run(places: Sequence[tuple[int, str]]) -> Iterator[Row]:
    """Rows of all places, each from a child process: one that ends is a row too."""
    left = list(places)
    while left:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(left)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            begun = ""
            for line in child.stdout or ():
                if not line.startswith("{"):
                    continue
                told = json.loads(line)
                if "begin" in told:
                    begun = told["begin"][2]
                else:
                    left.pop(0)
                    yield Row(**told["row"])
        if left and begun:
            _, dtype = left.pop(0)
            yield Row(begun, dtype, "foreign", f"the process ended with {child.returncode}")
        elif left:
            raise SystemExit(f"the worker ended with {child.returncode} before its first operator")


ORDER = ("right", "noted", "refused", "wrong", "foreign")


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, faults first."""
    counts = Counter(row.status for row in rows)
    tried = len(rows) - counts["outside"]
    carried = counts["right"] + counts["noted"]
    lines = [
        "# PyTorch's operator database",
        "",
        f"Made by `python tests/conformance/torch_ops.py --out FILE` with torch {torch.__version__}: {len(rows)} rows, an operator at a "
        f"dtype each; {tried} of them ONNX can express, {carried} are carried ({carried / max(tried, 1):.0%}).",
        "",
        "| right | noted for NaN or infinity | refused | wrong | foreign error | outside |",
        "|---|---|---|---|---|---|",
        "| " + " | ".join(str(counts[s]) for s in ("right", "noted", "refused", "wrong", "foreign", "outside")) + " |",
        "",
        "| operator | dtype | | |",
        "|---|---|---|---|",
    ]
    order = ["wrong", "foreign", "refused", "noted", "right", "outside"]
    for row in sorted(rows, key=lambda r: (order.index(r.status), r.operator, r.dtype)):
        detail = row.detail.replace("|", "\\|").replace("\n", " ")
        some = f"{row.refused} of {row.samples} samples: " if row.status == "refused" and row.refused < row.samples else ""
        lines.append(f"| {row.operator} | {row.dtype} | {row.status} | {some}{detail} |")
    return "\n".join(lines) + "\n"


def recorded(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def record(row: Row, path: Path) -> None:
    """Keep the row, in the place of an older one."""
    rows = {(kept.operator, kept.dtype): kept for kept in [*recorded(path), row]}
    path.write_text("".join(json.dumps(asdict(rows[key])) + "\n" for key in sorted(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch's operator database, exported and compared")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", type=Path, help="a .jsonl file; rows that it has are not run again, unless --only names them")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _worker(json.loads(arguments.worker))
        return
    places = operators(arguments.share, arguments.seed, arguments.only.split(",") if arguments.only else ())
    rows = []
    if arguments.record is not None and not arguments.only:
        rows = recorded(arguments.record)
        places = _left(places, rows)
    for row in run(places):
        rows.append(row)
        print(row.status, row.operator, row.dtype, row.detail, file=sys.stderr, flush=True)
        if arguments.out is not None:
            arguments.out.write_text(table(rows))
        if arguments.record is not None:
            record(row, arguments.record)
    if arguments.out is None:
        print(table(rows))


if __name__ == "__main__":
    main()
