"""Text classification (family ``text-classifier``): two networks over the same tokens, whose answers are added.

One is linear: logistic regression on a bag of n-grams of tokens (``bag.py``). The other is a bidirectional GRU (Cho et al. 2014, arXiv
1406.1078) or LSTM. It reads of each token an embedding, the sum of those of the token and of its first bytes (as fastText's, Bojanowski
et al. 2017, arXiv 1607.04606), and what the linear network says of it; attention pooling (Yang et al. 2016, Hierarchical Attention
Networks) follows: a softmax over the tokens weighs their states. It learns to correct the linear one: its loss is that of both together.
For training, what the linear one says of a text comes from one that was fitted without that text, on the other FOLDS - 1 of FOLDS parts
(stacked generalization, Wolpert 1992), because it knows the texts that it was fitted on by heart. How much each network counts is fitted
on the validation part, two numbers, after every epoch.

Both are linear in what they take from each token, so that the logits are a sum over the tokens: what each word says for each class is
part of the answer (``evidence``), not an estimate made afterwards.

The linear one is fitted at once, before the first epoch. The recurrent one is trained with AdamW (Loshchilov and Hutter 2017, arXiv
1711.05101), clipped gradients, a one-cycle learning rate, label smoothing (Szegedy et al. 2015, arXiv 1512.00567), dropout, dropped
n-grams (as Iyyer et al. 2015 drop words), and a moving average of the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import TEXT_FAMILY
from onnxferry.train.data.text_sets import TextClassSplits, TextSet
from onnxferry.train.data.text_tokens import FEATURES, tokens
from onnxferry.train.families.bag import Bag, fit_bag
from onnxferry.train.families.baselines import bag_of_words, majority
from onnxferry.train.loop.averaged import AveragedLearner
from onnxferry.train.loop.checkpoint import Checkpoint, config_from
from onnxferry.train.loop.schedule import part_of, updates_per_epoch
from onnxferry.train.options import check_positive, option

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CELLS = ("gru", "lstm")


CLASS_WEIGHTS = ("none", "balanced")


OFF = -1e9
"""The attention's score of what is no token: its share becomes exactly 0."""


MIX = (1.0, 1.0)
"""What the recurrent and the linear network count in training, and without a validation part."""


FOLDS = 4


EMBEDDED = 2
"""Of a token's hashes, those that have an embedding: of itself and of its first bytes."""


MOST_MIX = 10.0
"""Neither counts more than this, also where a validation part of few texts has no error."""


_GROUP = 16  # batches whose texts are sorted by length together, so that a batch has little padding


