"""Small models of many kinds, each carried across and proved at sizes that were never traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.export import export_model
from onnxferry.runtime.engine.engine import Engine


@dataclass
class Entry:
    """A model, its example inputs, and which axes are dynamic."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    axes: Any = None
    outputs: tuple[str, ...] = ("output",)
    inputs_named: tuple[str, ...] = ("x",)
    strategy: str = "torch.export"
    fixes: tuple[str, ...] = ()  # words that must stand among the fixes
    options: dict[str, Any] = field(default_factory=dict)


ZOO: dict[str, Entry] = {}


def entry(
    name: str, inputs: Callable[[], Any], axes: Any = None, **options: Any
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def add(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ZOO[name] = Entry(make, inputs, axes, **options)
        return make

    return add


IMAGE_AXES = {"x": {0: "batch", 2: "height", 3: "width"}}


@entry("residual-convolution", lambda: torch.rand(2, 3, 8, 9), IMAGE_AXES)
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.adaptive_avg_pool2d(torch.relu(x + self.block(x)), 1).flatten(1))


# nn.Sequential calls its input "input".
@entry("transposed-convolution", lambda: torch.randn(2, 4, 3, 5), {"input": IMAGE_AXES["x"]}, inputs_named=("input",))
def transposed() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(6, 3, (4, 3), stride=(2, 3), padding=1, output_padding=(1, 2), groups=3, dilation=1),
        nn.Tanh(),
    )


@entry("depthwise-dilated-groupnorm", lambda: torch.randn(2, 4, 9, 8), IMAGE_AXES)
class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4, padding_mode="zeros")
        self.group = nn.GroupNorm(2, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.down = nn.Conv2d(8, 4, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.instance(F.mish(self.group(self.depthwise(x))))))


@entry("resize-antialias", lambda: torch.rand(2, 3, 20, 30), IMAGE_AXES)
class ResizeAntialias(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(7, 9), mode="bilinear", antialias=True)


@entry("resize-by-factor", lambda: torch.rand(2, 3, 5, 6), IMAGE_AXES, outputs=("output_0", "output_1", "output_2"))
class ResizeByFactor(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            F.interpolate(x, scale_factor=2, mode="nearest"),
            F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False),
            F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=True),
        )


@entry("pools-and-pads", lambda: torch.randn(2, 4, 9, 10), IMAGE_AXES)
class PoolsAndPads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 2, 2, 1), mode="reflect")
        x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
        x = F.pad(x, (1, 1, 0, 0), value=-1.0)
        x = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
        return F.pixel_shuffle(x, 2)


@entry(
    "conv1d-conv3d",
    lambda: (torch.randn(2, 3, 12), torch.randn(2, 1, 4, 5, 6)),
    {"x": {0: "batch", 2: "time"}, "y": {0: "batch", 2: "depth"}},
    inputs_named=("x", "y"),
)
class Conv1d3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(3, 4, 5, padding="same")
        self.three = nn.Conv3d(1, 4, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x).mean(-1) * self.three(y).amax((2, 3, 4))


@entry(
    "lstm-given-states",
    lambda: (torch.randint(0, 11, (2, 5)), (torch.zeros(2, 2, 8), torch.randn(2, 2, 8))),
    {"ids": {0: "batch", 1: "time"}, "state": ({1: "batch"}, {1: "batch"})},
    inputs_named=("ids", "state_0", "state_1"),
    outputs=("logits", "state_0_out", "state_1_out"),
)
class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor]) -> dict[str, Any]:
        out, state = self.lstm(self.embed(ids), state)
        return {"logits": self.head(out), "state": state}


@entry(
    "gru-bidirectional-given-state",
    lambda: (torch.randn(5, 2, 4), torch.randn(2, 2, 6)),
    {"x": {0: "time", 1: "batch"}, "h": {1: "batch"}},
    inputs_named=("x", "h"),
    outputs=("output_0", "output_1"),
)
class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, bidirectional=True)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.gru(x, h)


