"""Text generation (family ``rnn``): a recurrent network over bytes, and its training.

The cell is nn.LSTM's (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) or nn.GRU's (Cho et
al. 2014, arXiv 1406.1078). A layer reads the one below it and the head the last one; with ``skip``, a layer reads the sum
of all below it and the head the sum of all (as in Graves 2013, arXiv 1308.0850). The prediction is a function of the state
alone, so a state is enough to continue a text.

It is trained by truncated back-propagation with a carried state, cross-entropy, AdamW (Loshchilov and Hutter 2017, arXiv
1711.05101), clipped gradients (Pascanu et al. 2013, arXiv 1211.5063) and a one-cycle learning rate (Smith and Topin 2017,
arXiv 1708.07120). Against overfitting: dropout between the layers (Zaremba et al. 2014, arXiv 1409.2329), or with
``variational`` masks that stay the same over time (Gal and Ghahramani 2016, arXiv 1512.05287), dropped recurrent weights
and, optionally, an output tied to the embedding (Merity et al. 2017, AWD-LSTM, arXiv 1708.02182), and a moving average of
the weights, which is what is validated and deployed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_text_whole
from onnxferry.runtime.kinds import RNN
from onnxferry.train.data.speaker_names import rename_speakers, speaker_names
from onnxferry.train.data.text import TextSplits
from onnxferry.train.families.baselines import letter_counts
from onnxferry.train.loop.averaged import AveragedLearner, matrices_decayed
from onnxferry.train.loop.checkpoint import Checkpoint, config_from
from onnxferry.train.options import check_positive, option

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VOCABULARY = 256


CELLS = ("lstm", "gru")


SHARPEST = 1e30
"""1 / temperature at temperature 0: softmax then divides the weight among the highest logits, and gives the others exactly 0."""


HIGHEST_UNIFORM = 1 - 2**-23
"""Highest uniform number that is used as it is: rounded to float32, u × total then stays below the total, and a byte of
weight 0 is never chosen."""


ENOUGH = 100_000
"""Bytes of training text below which a warning is given."""


START = b"\n"
"""The text before the first byte when no state is given: the start of a line."""


@dataclass(frozen=True)
class RnnConfig:
    """Everything that is needed to rebuild the network and its whole-task graph."""

    cell: str = option("gru", "lstm or gru")
    depth: int = option(2, "layers", min=1, max=16)
    width: int = option(384, "numbers in each layer's state", min=4, max=4096)
    embedding: int = option(64, "numbers in a byte's embedding", min=2, max=1024)
    tied: bool = option(False, "the output's weights are the embedding's")
    skip: bool = option(True, "a layer reads the sum of all layers below it, the output the sum of all layers")
    half: bool = option(True, "round the deployed weights to float16: half the file size, and no loss at export")

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise InputError(f"unknown cell {self.cell!r}; expected {' or '.join(CELLS)}")
        for name in ("depth", "width", "embedding"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def parts(self) -> int:
        """Vectors in a layer's state: the LSTM's h and c, the GRU's h."""
        return 2 if self.cell == "lstm" else 1

    @property
    def slots(self) -> int:
        return self.depth * self.parts


