"""The training network rebuilt from an .onnx file of ours, verified by the file's golden samples: what PyTorch is measured with.

A shipped file has no checkpoint beside it. What its network was can be read from the contract and from the shapes of its
initializers, which keep the names of the parameters. Batch normalisation that the export folded into a convolution stays folded:
PyTorch has less to do then than with the network as it was trained.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from onnxferry.export.bench.contenders.pytorch import Network, Weights, checked_network
from onnxferry.export.families.rnn.graph import GATE_ORDER
from onnxferry.export.families.rnn.source import TextSource
from onnxferry.export.families.seq2seq.source import TranslatorSource
from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.graphs.weight_storage import stored_values
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import contract_from_metadata
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import CheckFailedError, ExportError
from onnxferry.runtime.kinds import DECODER, ENCODER, IMAGE_GENERATOR, RECOGNISER, TEXT_GENERATOR, TRANSLATOR
from onnxferry.train.families.autoencoder import Autoencoder, AutoencoderConfig, DecoderTask, EncoderTask
from onnxferry.train.families.cnn import Cnn, CnnConfig, Recogniser
from onnxferry.train.families.gan import GanConfig, Generator, GeneratorTask
from onnxferry.train.families.rnn import Rnn, RnnConfig
from onnxferry.train.families.seq2seq import Seq2Seq, Seq2SeqConfig


def rebuild(path: str | os.PathLike[str]) -> Network:
    """The network that a file of ours was exported from.

    Raises ExportError where the file says too little, or where the network does not reproduce the file's golden samples.
    """
    model = load_onnx(Path(path))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    contract = contract_from_metadata({entry.key: entry.value for entry in model.metadata_props})
    if contract is None:
        raise ExportError(f"{Path(path).name} carries no contract, so its network cannot be rebuilt")
    return checked_network(path, _module(contract, weights))


def _module(contract: Contract, weights: Weights) -> nn.Module:
    """The module that the contract and the weights' shapes describe, with weights of no meaning."""
    options = contract.options
    size = int(options["image_size"][0]) if "image_size" in options else 0
    channels = int(options.get("channels", 1))
    if contract.kind == RECOGNISER.name:
        width = _first(weights, "network.stem.0.weight").shape[0]
        threshold = float(options.get("unknown_threshold", 0.0))
        blocks = _blocks(weights, "network.stages", width)
        config = CnnConfig(contract.labels, channels, size, str(options["framing"]), width, blocks, unknown_threshold=threshold)
        return Recogniser(Cnn(config))
    if contract.kind == IMAGE_GENERATOR.name:
        noise, width = int(options["noise"]), _first(weights, "network.fine.weight").shape[0]
        return GeneratorTask(Generator(GanConfig(contract.labels, channels, size, noise, width)))
    if contract.kind in (ENCODER.name, DECODER.name):
        encoding = contract.kind == ENCODER.name
        name = "network.encoder.stem.0.weight" if encoding else "decoder.fine.conv1.weight"
        width = _first(weights, name).shape[0]
        blocks = _blocks(weights, "network.encoder.stages", width) if encoding else (1, 1, 1)
        latent, variational = int(options["latent"]), bool(options["variational"])
        network = Autoencoder(
            AutoencoderConfig(channels, size, latent, width, blocks, str(options.get("framing", "fit")), variational=variational)
        )
        return EncoderTask(network) if encoding else DecoderTask(network)
    raise ExportError(f"a file of the kind {contract.kind!r} does not say what network it was made of; name one with --module")


def _first(weights: Weights, name: str) -> np.ndarray:
    if name not in weights:
        raise ExportError(f"the file has no weight {name!r}, so that its network cannot be rebuilt; take the file as it was exported")
    return weights[name]