@dataclass(frozen=True)
class TextClassifierConfig:
    """Everything that is needed to rebuild the network and its whole-task graph."""

    labels: tuple[str, ...]
    cell: str = option("gru", "gru or lstm")
    width: int = option(32, "numbers in each direction's state", min=4, max=1024)
    embedding: int = option(16, "numbers in a token's embedding", min=2, max=512)
    buckets: int = option(2**15, "embeddings that the tokens share, by their hashes", min=64, max=2**20)
    linear_buckets: int = option(2**17, "numbers a class that the n-grams share in the linear network", min=64, max=2**22)
    small: bool = option(True, "round the deployed tables to 8 bits: a quarter of the file size, and no loss at export")

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise InputError(f"unknown cell {self.cell!r}; expected {' or '.join(CELLS)}")
        if len(self.labels) < 2:
            raise InputError(f"a classifier needs at least 2 labels, got {len(self.labels)}")
        for name in ("width", "embedding", "buckets", "linear_buckets"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class TextClassifierOptions:
    """How it is trained."""

    epochs: int = option(4, "passes over the texts", min=1)
    batch: int = option(64, "texts per update, over all devices together", min=2)
    learning_rate: float = option(4e-3, "highest learning rate of the cycle", min=0.0)
    strength: float = option(16.0, "of the linear network's fit: the inverse of its penalty on squared weights", min=0.0)
    weight_decay: float = option(1e-4, "AdamW's weight decay", min=0.0)
    clip: float = option(1.0, "highest norm of the gradient", min=0.0)
    dropout: float = option(0.5, "share of the states, and half as many of the embeddings, that are dropped", min=0.0, max=0.95)
    ngram_dropout: float = option(0.3, "share of the n-grams that are dropped", min=0.0, max=0.95)
    label_smoothing: float = option(0.05, "share of the answer that is spread over all classes", min=0.0, max=0.9)
    class_weights: str = option("none", "none, or balanced: mistakes in rare classes cost more, as much as the class is rare")
    most_tokens: int = option(128, "tokens that are read of a training text: its first and last ones, half of each", min=8)
    average: float = option(0.99, "decay of the weights' moving average, per update", min=0.0, max=0.99999)

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise InputError(f"unknown class weights {self.class_weights!r}; expected {' or '.join(CLASS_WEIGHTS)}")
        for name in ("dropout", "ngram_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        check_positive(self, "learning_rate", "strength", "clip")


class Answer(NamedTuple):
    """What the network makes of texts. Where there is no token, ``attention`` and ``evidence`` are 0."""

    logits: Tensor  # float (batch, classes): evidence summed over the tokens, and the network's bias
    recurrent: Tensor  # float (batch, classes): logits of the recurrent network alone
    linear: Tensor  # float (batch, classes): of the linear one
    attention: Tensor  # float (batch, tokens): shares, whose sum is 1
    evidence: Tensor  # float (batch, tokens, classes)


class TextNetwork(nn.Module):
    """Hashes int64 (batch, tokens, FEATURES) and the number of tokens int64 (batch,), each at least 1 → :class:`Answer`."""

    linear: Tensor
    linear_bias: Tensor
    rarity: Tensor
    mix: Tensor
    loudness: Tensor

    def __init__(self, config: TextClassifierConfig, dropout: float = 0.0, ngram_dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.ngram_dropout = ngram_dropout
        classes = len(config.labels)
        # A column a bucket: 8 bits are with a scale a row.
        self.embed = nn.Parameter(0.1 * torch.randn(config.embedding, config.buckets))
        # What is fitted is no parameter: it is there before the first step.
        self.register_buffer("linear", torch.zeros(classes, config.linear_buckets))
        self.register_buffer("linear_bias", torch.zeros(classes))
        self.register_buffer("rarity", torch.ones(1, config.linear_buckets))
        self.register_buffer("mix", torch.tensor(MIX))
        self.register_buffer("loudness", torch.ones(1))  # scale of the linear network's evidence, an input of the recurrent one
        recurrent = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.recurrent = recurrent(config.embedding + classes, config.width, bidirectional=True, batch_first=True)
        self.attend = nn.Linear(2 * config.width, config.width)
        self.score = nn.Linear(config.width, 1, bias=False)
        self.head = nn.Linear(2 * config.width, classes)

    def forward(self, hashes: Tensor, counts: Tensor, linear: tuple[Tensor, Tensor] | None = None) -> Answer:
        """``linear``: another linear network's words, float (batch, tokens, classes), not divided yet, and its bias (batch, classes)."""
        there = torch.arange(hashes.shape[1], device=hashes.device)[None] < counts[:, None]  # (batch, tokens)
        keep = there[..., None].expand(hashes.shape).to(self.embed.dtype)
        places = hashes % self.config.linear_buckets
        rarity = F.embedding(places, self.rarity.T)[..., 0] * keep  # (batch, tokens, FEATURES)
        root = (rarity**2).sum(dim=(1, 2)).sqrt()
        words, linear_bias = (self._words(places, keep), self.linear_bias) if linear is None else linear
        said = words / root[:, None, None]  # (batch, tokens, classes)
        if self.training and self.ngram_dropout:
            keep = F.dropout(keep, self.ngram_dropout)
        keep = keep[..., :EMBEDDED, None]
        inputs = (F.embedding(hashes[..., :EMBEDDED] % self.config.buckets, self.embed.T) * keep).sum(dim=2)
        inputs = torch.cat([inputs, words * self.loudness], dim=2)
        states = self._drop(self._states(self._drop(inputs, 0.5), counts))
        scores = self.score(torch.tanh(self.attend(states)))[..., 0].masked_fill(~there, OFF)
        attention = scores.softmax(dim=1)
        pooled = attention[..., None] * states  # (batch, tokens, 2 width)
        recurrent = self.head(self._drop(pooled.sum(dim=1)))
        evidence = self.mix[0] * F.linear(pooled, self.head.weight) + self.mix[1] * said  # (batch, tokens, classes)
        logits = evidence.sum(dim=1) + self.bias
        return Answer(logits, recurrent, said.sum(dim=1) + linear_bias, attention, evidence)

    def _words(self, places: Tensor, keep: Tensor) -> Tensor:
        return (F.embedding(places, self.linear.T) * keep[..., None]).sum(dim=2)

    @property
    def bias(self) -> Tensor:
        """float (classes,): what the logits are without a token."""
        return self.mix[0] * self.head.bias + self.mix[1] * self.linear_bias

    def _states(self, inputs: Tensor, counts: Tensor) -> Tensor:
        """Both directions' states (batch, tokens, 2 width); zeros behind a text's end, which no state has seen."""
        packed = nn.utils.rnn.pack_padded_sequence(inputs, counts.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=inputs.shape[1])
        return states

    def _drop(self, x: Tensor, part: float = 1.0) -> Tensor:
        return F.dropout(x, part * self.dropout, self.training)


def model_from_config(config: Mapping[str, Any]) -> TextNetwork:
    return TextNetwork(config_from(TextClassifierConfig, config))


def rounded(table: Tensor) -> Tensor:
    """A table (rows, columns) as 8 bits hold it: each row whole multiples, -127 … 127, of its largest number's 127th."""
    scales = table.abs().amax(dim=1, keepdim=True) / 127
    scales = torch.where(scales < torch.finfo(table.dtype).tiny, torch.ones_like(scales), scales)
    return (table / scales).round().clamp(-127, 127) * scales


def padded(texts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Hashes int64 (tokens, FEATURES) of several texts → int64 (batch, most tokens, FEATURES), zeros behind, and their numbers."""
    counts = [len(each) for each in texts]
    hashes = np.zeros((len(texts), max(counts, default=0), FEATURES), np.int64)
    for row, each in enumerate(texts):
        hashes[row, : len(each)] = each
    return torch.from_numpy(hashes), torch.tensor(counts, dtype=torch.int64)


class TextClassifierLearner(AveragedLearner):
    """``train`` holds the hashes of the training texts, each int64 (tokens, FEATURES), cut to ``most_tokens``."""

    family = TEXT_FAMILY.name
    criterion = "accuracy"
    higher_is_better = True
    tie_breaker = "loss"

    def __init__(self, data: TextClassSplits, options: TextClassifierOptions, *, seed: int = 0, **network: Any) -> None:
        super().__init__(epochs=options.epochs, seed=seed)
        self.data = data
        self.options = options
        self.config = TextClassifierConfig(labels=data.classes, **network)
        self.whole = [tokens(text).hashes for text in data.train.texts]
        self.train = [_cut(each, options.most_tokens) for each in self.whole]
        self.labels = torch.from_numpy(data.train.labels)

    def setup(self, fabric: Fabric, total_steps: int) -> None:
        options = self.options
        network = TextNetwork(self.config, options.dropout, options.ngram_dropout)
        weights = self._class_weights()
        bag = self._fitted(np.arange(len(self.train)), weights)
        network.linear.copy_(bag.weights)
        network.linear_bias.copy_(bag.bias)
        network.rarity.copy_(bag.rarity[None])
        self._ask_others(weights)
        network.loudness.fill_(self.loudness)
        optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        self.prepare(fabric, network, optimizer, average=options.average, total_steps=total_steps, warm_up=0.15)
        self.class_weights = None if weights is None else weights.to(fabric.device)

    def _fitted(self, index: np.ndarray, weights: Tensor | None) -> Bag:
        """The linear network that is fitted on the training texts at ``index``."""
        return fit_bag(
            [self.whole[i] for i in index.tolist()], self.labels.numpy()[index], len(self.config.labels),
            buckets=self.config.linear_buckets, strength=self.options.strength, class_weights=weights,
        )  # fmt: skip

    def _ask_others(self, weights: Tensor | None) -> None:
        """Sets ``others``: of each training text what a linear network that was not fitted on it says of its tokens, and its bias."""
        fold = np.random.default_rng(self.seed).permutation(len(self.train)) % FOLDS
        self.others: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0), np.zeros(0))] * len(self.train)
        for number in range(FOLDS):
            bag = self._fitted(np.flatnonzero(fold != number), weights)
            table, bias = bag.weights.T.contiguous(), bag.bias.numpy()
            for i in np.flatnonzero(fold == number).tolist():
                words = F.embedding(torch.from_numpy(self.train[i] % self.config.linear_buckets), table).sum(dim=1)
                self.others[i] = words.numpy(), bias
        total = np.concatenate([words for words, _ in self.others])
        self.loudness = 1 / max(float(total.std()), 1e-6)

    def _class_weights(self) -> Tensor | None:
        if self.options.class_weights == "none":
            return None
        counts = torch.bincount(self.labels, minlength=len(self.config.labels)).clamp(min=1)
        return len(self.labels) / (len(counts) * counts.float())  # as scikit-learn's: n / (classes x texts of the class)

    def steps_per_epoch(self) -> int:
        return updates_per_epoch(len(self.train), self.options.batch)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, ...]]:
        """Hashes, numbers of tokens, labels, and the other linear networks' words and bias.

        Texts of a batch are of about one length; which they are changes every epoch.
        """
        generator = np.random.default_rng((self.seed, epoch))
        order, steps = generator.permutation(len(self.train)), self.steps_per_epoch()
        lengths = np.array([len(each) for each in self.train])
        size = _GROUP * self.options.batch
        order = np.concatenate(
            [group[np.argsort(lengths[group], kind="stable")] for group in (order[i : i + size] for i in range(0, len(order), size))]
        )
        turns = generator.permutation(steps)
        for step in range(start, steps):
            index = part_of(torch.from_numpy(order), int(turns[step]), steps, self.fabric.global_rank, self.fabric.world_size)
            chosen = index.tolist()
            hashes, counts = padded([self.train[i] for i in chosen])
            words = nn.utils.rnn.pad_sequence([torch.from_numpy(self.others[i][0]) for i in chosen], batch_first=True)
            bias = torch.from_numpy(np.stack([self.others[i][1] for i in chosen]))
            yield tuple(each.to(self.fabric.device) for each in (hashes, counts, self.labels[index], words, bias))

    def step(self, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        hashes, counts, labels, words, bias = batch
        answer: Answer = self.network(hashes, counts, (words, bias))
        logits = answer.recurrent.float() + answer.linear
        loss = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=self.options.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.options.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        return {"loss": loss.detach(), "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()}

    def _deployed(self) -> TextNetwork:
        """The averaged network as it is deployed."""
        network = TextNetwork(self.config).to(self.fabric.device)
        network.load_state_dict(self.average.module.state_dict())
        if self.config.small:
            with torch.no_grad():
                for table in (network.embed, network.linear, network.rarity):
                    table.copy_(rounded(table))
        return network.eval()

    @torch.inference_mode()
    def _answers(self, split: TextSet) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of both networks together, of the recurrent and of the linear one, each float (texts, classes), on the CPU."""
        network = self._deployed()
        read = [tokens(text).hashes for text in split.texts]
        order = sorted(range(len(read)), key=lambda i: len(read[i]))
        found = torch.zeros(3, len(read), len(self.config.labels))
        for start in range(0, len(order), self.options.batch):
            index = order[start : start + self.options.batch]
            hashes, counts = padded([read[i] for i in index])
            answer: Answer = network(hashes.to(self.fabric.device), counts.to(self.fabric.device))
            found[:, index] = torch.stack([answer.logits, answer.recurrent, answer.linear]).cpu()
        together, recurrent, linear = found
        return together, recurrent, linear

    def validate(self) -> dict[str, float]:
        if not len(self.data.validation):
            return {}
        labels = torch.from_numpy(self.data.validation.labels)
        _, recurrent, linear = self._answers(self.data.validation)
        mix = fitted_mix(recurrent, linear, labels)
        for module in (self.average.module, getattr(self.network, "module", self.network)):
            module.get_buffer("mix").copy_(mix)
        alone = {
            name: float((each.argmax(dim=1) == labels).float().mean()) for name, each in (("recurrent", recurrent), ("linear", linear))
        }
        return {**_scores(mix[0] * recurrent + mix[1] * linear, labels), **alone}

    def test(self) -> dict[str, float]:
        return _scores(self._answers(self.data.test)[0], torch.from_numpy(self.data.test.labels))

    def described(self) -> dict[str, Any]:
        data = {"name": self.data.name, "sha256": self.data.sha256, "source": self.data.source}
        return {"config": dataclasses.asdict(self.config), "data": data}

    def parts(self) -> dict[str, int]:
        return {"train": len(self.data.train), "validation": len(self.data.validation), "test": len(self.data.test)}

    def summary(self, what: str = "texts") -> str:
        return super().summary(what)

    def baseline(self) -> dict[str, float]:
        train, test = self.data.train, self.data.test
        classes = len(self.data.classes)
        return {
            "majority": majority(train.labels, test.labels),
            "bag_of_words": bag_of_words(train.texts, train.labels, test.texts, test.labels, classes),
        }

    def warnings(self, metrics: Mapping[str, Any]) -> list[str]:
        accuracy, baseline = metrics["test"]["accuracy"], metrics["baseline"]
        more = f"train longer (--epochs {2 * self.epochs}), or on more texts"
        if accuracy <= baseline["majority"] < 1:
            return [
                f"{accuracy:.2%} of the test texts are right, and always answering the most frequent class gives "
                f"{baseline['majority']:.2%}: nothing was learned; {more}"
            ]
        if accuracy < 1 and accuracy < baseline["bag_of_words"]:
            return [
                f"{accuracy:.2%} of the test texts are right, fewer than logistic regression on a bag of words gets "
                f"({baseline['bag_of_words']:.2%}); {more}"
            ]
        return []

    def checkpoint(self) -> Checkpoint:
        weights = {name: w.detach().to("cpu", copy=True).contiguous() for name, w in self._deployed().state_dict().items()}
        texts = [text for text in self.data.test.texts if len(text) <= _EXAMPLE_BYTES][:_EXAMPLES]
        joined = b"\n".join(texts) or b"a text"
        examples = {"text": torch.frombuffer(bytearray(joined), dtype=torch.uint8)}
        return Checkpoint(family=self.family, weights=weights, examples=examples, **self.described())


_EXAMPLES, _EXAMPLE_BYTES = 16, 400
"""Test texts that go into the checkpoint, for the comparison and the golden samples, and how long they are at most."""


def _scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    right = int((logits.argmax(dim=1) == labels).sum())
    return {"loss": float(F.cross_entropy(logits, labels)), "accuracy": right / len(labels), "n": len(labels)}


def fitted_mix(recurrent: Tensor, linear: Tensor, labels: Tensor) -> Tensor:
    """What each network's logits (texts, classes) count, float32 (2,): those that make the loss on ``labels`` least. 0 to MOST_MIX."""
    mix = torch.tensor(MIX, dtype=torch.float64, requires_grad=True)
    both, solver = torch.stack([recurrent, linear]).double(), torch.optim.LBFGS([mix], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        # The penalty is that of a thousandth of a text: without an error, there would be no least loss.
        loss = F.cross_entropy(torch.tensordot(mix, both, 1), labels) + 1e-3 * (mix**2).sum() / len(labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
    return mix.detach().clamp(0.0, MOST_MIX).float()


def _cut(hashes: np.ndarray, most: int) -> np.ndarray:
    """The first and the last tokens of a long text: how it begins and how it ends."""
    return hashes if len(hashes) <= most else np.concatenate([hashes[: most // 2], hashes[-(most - most // 2) :]])