@entry("rnn-relu-two-layers", lambda: torch.randn(3, 7, 4), {"x": {0: "batch", 1: "time"}}, outputs=("output_0", "output_1"))
class Rnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(4, 5, 2, nonlinearity="relu", batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rnn(x)


@entry("hand-made-bidirectional", lambda: torch.randn(2, 7, 4), {"x": {0: "batch", 1: "time"}})
class HandMadeBidirectional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.forth = nn.LSTM(4, 5, batch_first=True)
        self.back = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        a = self.forth(x)[0]
        b = self.back(x.flip(1))[0].flip(1)
        both = torch.cat([a, b], -1)
        return both + both.mean(1, keepdim=True).expand_as(both)


@entry("lstm-cell-steps", lambda: torch.randn(2, 4, 3), {"x": {0: "batch"}})
class CellSteps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(3, 4)
        self.gru = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, c = x.new_zeros(x.shape[0], 4), x.new_zeros(x.shape[0], 4)
        g = x.new_zeros(x.shape[0], 4)
        for step in range(x.shape[1]):
            h, c = self.lstm(x[:, step], (h, c))
            g = self.gru(h, g)
        return g


@entry(
    "attention-with-masks",
    lambda: {
        "x": torch.randn(2, 5, 8),
        "padding": torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
        "causal": torch.triu(torch.ones(5, 5), 1) > 0,
    },
    {"x": {0: "batch"}, "padding": {0: "batch"}},
    inputs_named=("x", "padding", "causal"),
)
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor, padding: Tensor, causal: Tensor) -> Tensor:
        return self.norm(x + self.attention(x, x, x, key_padding_mask=padding, attn_mask=causal, need_weights=False)[0])


@entry(
    "transformer-encoder",
    lambda: {"ids": torch.randint(0, 20, (2, 6)), "mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])},
    {"ids": {0: "batch", 1: "time"}, "mask": {0: "batch", 1: "time"}},
    inputs_named=("ids", "mask"),
)
class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.feed = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(approximate="tanh"), nn.Linear(16, 8))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids)
        batch, time, width = x.shape
        q, k, v = (part(x).view(batch, time, 2, width // 2).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :] > 0).transpose(1, 2).reshape(batch, time, width)
        x = x + self.feed(x)
        weight = mask[..., None].to(x.dtype)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


@entry("causal-attention", lambda: torch.randn(2, 5, 8), {"x": {0: "batch", 1: "time"}})
class Causal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        return F.scaled_dot_product_attention(x, x.flip(-1), x * 2, is_causal=True).squeeze(1)


@entry(
    "attention-rows-masked-whole",
    lambda: (torch.randn(2, 4, 6), torch.tensor([[True, True, True, False], [False] * 4])),
    {"x": {0: "batch", 1: "time"}, "keep": {0: "batch", 1: "time"}},
    inputs_named=("x", "keep"),
    fixes=("masked whole",),
)
class MaskedRows(nn.Module):
    """torch gives 0 for a row that is masked whole; its converter's graph gave the average of all values."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        return F.scaled_dot_product_attention(x, x.flip(-1), x * 2, attn_mask=keep[:, None, None, :]).squeeze(1)


@entry(
    "transformer-encoder-with-padding",
    lambda: (torch.randn(2, 4, 8), torch.tensor([[True, True, True, False], [False] * 4])),
    {"x": {0: "batch", 1: "time"}, "keep": {0: "batch", 1: "time"}},
    inputs_named=("x", "keep"),
    fixes=("masked whole",),
)
class PaddedEncoder(nn.Module):
    """The layers add their mask, and the converter's graph gave not-a-number for a sentence that is padding alone."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        weight = keep[..., None].to(x.dtype)
        return (self.layers(x, src_key_padding_mask=~keep) * weight).sum(1)


@entry("cond", lambda: torch.randn(3, 4), {"x": {0: "batch"}})
class Cond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: self.linear(t), lambda t: t * 2 - 1, (x,))


@entry("normalisations", lambda: torch.randn(2, 6, 5) * 3, {"x": {0: "batch", 2: "time"}})
class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.batch = nn.BatchNorm1d(6)
        self.layer = nn.LayerNorm(6, elementwise_affine=True)
        self.rms = nn.RMSNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch(x)
        x = F.normalize(self.rms(self.layer(x.transpose(1, 2))), dim=-1)
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True)


