"""Translation (family ``seq2seq``): an encoder and a decoder with attention, over bytes, and their training.

The encoder is a bidirectional GRU (Cho et al. 2014, arXiv 1406.1078; Schuster and Paliwal 1997), the decoder a GRU that starts from the
backward encoder's last state and looks at the encoder's outputs through additive attention before each byte (Bahdanau et al. 2015, arXiv
1409.0473): what it writes next follows from its state, the byte before and the context, a mean of the encoder's outputs whose weights
are the attention.

A text is its UTF-8 bytes and a 0 after them, which is also what ends a translation: so a text without bytes is still something to attend
to. Padding is never read: the backward direction starts at a text's own end, and beyond it attention has no weight. Only bytes that the
translations of the training pairs hold are ever written: no time goes into the likelihood of the others.

It is trained on the true bytes before (teacher forcing, Williams and Zipser 1989) with cross-entropy, AdamW, clipped gradients, a one-cycle
learning rate and a moving average of the weights, which is what is validated and deployed; see ``rnn`` for the papers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_text_whole
from onnxferry.runtime.kinds import SEQ2SEQ
from onnxferry.train.data.pairs.tsv import Pair, PairSplits
from onnxferry.train.loop.averaged import AveragedLearner, matrices_decayed
from onnxferry.train.loop.checkpoint import Checkpoint, config_from
from onnxferry.train.loop.schedule import updates_per_epoch
from onnxferry.train.options import check_positive, option

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VOCABULARY = 256


END = 0
"""The byte after a text, and before the first byte of a translation. No text holds it."""


NO_WEIGHT = -1e9
"""Added to an energy: softmax then gives exactly 0."""


LONGEST = 1000
"""Bytes of a translation at most, whatever the training pairs were."""


ROOM = 2
"""Times the longest target of the training pairs: as many bytes a translation may have where its caller says nothing."""


POOL = 50
"""Batches whose texts are sorted by length together, so that a batch holds texts of about the same length."""


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Everything that is needed to rebuild the network and its whole-task graph."""

    embedding: int = option(48, "numbers in a byte's embedding", min=2, max=1024)
    encoder: int = option(128, "numbers in the encoder's state, each direction", min=4, max=4096)
    decoder: int = option(160, "numbers in the decoder's state", min=4, max=4096)
    attention: int = option(96, "numbers that state and text are compared in", min=2, max=4096)
    half: bool = option(True, "round the deployed weights to float16: half the file size, and no loss at export")
    max_bytes: int = 64  # of a translation, where its caller says nothing
    alphabet: tuple[int, ...] = ()  # the bytes that are written, rising from the 0 that ends a translation; (): all

    def __post_init__(self) -> None:
        for name in ("embedding", "encoder", "decoder", "attention"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.max_bytes <= LONGEST:
            raise InputError(f"max_bytes must be 1 … {LONGEST}, got {self.max_bytes}")
        if self.alphabet and (self.alphabet != tuple(sorted(set(self.alphabet))) or self.alphabet[0] != END or self.alphabet[-1] > 255):
            raise InputError(f"alphabet must hold bytes, rising from {END}, got {self.alphabet}")

    @property
    def writable(self) -> tuple[int, ...]:
        """The byte that each logit is of."""
        return self.alphabet or tuple(range(VOCABULARY))


@dataclass(frozen=True)
class Seq2SeqOptions:
    """How it is trained."""

    epochs: int = option(4, "passes over the pairs", min=1)
    batch: int = option(128, "pairs per update, over all devices together", min=1)
    learning_rate: float = option(3e-3, "highest learning rate of the cycle", min=0.0)
    weight_decay: float = option(0.01, "AdamW's weight decay", min=0.0)
    clip: float = option(1.0, "highest norm of the gradient", min=0.0)
    dropout: float = option(0.05, "share of the embeddings and of the output's inputs that are dropped", min=0.0, max=0.95)
    average: float = option(0.998, "decay of the weights' moving average, per step", min=0.0, max=0.99999)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        check_positive(self, "learning_rate", "clip")


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as the decoder sees them; place ``lengths`` of a row is its 0."""

    values: Tensor  # float32 (batch, length + 1, 2 x encoder)
    keys: Tensor  # float32 (batch, length + 1, attention)
    mask: Tensor  # float32 (batch, length + 1): 0, and NO_WEIGHT beyond the text
    state: Tensor  # float32 (batch, decoder): the decoder's first

    def rows(self, index: Tensor) -> Encoded:
        """Those of the rows ``index`` int64 (n,)."""
        return Encoded(self.values[index], self.keys[index], self.mask[index], self.state[index])


class Seq2Seq(nn.Module):
    """Texts uint8 (batch, length), their lengths int64 (batch,), true bytes before int64 (batch, steps) → logits (batch, steps, n).

    ``n``: bytes that are written, ``config.writable``.
    """

    def __init__(self, config: Seq2SeqConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        both = 2 * config.encoder
        self.embed = nn.Embedding(VOCABULARY, config.embedding)
        self.forwards = nn.GRU(config.embedding, config.encoder, batch_first=True)
        self.backwards = nn.GRU(config.embedding, config.encoder, batch_first=True)
        self.bridge = nn.Linear(config.encoder, config.decoder)
        self.key = nn.Linear(both, config.attention)
        self.query = nn.Linear(config.decoder, config.attention, bias=False)
        self.energy = nn.Parameter(torch.empty(config.attention).uniform_(-1, 1) * config.attention**-0.5)
        self.written = nn.Embedding(VOCABULARY, config.embedding)
        self.cell = nn.GRUCell(config.embedding + both, config.decoder)
        self.head = nn.Linear(config.decoder + both + config.embedding, len(config.writable))
        if not self.energy.is_meta:  # else its weights come from a checkpoint, and this would import half of torch
            self._start()

    def _start(self) -> None:
        """Orthogonal recurrent weights, per gate (Saxe et al. 2013)."""
        for layer in (self.forwards, self.backwards, self.cell):
            for name, parameter in layer.named_parameters():
                if name.startswith("weight_hh"):
                    width = parameter.shape[1]
                    for gate in range(0, len(parameter), width):
                        nn.init.orthogonal_(parameter.data[gate : gate + width])
                elif name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(parameter)
                else:
                    nn.init.zeros_(parameter)

    def encode(self, text: Tensor, lengths: Tensor) -> Encoded:
        """Reads texts. Bytes at and beyond a row's length are not read, whatever they are."""
        places = torch.arange(text.shape[1] + 1, device=text.device)[None]
        inside = places < lengths[:, None]
        bytes_ = F.pad(text.long(), (0, 1)).masked_fill(~inside, END)
        within = places <= lengths[:, None]
        inputs = F.dropout(self.embed(bytes_), self.dropout, self.training)
        # From a text's own end to its start; what lies beyond stays where it is, and is read last.
        mirrored = torch.where(within, lengths[:, None] - places, places)
        forwards, _ = self.forwards(inputs)
        backwards, _ = self.backwards(_at(inputs, mirrored))
        backwards = _at(backwards, mirrored)
        values = torch.cat([forwards, backwards], dim=2)
        mask = torch.zeros_like(within, dtype=values.dtype).masked_fill(~within, NO_WEIGHT)
        return Encoded(values, self.key(values), mask, torch.tanh(self.bridge(backwards[:, 0])))

    def step(self, byte: Tensor, state: Tensor, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """The byte before int64 (batch,), state (batch, decoder) → head's inputs (batch, n), state, attention (batch, length + 1)."""
        return self._step(self.written(byte), state, encoded)

    def _step(self, before: Tensor, state: Tensor, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        energies = torch.tanh(encoded.keys + self.query(state)[:, None]) @ self.energy
        attention = torch.softmax(energies + encoded.mask, dim=1)
        context = torch.bmm(attention[:, None], encoded.values)[:, 0]
        state = self.cell(torch.cat([before, context], dim=1), state)
        return torch.cat([state, context, before], dim=1), state, attention

    def forward(self, text: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
        encoded = self.encode(text, lengths)
        embedded = F.dropout(self.written(before), self.dropout, self.training)
        state, outputs = encoded.state, []
        for place in range(before.shape[1]):
            output, state, _ = self._step(embedded[:, place], state, encoded)
            outputs.append(output)
        logits: Tensor = self.head(F.dropout(torch.stack(outputs, dim=1), self.dropout, self.training))
        return logits


def _at(x: Tensor, places: Tensor) -> Tensor:
    """``x`` (batch, n, width) with its places in another order, int64 (batch, n)."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.shape[2]))


def model_from_config(config: Mapping[str, Any]) -> Seq2Seq:
    return Seq2Seq(config_from(Seq2SeqConfig, config))


def padded(texts: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Texts as uint8 (n, longest), 0 beyond each, and their lengths int64 (n,)."""
    lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    width = max((len(text) for text in texts), default=0)
    made = np.zeros((len(texts), width), np.uint8)
    for row, text in zip(made, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return torch.from_numpy(made), lengths


@torch.inference_mode()
def translate(network: Seq2Seq, texts: Sequence[bytes], max_bytes: int | None = None, batch: int = 256) -> list[bytes]:
    """The likeliest byte at each step (greedy), up to the 0 or ``max_bytes`` of them."""
    device = network.energy.device
    writable = torch.tensor(network.config.writable, device=device)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    written: dict[int, bytes] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        text, lengths = padded([texts[row] for row in rows])
        encoded = network.encode(text.to(device), lengths.to(device))
        state, byte = encoded.state, torch.zeros(len(rows), dtype=torch.int64, device=device)
        alive = torch.ones_like(byte)
        steps = []
        for _ in range(max_bytes or network.config.max_bytes):
            output, state, _ = network.step(byte, state, encoded)
            byte = writable[network.head(output).argmax(dim=1)] * alive
            alive = byte.sign()
            if not bool(alive.any()):
                break
            steps.append(byte)
        columns = torch.stack(steps, dim=1).cpu().numpy() if steps else np.zeros((len(rows), 0))
        for row, line in zip(rows, columns.astype(np.uint8), strict=True):
            written[row] = line.tobytes().partition(b"\0")[0]
    return [written[row] for row in range(len(texts))]


class Seq2SeqLearner(AveragedLearner):
    """Trains a translator on pairs; the epoch with the most exact translations of the validation pairs is kept."""

    family = SEQ2SEQ.name
    criterion = "exact"
    higher_is_better = True
    tie_breaker = "loss"

    def __init__(self, data: PairSplits, config: Seq2SeqConfig, options: Seq2SeqOptions, *, seed: int = 0) -> None:
        super().__init__(epochs=options.epochs, seed=seed)
        self.data = data
        alphabet = (END, *sorted(set().union(*(target for _, target in data.train))))
        self.config = dataclasses.replace(config, max_bytes=min(LONGEST, ROOM * data.longest + 1), alphabet=alphabet)
        self.options = options

    def setup(self, fabric: Fabric, total_steps: int) -> None:
        options = self.options
        if options.batch % fabric.world_size:
            raise InputError(f"--batch {options.batch} cannot be shared by {fabric.world_size} devices; give a multiple of it")
        network = Seq2Seq(self.config, options.dropout)
        optimizer = torch.optim.AdamW(matrices_decayed(network, options.weight_decay), lr=options.learning_rate, betas=(0.9, 0.98))
        self.prepare(fabric, network, optimizer, average=options.average, total_steps=total_steps, warm_up=0.05)

    def steps_per_epoch(self) -> int:
        return updates_per_epoch(len(self.data.train), self.options.batch)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Text uint8 (batch, length), lengths, bytes before and bytes to write int64 (batch, steps), the latter -1 beyond the 0."""
        generator = np.random.default_rng((self.seed, epoch))
        pairs, batch, world = self.data.train, self.options.batch, self.fabric.world_size
        order = generator.permutation(len(pairs))
        cuts: list[np.ndarray] = []
        for begin in range(0, len(order), POOL * batch):
            pool = sorted(order[begin : begin + POOL * batch].tolist(), key=lambda row: len(pairs[row][0]))
            cuts.extend(np.array(pool[at : at + batch]) for at in range(0, len(pool), batch))
        for at in generator.permutation(len(cuts))[start:]:
            rows = cuts[at]
            share = max(1, -(-len(rows) // world))
            mine = rows[np.arange(self.fabric.global_rank * share, (self.fabric.global_rank + 1) * share) % len(rows)]
            yield tuple(part.to(self.fabric.device) for part in teaching([pairs[row] for row in (mine if world > 1 else rows)]))

    def step(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        text, lengths, before, wanted = batch
        logits = self.network(text, lengths, before)
        loss = F.cross_entropy(logits.float().flatten(0, 1), places_of(self.config, wanted).flatten(), ignore_index=-1)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.options.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return {"loss": loss.detach()}

    def _deployed(self) -> Seq2Seq:
        """The averaged network as it is deployed."""
        network = Seq2Seq(self.config).to(self.fabric.device)
        weights = self.average.module.state_dict()
        network.load_state_dict({name: w.half().float() if self.config.half else w for name, w in weights.items()})
        return network.eval()

    def _score(self, pairs: Sequence[Pair], groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
        network = self._deployed()
        right = np.array([got == want for got, (_, want) in zip(translate(network, [source for source, _ in pairs]), pairs, strict=True)])
        made = {"exact": float(right.mean()), "loss": mean_loss(network, pairs), "n": len(pairs)}
        return made | {f"exact_{name}": float(right[list(rows)].mean()) for name, rows in groups.items()}

    def validate(self) -> dict[str, float]:
        return self._score(self.data.validation, {}) if self.data.validation else {}

    def test(self) -> dict[str, float]:
        return self._score(self.data.test, self.data.groups)

    def described(self) -> dict[str, Any]:
        data = {"name": self.data.name, "sha256": self.data.sha256, "source": self.data.source}
        return {"config": dataclasses.asdict(self.config), "data": data}

    def parts(self) -> dict[str, int]:
        return {"train": len(self.data.train), "validation": len(self.data.validation), "test": len(self.data.test)}

    def summary(self, what: str = "pairs") -> str:
        return super().summary(what)

    def baseline(self) -> dict[str, float]:
        """The most frequent target of the training pairs for every text."""
        targets = [target for _, target in self.data.train]
        values, counts = np.unique(np.array(targets, dtype=object), return_counts=True)
        common = values[int(counts.argmax())]
        return {"majority": float(np.mean([target == common for _, target in self.data.test]))}

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        if metrics["test"]["exact"] > metrics["baseline"]["majority"]:
            return []
        return [
            "no translation of the test is exact: for sentences that may be so, read sample.txt; "
            f"else train longer (--epochs {2 * self.epochs}), or on more pairs"
        ]

    def checkpoint(self) -> Checkpoint:
        weights = {name: w.detach().to("cpu", copy=True).contiguous() for name, w in self._deployed().state_dict().items()}
        text, lengths = padded([source for source, _ in self.data.test[:: max(1, len(self.data.test) // 24)]][:24])
        return Checkpoint(family=self.family, weights=weights, examples={"text": text, "lengths": lengths}, **self.described())

    def show(self, epoch: int, folder: Path) -> str:
        """Three pairs of the validation and their translations, also in sample.txt."""
        pairs = (self.data.validation or self.data.test)[:: max(1, len(self.data.validation or self.data.test) // 3)][:3]
        made = translate(self._deployed(), [source for source, _ in pairs])
        lines = [f"{source.decode().strip()} → {got.decode(errors='replace')}" for (source, _), got in zip(pairs, made, strict=True)]
        write_text_whole(folder / "sample.txt", "\n".join(lines) + "\n")
        return "\n".join(lines)


def teaching(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch of pairs: text, lengths, bytes before, bytes to write; see :meth:`Seq2SeqLearner.batches`."""
    text, lengths = padded([source for source, _ in pairs])
    target, target_lengths = padded([target for _, target in pairs])
    wanted = F.pad(target.long(), (0, 1))
    before = F.pad(wanted[:, :-1], (1, 0))
    return text, lengths, before, wanted.masked_fill(torch.arange(wanted.shape[1])[None] > target_lengths[:, None], -1)


def places_of(config: Seq2SeqConfig, bytes_: Tensor) -> Tensor:
    """The logit of each byte int64; -1 stays -1, and so is a byte that is never written."""
    places = torch.full((VOCABULARY + 1,), -1, device=bytes_.device)
    places[list(config.writable)] = torch.arange(len(config.writable), device=bytes_.device)
    return places[bytes_]


@torch.inference_mode()
def mean_loss(network: Seq2Seq, pairs: Sequence[Pair], batch: int = 256) -> float:
    """Mean negative log-likelihood of the targets' bytes and their end, given the true bytes before: nats a byte. Bytes that no
    translation of the training pairs holds do not count.
    """
    device, total, count = network.energy.device, 0.0, 0
    for start in range(0, len(pairs), batch):
        text, lengths, before, wanted = (part.to(device) for part in teaching(pairs[start : start + batch]))
        logits, wanted = network(text, lengths, before), places_of(network.config, wanted)
        total += float(F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum"))
        count += int((wanted >= 0).sum())
    return total / count