def _blocks(weights: Weights, prefix: str, width: int) -> tuple[int, int, int]:
    """Residual blocks a stage: a block belongs to the stage whose width it gives."""
    counts = [0, 0, 0]
    while (name := f"{prefix}.{sum(counts)}.conv2.weight") in weights:
        counts[(weights[name].shape[0] // width).bit_length() - 1] += 1
    return counts[0], counts[1], counts[2]


class Cells(nn.Module):
    """Uniform numbers (batch,), 1 / temperature (), then every slot of the state (batch, width) → bytes (batch,), the slots after them.

    The leanest that PyTorch offers for one byte: a cell a layer, and the byte chosen as ``onnxferry.train.families.rnn.choose`` does.
    """

    def __init__(self, network: Rnn) -> None:
        super().__init__()
        self.network = network

    def forward(self, uniform: Tensor, sharpness: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        network, parts = self.network, self.network.config.parts
        hidden = state[::parts]
        heard = hidden[-1]
        if network.config.skip:
            heard = hidden[0]
            for other in hidden[1:]:
                heard = heard + other
        running = torch.softmax(network._head(heard) * sharpness, dim=1).cumsum(dim=1)
        byte = (running > uniform[:, None] * running[:, -1:]).to(torch.uint8).argmax(dim=1)
        inputs = network.embed(byte)
        after: list[Tensor] = []
        total: Tensor | None = None
        for index, layer in enumerate(network.layers):
            weights = [parameter for _, parameter in layer.named_parameters()]
            if parts == 2:
                h, c = torch.lstm_cell(inputs, [state[2 * index], state[2 * index + 1]], *weights)
                after += [h, c]
            else:
                h = torch.gru_cell(inputs, state[index], *weights)
                after.append(h)
            total = h if total is None or not network.config.skip else total + h
            inputs = total
        return byte, *after


def rebuild_text(path: str | os.PathLike[str]) -> tuple[Rnn, Tensor]:
    """The recurrent network of a text generator's file, and the state (1, slots, width) that it starts from.

    Raises ExportError where the file tells too little, or where no network gives its golden samples.
    """
    model = load_onnx(Path(path))
    stored = stored_values(model.graph.initializer)
    contract = contract_from_metadata({entry.key: entry.value for entry in model.metadata_props})
    if contract is None or contract.kind != TEXT_GENERATOR.name or not contract.goldens:
        raise ExportError(f"{Path(path).name} is no text generator with golden samples")
    cell, depth, width = (contract.options[name] for name in ("cell", "depth", "width"))
    embedding, tied = _first(stored, "embedding").shape[1], "projection" in stored
    start = torch.from_numpy(np.array(_first(stored, "state"), np.float32))
    problem = ""
    for skip in (True, False):  # the one thing that neither a shape nor the contract tells: the golden samples do
        config = RnnConfig(str(cell), int(depth), int(width), embedding, tied, skip)
        network = Rnn(config).eval().requires_grad_(False)
        network.load_state_dict(_text_state(config, stored))
        source = TextSource(network, contract.goldens[0].inputs)
        try:
            replay_goldens(source.run, contract).raise_if_failed(f"the PyTorch network rebuilt from {Path(path).name}")
        except CheckFailedError as error:
            problem = str(error)
        else:
            return network, start
    raise ExportError(f"no network can be rebuilt from this file: {problem}")


def rebuild_translator(path: str | os.PathLike[str]) -> Seq2Seq:
    """The network of a translator's file. Raises ExportError where it does not give the file's golden samples."""
    model = load_onnx(Path(path))
    stored = stored_values(model.graph.initializer)
    contract = contract_from_metadata({entry.key: entry.value for entry in model.metadata_props})
    if contract is None or contract.kind != TRANSLATOR.name or not contract.goldens:
        raise ExportError(f"{Path(path).name} is no translator with golden samples")
    embedding = _first(stored, "embed_weight").shape[1]
    decoder, encoder = _first(stored, "bridge_weight").shape
    half = contract.provenance.get("weight_bits") != 32
    alphabet = tuple(stored["alphabet"].tolist()) if "alphabet" in stored else ()
    attention, most = _first(stored, "key_weight").shape[0], int(contract.options["max_bytes"])
    config = Seq2SeqConfig(embedding, encoder, decoder, attention, half, most, alphabet)
    network = Seq2Seq(config).eval().requires_grad_(False)
    state = {}
    for name, parameter in network.state_dict().items():
        weight = _first(stored, name.replace(".", "_").removesuffix("_l0"))
        if name == "written.weight":  # the file holds the rows of those bytes that are written
            weight, rows = np.zeros(parameter.shape, np.float32), weight
            weight[list(config.writable)] = rows
        if name.startswith(("forwards", "backwards", "cell")):
            blocks = np.split(weight, 3)
            weight = np.concatenate([blocks[GATE_ORDER["gru"].index(gate)] for gate in range(3)])
        state[name] = torch.from_numpy(np.array(weight, np.float32).reshape(parameter.shape))
    network.load_state_dict(state)
    source = TranslatorSource(network, contract.goldens[0].inputs)
    try:
        replay_goldens(source.run, contract).raise_if_failed(f"the PyTorch network rebuilt from {Path(path).name}")
    except CheckFailedError as error:
        raise ExportError(f"no network can be rebuilt from this file: {error}") from error
    return network


def _text_state(config: RnnConfig, stored: Weights) -> dict[str, Tensor]:
    """The state dict out of a text graph's initializers, whose gates stand in ONNX's order."""
    order = GATE_ORDER[config.cell]

    def gates(name: str) -> np.ndarray:
        weight = _first(stored, name)
        blocks = np.split(weight[0] if weight.ndim == 3 else weight, len(order))
        return np.concatenate([blocks[order.index(gate)] for gate in range(len(order))])

    state = {"embed.weight": stored["embedding"], "bias": _first(stored, "head_bias")}
    state["head.weight"] = _first(stored, "projection" if config.tied else "head")
    for layer in range(config.depth):
        for ours, theirs in (("w", "weight_ih"), ("r", "weight_hh"), ("wb", "bias_ih"), ("rb", "bias_hh")):
            state[f"layers.{layer}.{theirs}_l0"] = gates(f"{ours}_{layer}")
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()}
