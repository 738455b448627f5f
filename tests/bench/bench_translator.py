"""Seconds to translate one text: the exported graph against the ways to do it in PyTorch, in one run.

    python tests/bench/bench_translator.py --checkpoint runs/dates
    python tests/bench/bench_translator.py --model dates          # the weights of a file, which need no run
    python tests/bench/bench_translator.py --model dates --variant int8
    python tests/bench/bench_translator.py                        # untrained weights of the shipped shape, 11 bytes written

All write the same bytes, greedily, with the same weights:

    runtime             the file, through Translator.translate
    network             the training network itself, a byte at a time, in inference mode
    compiled network    its two parts, reading and a step, under torch.compile
    cells               a step rewritten with as few products as the file has, and torch's own GRU for reading
    compiled cells      the same under torch.compile
    traced cells        the same under torch.jit.trace and freeze

Each is warmed up and then timed in rounds that take turns; the median of its rounds counts, with one thread and with all cores,
whichever is faster for it. Nothing else should run meanwhile. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxferry.export import export_checkpoint
from onnxferry.runtime import Translator, load
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.train.families.seq2seq import Encoded, Seq2Seq, Seq2SeqConfig, padded
from onnxferry.train.loop.checkpoint import Checkpoint, load_checkpoint
from scoreboard.rebuilt import rebuild_translator

TEXTS = ("le 3 mars 2019", "Mar 3, '19", "2019年3月3日", "Sonntag, 3. März 2019", "3 มีนาคม 2562")
WAYS = ("network", "compiled network", "cells", "compiled cells", "traced cells")
REPEATS = 10  # of the texts in a round: some 500 bytes, as in bench_text.py
STEPS = 11  # of untrained weights, which write no end

Translate = Callable[[bytes], bytes]


class Reading(nn.Module):
    """The encoder for a text alone: its bytes and the 0, int64 (1, length + 1) → values, keys, state."""

    def __init__(self, network: Seq2Seq) -> None:
        super().__init__()
        self.embed, self.key, self.bridge = network.embed, network.key, network.bridge
        config = network.config
        self.both = nn.GRU(config.embedding, config.encoder, batch_first=True, bidirectional=True)
        of_both = {f"{name}": p for name, p in network.forwards.state_dict().items()}
        of_both |= {f"{name}_reverse": p for name, p in network.backwards.state_dict().items()}
        self.both.load_state_dict(of_both)

    def forward(self, bytes_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, last = self.both(self.embed(bytes_))
        return values, self.key(values), torch.tanh(self.bridge(last[1]))


class Cell(nn.Module):
    """A step for a text alone, with one product each of state, context and output, and a table for the byte before."""

    def __init__(self, network: Seq2Seq) -> None:
        super().__init__()
        config, width = network.config, network.config.decoder
        of_byte, of_context = network.cell.weight_ih.split([config.embedding, 2 * config.encoder], dim=1)
        to_state, to_context, to_byte = network.head.weight.split([width, 2 * config.encoder, config.embedding], dim=1)
        table = network.written.weight[list(config.writable)] @ torch.cat([of_byte, to_byte]).T + torch.cat(
            [network.cell.bias_ih, network.head.bias]
        )
        made = {
            "of_state": torch.cat([network.cell.weight_hh, network.query.weight]),
            "state_bias": torch.cat([network.cell.bias_hh, torch.zeros(config.attention)]),
            "of_context": torch.cat([of_context, to_context]), "to_state": to_state, "table": table, "energy": network.energy,
        }  # fmt: skip
        for name, value in made.items():
            self.register_buffer(name, value.detach().contiguous())
        self.width = width

    def forward(self, byte: Tensor, state: Tensor, values: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        width = self.width
        of_state = torch.addmm(self.state_bias, state, self.of_state.T)
        energies = torch.tanh(keys + of_state[:, None, 3 * width :]) @ self.energy
        context = torch.softmax(energies, dim=1) @ values[0]
        of_context = torch.addmm(self.table[byte], context, self.of_context.T)
        r, z = torch.sigmoid(of_context[:, : 2 * width] + of_state[:, : 2 * width]).chunk(2, dim=1)
        new = torch.tanh(of_context[:, 2 * width : 3 * width] + r * of_state[:, 2 * width : 3 * width])
        after = new + z * (state - new)
        return torch.addmm(of_context[:, 3 * width :], after, self.to_state.T).argmax(dim=1), after


def with_network(encode: Any, step: Any, network: Seq2Seq, most: int) -> Translate:
    def translate(text: bytes) -> bytes:
        with torch.inference_mode():
            encoded: Encoded = encode(*padded([text]))
            state, byte, written = encoded.state, torch.zeros(1, dtype=torch.int64), []
            for _ in range(most):
                output, state, _ = step(byte, state, encoded)
                if not (number := network.config.writable[int(network.head(output).argmax(dim=1))]):
                    break
                written.append(number)
                byte = torch.tensor([number])
        return bytes(written)

    return translate


def with_cells(reading: Any, cell: Any, most: int, writable: Sequence[int]) -> Translate:
    def translate(text: bytes) -> bytes:
        with torch.inference_mode():
            values, keys, state = reading(torch.frombuffer(bytearray(text + b"\0"), dtype=torch.uint8).long()[None])
            byte, written = torch.zeros(1, dtype=torch.int64), []
            for _ in range(most):
                byte, state = cell(byte, state, values, keys)
                if not (number := int(byte)):
                    break
                written.append(writable[number])
        return bytes(written)

    return translate


def ways(network: Seq2Seq, most: int) -> dict[str, Translate]:
    reading, cell = Reading(network).eval(), Cell(network).eval()
    example = torch.zeros((1, 9), dtype=torch.int64)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; it is measured all the same
        values, keys, state = reading(example)
        traced = [
            torch.jit.freeze(torch.jit.trace(reading, (example,))),
            torch.jit.freeze(torch.jit.trace(cell, (example[0, :1], state, values, keys))),
        ]
    writable = network.config.writable
    return {
        "network": with_network(network.encode, network.step, network, most),
        "compiled network": with_network(network.encode, torch.compile(network.step, dynamic=True), network, most),
        "cells": with_cells(reading, cell, most, writable),
        "compiled cells": with_cells(reading, torch.compile(cell, dynamic=True), most, writable),
        "traced cells": with_cells(*traced, most, writable),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--model", help="a translator's file, or a shipped name, instead of a run")
    parser.add_argument("--variant", help="of that model: int8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS, help="of PyTorch; all by default")
    parser.add_argument("--threads", type=int, nargs="*", help="by default one, and as many as there are cores")
    arguments = parser.parse_args()
    texts = [text.encode() for text in TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.model:
            model = find_model(arguments.model)
            network = rebuild_translator(model)
            print(json.dumps(measure(model, network, texts, arguments), indent=2))
            return
        source = arguments.checkpoint
        if source is None:
            torch.manual_seed(0)
            config = Seq2SeqConfig(max_bytes=STEPS)
            network = Seq2Seq(config).eval()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.copy_(parameter.half().float())
                network.head.bias[0] = -100.0
            text, lengths = padded(texts)
            source = Path(folder, "best.pt")
            examples = {"text": text, "lengths": lengths}
            Checkpoint("seq2seq", asdict(config), dict(network.state_dict()), data={"name": "none"}, examples=examples).save(source)
        trained = load_checkpoint(source).model()
        assert isinstance(trained, Seq2Seq)
        trained.requires_grad_(False)
        export_checkpoint(source, Path(folder, "model.onnx"))
        print(json.dumps(measure(Path(folder, "model.onnx"), trained, texts, arguments), indent=2))


def measure(path: Path, network: Seq2Seq, texts: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = arguments.threads or sorted({1, cores})
    runs: dict[str, Callable[[], list[str]]] = {}
    for count in threads:
        model = load(path, device="cpu", threads=count, variant=arguments.variant)
        assert isinstance(model, Translator)
        runs[f"runtime, {count} threads"] = lambda model=model: [model.translate(text) for text in texts]  # type: ignore[misc]
    of_torch = {name: way for name, way in ways(network, network.config.max_bytes).items() if name in arguments.ways}

    def with_torch(count: int, way: Translate) -> list[str]:
        torch.set_num_threads(count)
        return [way(text).decode(errors="replace") for text in texts]

    for count in threads:
        for name, way in of_torch.items():
            runs[f"{name}, {count} threads"] = lambda count=count, way=way: with_torch(count, way)  # type: ignore[misc]
    made = {name: run() for name, run in runs.items()}  # warms up, and shows that all do the same
    expected = [
        with_network(network.encode, network.step, network, network.config.max_bytes)(text).decode(errors="replace") for text in texts
    ]
    if different := [name for name, texts_made in made.items() if texts_made != expected]:
        raise SystemExit(f"other bytes than the network's: {', '.join(different)}")
    for run in runs.values():
        for _ in range(3):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            for _ in range(REPEATS):
                run()
            times[name].append((time.perf_counter() - begun) / (REPEATS * len(texts)))
    medians = {name: statistics.median(each) for name, each in times.items()}
    ours = min((value, name) for name, value in medians.items() if name.startswith("runtime"))
    best = min((value, name) for name, value in medians.items() if not name.startswith("runtime"))
    return {
        "processor": platform.processor() or platform.machine(),
        "variant": arguments.variant or "float32",
        "cores": cores,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "texts": TEXTS,
        "translations": expected,
        "milliseconds a text": {name: round(1e3 * value, 4) for name, value in sorted(medians.items(), key=lambda item: item[1])},
        "fastest": {"onnxferry": ours[1], "pytorch": best[1]},
        "times as fast": round(best[0] / ours[0], 2),
    }


if __name__ == "__main__":
    main()
