"""The options of ``onnxferry serve``: plain values that are passed to every worker process."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxferry.runtime.engine.open import Identity
from onnxferry.runtime.errors import InputError

MIB = 2**20

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A served model's name: it is part of URLs."""


@dataclass(frozen=True)
class ModelSource:
    """One model to serve: ``source`` is a file or the name of a shipped model."""

    name: str
    source: str
    version: str = "1"


@dataclass(frozen=True)
class Measured:
    """How a model is best served on this machine. ``gain``: of a row in a batch over one alone; 0 where it was not measured."""

    threads: int
    rows: int = 1  # that share a run at most
    gain: float = 0.0


@dataclass(frozen=True)
class ServeOptions:
    """How to serve. Sizes in bytes, times in seconds."""

    models: tuple[ModelSource, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    workers: int = 1
    device: str = "auto"
    threads: int | None = None
    tune: bool = False
    isolated: bool = False  # each model in a confined child process
    batch: str = "auto"  # "auto" measures at start, "off", or the largest batch as a number
    max_wait: float = 0.005
    max_queue: int = 256  # requests that may wait for one model
    timeout: float = 30.0  # of one request, from its first byte to the last of its answer
    max_body: int = 64 * MIB
    max_connections: int = 1024
    header_bytes: int = 32 * 1024
    header_timeout: float = 10.0
    drain: float = 30.0  # for accepted requests after a signal to stop
    repository: bool = False  # clients may load and unload models
    tokens: str = ""  # path of the file
    insecure: bool = False
    log: bool = True  # a line for each request; errors of the server itself are always logged
    certificate: str = ""
    key: str = ""
    environment_token: str = field(default="", repr=False)
    measured: Mapping[Identity, Measured] = field(default_factory=dict, repr=False)  # what need not be measured again, by file

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Raises InputError for values that make no sense together."""
        if not self.models:
            raise InputError("name at least one model to serve: onnxferry serve digits")
        if not self.loopback and not (self.tokens or self.environment_token or self.insecure):
            raise InputError(
                f"{self.host} can be reached from other machines: ask for a token with --tokens FILE (make one with --new-token NAME), "
                "or say --insecure to serve everybody who can connect"
            )
        if bool(self.certificate) != bool(self.key):
            raise InputError("TLS needs a certificate and its key: give both --tls-cert and --tls-key")
        if self.isolated and (self.tune or self.device not in ("auto", "cpu")):
            raise InputError("--isolated runs each file as it is on the CPU: leave --tune and --device out")
        if self.batch not in ("auto", "off") and not (self.batch.isdecimal() and 1 <= int(self.batch) <= 4096):
            raise InputError(f"--batch must be auto, off or a number from 1 to 4096, got {self.batch!r}")
        if self.grpc_port is not None and self.grpc_port == self.port and self.port:
            raise InputError(f"HTTP and gRPC need a port each, both are {self.port}")
        seen = set()
        for model in self.models:
            if (model.name, model.version) in seen:
                raise InputError(f"two models have the name {model.name!r} and the version {model.version}: give NAME:VERSION=FILE")
            seen.add((model.name, model.version))


def model_source(text: str) -> ModelSource:
    """``digits``, ``path/to/model.onnx``, ``NAME=FILE`` or ``NAME:VERSION=FILE``. Raises InputError for a name that no URL can have."""
    left, equals, source = text.partition("=")
    if not equals or not NAME.fullmatch(left.partition(":")[0]):
        left, source = "", text
    name, _, version = left.partition(":")
    if not name:
        name = re.split(r"[/\\]", source)[-1].removesuffix(".onnx")
    if not NAME.fullmatch(name):
        raise InputError(f"the name {name[:60]!r} cannot be part of a URL: give one of letters, digits, '.', '_' and '-', as NAME=FILE")
    if version and not re.fullmatch(r"[1-9][0-9]{0,17}", version):
        raise InputError(f"a version must be a whole number from 1, got {version[:60]!r}")
    return ModelSource(name, source, version or "1")