@dataclass(frozen=True)
class RnnOptions:
    """How it is trained."""

    epochs: int = option(16, "passes over the text", min=1)
    batch: int = option(32, "streams that are read side by side, over all devices together", min=1)
    steps: int = option(64, "bytes through which an update is back-propagated", min=1)
    learning_rate: float = option(4e-3, "highest learning rate of the cycle", min=0.0)
    weight_decay: float = option(0.01, "AdamW's weight decay", min=0.0)
    clip: float = option(1.0, "highest norm of the gradient", min=0.0)
    dropout: float = option(0.15, "share of a layer's and the output's inputs that are dropped", min=0.0, max=0.95)
    # With it the bytes' embeddings are dropped too.
    variational: bool = option(True, "dropout masks that stay the same over time, instead of new ones at each byte")
    weight_dropout: float = option(0.1, "share of the recurrent weights that are dropped, one mask per step", min=0.0, max=0.95)
    reset: float = 0.01  # chance that a stream's carried state is cleared before a step, so that cold starts work too
    average: float = option(0.998, "decay of the weights' moving average, per step", min=0.0, max=0.99999)
    rename_speakers: float = option(0.0, "share of a play in which the speakers get other names, new ones each epoch", min=0.0, max=1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.rename_speakers <= 1:
            raise InputError(f"rename_speakers must be 0 … 1, got {self.rename_speakers}")
        for name in ("dropout", "weight_dropout", "reset"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        for name in ("epochs", "batch", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_positive(self, "learning_rate", "clip")


class Rnn(nn.Module):
    """Bytes int64 (time, batch), state float32 (batch, slots, width) → logits (time, batch, 256), the state after them.

    The logits at t are those of the byte after the one at t. ``logits_of`` gives them for a state alone. Slots of a state:
    layer by layer, the LSTM's h before its c.
    """

    def __init__(self, config: RnnConfig, dropout: float = 0.0, weight_dropout: float = 0.0, variational: bool = True) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.weight_dropout = weight_dropout
        self.variational = variational
        recurrent = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.embed = nn.Embedding(VOCABULARY, config.embedding)
        self.layers = nn.ModuleList(recurrent(config.embedding if i == 0 else config.width, config.width) for i in range(config.depth))
        # Tied: the head is the embedding after this projection.
        self.head = nn.Linear(config.width, config.embedding if config.tied else VOCABULARY, bias=False)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))
        self._start()

    def _start(self) -> None:
        """Orthogonal recurrent weights, per gate (Saxe et al. 2013); a forget bias of 1 (Jozefowicz et al. 2015)."""
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                if name.startswith("weight_hh"):
                    for gate in range(0, len(parameter), self.config.width):
                        nn.init.orthogonal_(parameter.data[gate : gate + self.config.width])
                elif name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(parameter)
                else:
                    nn.init.zeros_(parameter)
                    if name == "bias_ih_l0" and self.config.cell == "lstm":
                        parameter.data[self.config.width : 2 * self.config.width] = 1.0  # of the forget gate
        if self.config.tied:
            nn.init.normal_(self.embed.weight, std=0.1)
        else:
            # Not zeros: the layers would get no gradient until the head has changed.
            nn.init.normal_(self.head.weight, std=self.config.width**-0.5)

    def start(self, batch: int) -> Tensor:
        """The initial state: zeros (batch, slots, width)."""
        return self.head.weight.new_zeros(batch, self.config.slots, self.config.width)

    def logits_of(self, state: Tensor) -> Tensor:
        """State (batch, slots, width) → logits of the next byte (batch, 256)."""
        heard = state[:, :: self.config.parts]
        return self._head(heard.sum(dim=1) if self.config.skip else heard[:, -1])

    def forward(self, bytes_: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        inputs = self.embed(bytes_)
        if self.variational:
            inputs = self._drop(inputs)
        total: Tensor | None = None
        after = []
        for index, layer in enumerate(self.layers):
            outputs, parts = self._layer(layer, inputs, state[:, index * self.config.parts : (index + 1) * self.config.parts])
            after.extend(parts)
            total = outputs if total is None or not self.config.skip else total + outputs
            inputs = self._drop(total)
        return self._head(inputs), torch.stack(after, dim=1)

    def _head(self, x: Tensor) -> Tensor:
        if self.config.tied:
            return F.linear(self.head(x), self.embed.weight, self.bias)
        return F.linear(x, self.head.weight, self.bias)

    def _layer(self, layer: nn.Module, inputs: Tensor, state: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Inputs (time, batch, n), state (batch, parts, width) → outputs (time, batch, width), the parts of the state after them."""
        weights = dict(layer.named_parameters())
        flat = [F.dropout(w, self.weight_dropout, self.training) if name.startswith("weight_hh") else w for name, w in weights.items()]
        parts = [part.contiguous()[None] for part in state.unbind(dim=1)]
        # The functions under nn.LSTM and nn.GRU, which take weights as arguments; then: has biases, layers, dropout, training,
        # bidirectional, batch first.
        if self.config.cell == "lstm":
            if inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not has_bfloat16_lstm():
                with torch.autocast("cpu", enabled=False):
                    exact = inputs.float(), [part.float() for part in parts]
                    outputs, h, c = torch.lstm(*exact, flat, True, 1, 0.0, self.training, False, False)
            else:
                outputs, h, c = torch.lstm(inputs, parts, flat, True, 1, 0.0, self.training, False, False)
            return outputs, [h[0], c[0]]
        outputs, h = torch.gru(inputs, parts[0], flat, True, 1, 0.0, self.training, False, False)
        return outputs, [h[0]]

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout of x (time, batch, n): the same mask at all times if ``variational``, else a new one at each."""
        if not self.training or self.dropout == 0:
            return x
        if not self.variational:
            return F.dropout(x, self.dropout)
        keep = 1 - self.dropout
        return x * torch.empty_like(x[:1]).bernoulli_(keep).div_(keep)


@functools.cache
def has_bfloat16_lstm() -> bool:
    """True if an LSTM can be computed in bfloat16 on this CPU, as autocast does: oneDNN raises without AVX-512.

    A GRU stays float32 there.
    """
    state = [torch.zeros(1, 1, 1)] * 2
    weights = [torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4), torch.zeros(4)]
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            torch.lstm(torch.zeros(1, 1, 1), state, weights, True, 1, 0.0, False, False, False)
    except RuntimeError:
        return False
    return True


def model_from_config(config: Mapping[str, Any]) -> Rnn:
    return Rnn(config_from(RnnConfig, config))


@torch.inference_mode()
def state_after(network: Rnn, text: bytes) -> Tensor:
    """The state (1, slots, width) of a network that has read ``text`` from the initial state."""
    device = network.head.weight.device
    bytes_ = torch.tensor(list(text), dtype=torch.int64, device=device)[:, None]
    after: Tensor = network(bytes_, network.start(1))[1]
    return after.clone()


@torch.inference_mode()
def nats_per_byte(network: Rnn, text: np.ndarray, chunk: int = 4096) -> float:
    """Mean negative log-likelihood of ``text`` uint8 (n,), read once from its start with the state carried: nats per byte."""
    device = network.head.weight.device
    state = state_after(network, START)
    logits = network.logits_of(state)[None]  # of the first byte
    total = 0.0
    for start in range(0, len(text), chunk):
        piece = torch.from_numpy(text[start : start + chunk].astype(np.int64)).to(device)[:, None]
        after, state = network(piece, state)
        predicted = torch.cat([logits, after[:-1]])
        total += float(F.cross_entropy(predicted[:, 0], piece[:, 0], reduction="sum"))
        logits = after[-1:]
    return total / len(text)


class RnnLearner(AveragedLearner):
    """``state`` is the carried state of the streams that this process reads: float32 (batch, slots, width)."""

    family = RNN.name
    criterion = "loss"

    def __init__(self, data: TextSplits, config: RnnConfig, options: RnnOptions, *, seed: int = 0) -> None:
        super().__init__(epochs=options.epochs, seed=seed)
        self.data = data
        self.config = config
        # A short text is split into fewer and shorter streams.
        steps = min(options.steps, max(1, (len(data.train) - 1) // 4))
        self.options = dataclasses.replace(options, steps=steps, batch=min(options.batch, (len(data.train) - 1) // steps))
        self.names = speaker_names(data.train.tobytes()) if options.rename_speakers else []
        if options.rename_speakers and len(self.names) < 2:
            raise InputError("--rename-speakers is for plays: no lines such as 'ROMEO:' stand in this text; leave it out")
        self.state = torch.empty(0)

    def setup(self, fabric: Fabric, total_steps: int) -> None:
        options = self.options
        if options.batch % fabric.world_size:
            raise InputError(f"--batch {options.batch} cannot be shared by {fabric.world_size} devices; give a multiple of it")
        network = Rnn(self.config, options.dropout, options.weight_dropout, options.variational)
        optimizer = torch.optim.AdamW(matrices_decayed(network, options.weight_decay), lr=options.learning_rate, betas=(0.9, 0.98))
        self.prepare(fabric, network, optimizer, average=options.average, total_steps=total_steps, warm_up=0.05)
        shape = (options.batch // fabric.world_size, self.config.slots, self.config.width)
        self.state = torch.zeros(shape, device=fabric.device)

    def steps_per_epoch(self) -> int:
        return max(1, (len(self.data.train) - 1) // (self.options.batch * self.options.steps))

    def batches(self, epoch: int, start: int) -> Iterator[Tensor]:
        """int64 (steps + 1, streams): the input, and one byte more. Every epoch splits the text into streams at other places."""
        generator = np.random.default_rng((self.seed, epoch))
        text = np.roll(self.data.train, -int(generator.integers(len(self.data.train))))
        text = rename_speakers(text, self.names, self.options.rename_speakers, generator)
        steps, count = self.options.steps, self.steps_per_epoch()
        share = self.options.batch // self.fabric.world_size
        first = self.fabric.global_rank * share
        begin = np.arange(first, first + share) * (count * steps)
        if start == 0:
            self.state = torch.zeros_like(self.state)
        for step in range(start, count):
            index = (begin + step * steps)[None] + np.arange(steps + 1)[:, None]
            # New names can make the text a little shorter than before: then it wraps around.
            yield torch.from_numpy(text[index % len(text)].astype(np.int64)).to(self.fabric.device)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        forget = torch.rand(self.state.shape[0], 1, 1, device=self.state.device) < self.options.reset
        logits, state = self.network(batch[:-1], self.state.masked_fill(forget, 0.0))
        self.state = state.detach()
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.options.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return {"loss": loss.detach()}

    def _deployed(self) -> Rnn:
        """The averaged network as it is deployed."""
        network = Rnn(self.config).to(self.fabric.device)
        weights = self.average.module.state_dict()
        network.load_state_dict({name: w.half().float() if self.config.half else w for name, w in weights.items()})
        return network.eval()

    def _score(self, text: np.ndarray) -> dict[str, float]:
        loss = nats_per_byte(self._deployed(), text)
        return {"loss": loss, "bits_per_byte": loss / math.log(2), "n": len(text)}

    def validate(self) -> dict[str, float]:
        return self._score(self.data.validation) if len(self.data.validation) else {}

    def test(self) -> dict[str, float]:
        return self._score(self.data.test)

    def extra_state(self) -> dict[str, Any]:
        if self.fabric.world_size == 1:
            return {"state": self.state.detach().cpu()}
        every: Any = self.fabric.all_gather(self.state)  # (processes, share, slots, width)
        return {"state": every.detach().cpu()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        saved = state["state"]
        if self.fabric.world_size > 1:
            saved = saved[self.fabric.global_rank]
        if saved.shape != self.state.shape:
            raise ValueError(f"the carried state has shape {tuple(saved.shape)}, expected {tuple(self.state.shape)}")
        self.state = saved.to(self.fabric.device)

    def described(self) -> dict[str, Any]:
        data = {"name": self.data.name, "sha256": self.data.sha256, "source": self.data.source}
        return {"config": dataclasses.asdict(self.config), "data": data}

    def parts(self) -> dict[str, int]:
        return {"train": len(self.data.train), "validation": len(self.data.validation), "test": len(self.data.test)}

    def summary(self, what: str = "bytes") -> str:
        return super().summary(what)

    def baseline(self) -> dict[str, float]:
        return letter_counts(self.data.train, self.data.test)

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        found, bits, counted = [], metrics["test"]["bits_per_byte"], metrics["baseline"]["bigram_bits"]
        if len(self.data.train) < ENOUGH:
            found.append(
                f"{len(self.data.train):,} bytes are too few to learn a language from: the network repeats them, or writes nonsense; "
                f"give a few hundred kB, {ENOUGH // 1000} kB at least"
            )
        if bits >= counted:
            found.append(
                f"{bits:.2f} bits a byte on the test text, and counting pairs of letters gives {counted:.2f}: no words were learned; "
                f"train longer (--epochs {2 * self.epochs}), or on more text"
            )
        return found

    def checkpoint(self) -> Checkpoint:
        weights = {name: w.detach().to("cpu", copy=True).contiguous() for name, w in self._deployed().state_dict().items()}
        examples = {"text": torch.from_numpy(self.data.test[:4096].copy())}
        return Checkpoint(family=self.family, weights=weights, examples=examples, **self.described())

    def show(self, epoch: int, folder: Path) -> str:
        """200 bytes sampled at temperature 0.8 from the start of a line, also written to sample.txt."""
        uniforms = np.random.default_rng(self.seed).random((1, 200), dtype=np.float32)
        network = self._deployed()
        written, _ = sample(network, state_after(network, START), torch.from_numpy(uniforms).to(self.fabric.device), temperature=0.8)
        text = bytes(written[0].tolist()).decode("utf-8", errors="replace")
        write_text_whole(folder / "sample.txt", text)
        return text


@torch.inference_mode()
def sample(
    network: Rnn, state: Tensor, uniforms: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sample one byte for each of ``uniforms`` float32 (batch, steps) in 0 … 1, from ``state`` (batch, slots, width).

    Returns the bytes uint8 (batch, steps) and the state after them. The algorithm is the exported graph's (see ``choose``),
    so that the same numbers give the same bytes there.
    """
    written = [uniforms.new_zeros((len(uniforms), 0), dtype=torch.uint8)]
    for step in range(uniforms.shape[1]):
        byte = choose(network.logits_of(state), uniforms[:, step], temperature, top_k, top_p)
        _, state = network(byte[None], state)
        written.append(byte.to(torch.uint8)[:, None])
    return torch.cat(written, dim=1), state.clone()


def running_weights(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Running sum, in the order of the bytes' values, of the weight that each byte has: logits (batch, 256) → (batch, 256).

    A byte weighs softmax(logits / temperature). ``top_k`` > 0 keeps the k heaviest bytes (and those that weigh as much as the last
    of them), then ``top_p`` < 1 the heaviest before which less than that share of what is left has gone by (Holtzman et al. 2019,
    arXiv 1904.09751). At temperature 0 all weight is shared by the highest logits, which is the limit.
    """
    sharpness = SHARPEST if temperature <= 0 else min(float(torch.tensor(temperature, dtype=torch.float32).reciprocal()), SHARPEST)
    weights = torch.softmax(logits * sharpness, dim=1)
    if top_k > 0 or top_p < 1:
        ordered = weights.sort(dim=1, descending=True).values
        last = min(top_k, VOCABULARY) - 1 if top_k > 0 else VOCABULARY - 1
        by_k = ordered[:, last : last + 1]
        ordered = ordered.where(ordered >= by_k, 0.0)
        before = F.pad(ordered.cumsum(dim=1)[:, :-1], (1, 0))
        kept = before < (top_p if top_p < 1 else 2.0) * ordered.sum(dim=1, keepdim=True)
        by_p = ordered.where(kept, math.inf).amin(dim=1, keepdim=True)
        weights = weights.where(weights >= torch.maximum(by_k, by_p), 0.0)
    return weights.cumsum(dim=1)


def choose(logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """The byte, int64 (batch,), that ``uniform`` (batch,) in [0, 1) picks from ``logits`` (batch, 256).

    It is the first at which the running sum of weights exceeds uniform x total. Temperature 0 takes the likeliest byte, the
    lowest of equals, whatever the uniform number is.
    """
    running = running_weights(logits, temperature, top_k, top_p)
    draw = torch.zeros_like(uniform) if temperature <= 0 else uniform.clamp(0, HIGHEST_UNIFORM)
    return (running > draw[:, None] * running[:, -1:]).to(torch.uint8).argmax(dim=1)