@entry("top-k", lambda: torch.randn(3, 9), {"x": {0: "batch"}}, outputs=("values", "indices", "order", "best"))
class TopK(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        values, indices = x.topk(4)
        return {"values": values, "indices": indices, "order": x.argsort(dim=-1, descending=True), "best": x.argmax(-1, keepdim=True)}


@entry(
    "several-inputs-nested-outputs",
    lambda: {"a": torch.randn(2, 3), "b": [torch.randn(2, 3), torch.randn(3)], "scale": 2.5, "extra": None},
    {"a": {0: "batch"}, "b": [{0: "batch"}, None]},
    inputs_named=("a", "b_0", "b_1"),
    outputs=("sum", "parts_0", "parts_1_deep", "a_out"),
)
class Nested(nn.Module):
    def forward(self, a: Tensor, b: list[Tensor], *, scale: float = 1.0, extra: Tensor | None = None) -> dict[str, Any]:
        return {"sum": a + b[0] * scale + b[1], "parts": (a * b[1], {"deep": b[0].mean(1), "none": None}), "a": a}


@entry("half", lambda: torch.randn(2, 6).half(), {"x": {0: "batch"}})
class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).softmax(-1)


@entry("double", lambda: torch.randn(2, 6, dtype=torch.float64), {"x": {0: "batch"}})
class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).sigmoid() * 0.1 + x.new_tensor(0.3)


@entry(
    "integers-and-flags",
    lambda: (torch.randint(-9, 9, (2, 5), dtype=torch.int32), torch.tensor([[True, False, True, True, False]] * 2)),
    {"x": {0: "batch", 1: "n"}, "keep": {0: "batch", 1: "n"}},
    inputs_named=("x", "keep"),
    outputs=("kept", "any", "count", "floor", "bytes"),
)
class Integers(nn.Module):
    def forward(self, x: Tensor, keep: Tensor) -> dict[str, Tensor]:
        kept = torch.where(keep, x, torch.zeros_like(x))
        return {
            "kept": kept.cumsum(1),
            "any": (kept > 3).any(1),
            "count": keep.sum(1),
            "floor": torch.div(x, 4, rounding_mode="floor"),
            "bytes": (x.abs() * 20).to(torch.uint8),
        }


@entry(
    "gather-scatter-einsum",
    lambda: (torch.randn(2, 4, 3), torch.randint(0, 4, (2, 5))),
    {"x": {0: "batch"}, "index": {0: "batch", 1: "picks"}},
    inputs_named=("x", "index"),
)
class GatherScatter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, 2))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        picked = x.gather(1, index[..., None].expand(-1, -1, 3))
        y = torch.einsum("bpi,ihk->bphk", picked, self.weight).flatten(2)
        base = y.new_zeros(x.shape[0], 4, 12)
        return base.scatter_add(1, index[..., None].expand(-1, -1, 12), y)


@entry(
    "sampler-with-noise-as-input",
    lambda: (torch.randn(3, 5), torch.randn(3, 2)),
    {"x": {0: "batch"}, "noise": {0: "batch"}},
    inputs_named=("x", "noise"),
    outputs=("image", "latent"),
)
class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 4), nn.Linear(2, 5)

    def forward(self, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.encode(x).chunk(2, -1)
        latent = mean + noise * (log_variance / 2).exp()
        return {"image": self.decode(latent).sigmoid(), "latent": latent}


@entry(
    "masked-logits",
    lambda: (torch.randn(2, 6), torch.tensor([[1, 1, 0, 1, 0, 1]] * 2)),
    {"x": {0: "batch"}, "allowed": {0: "batch"}},
    inputs_named=("x", "allowed"),
)
class Masked(nn.Module):
    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        return x.masked_fill(allowed == 0, float("-inf")).log_softmax(-1)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_carried_across(name: str, tmp_path: Path) -> None:
    item = ZOO[name]
    torch.manual_seed(len(name))
    model = item.make().eval()
    inputs = item.inputs()
    report = export_model(model, inputs, tmp_path / "m.onnx", dynamic_shapes=item.axes, **item.options)
    assert report.passed
    assert report.strategy == item.strategy
    for words in item.fixes:
        assert any(words in fix for fix in report.fixes), report.fixes
    if item.axes is not None:
        assert any(not case.traced and case.compared for case in report.cases)
    assert tuple(report.outputs) == item.outputs
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        assert tuple(spec.name for spec in engine.inputs) == item.inputs_named
        assert tuple(spec.name for spec in engine.outputs) == item.outputs
        assert engine.contract is not None
        golden = engine.contract.goldens[0]
        assert engine.run(golden.inputs).keys() == golden.outputs.keys()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
