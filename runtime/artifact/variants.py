"""Certified variants: faster or smaller files of a model, each verified against its original and stored beside it.

``digits.onnx`` → ``digits.int8.onnx``, ``digits.slim.onnx``, …; of an autoencoder's decoder, ``NAME.decoder.onnx`` →
``NAME.decoder.int8.onnx``. A variant's contract holds a certificate: of which file it was made (SHA-256 of that file's bytes),
within which budget, and how it scored. One that was made of other bytes says nothing about these and is left alone, as is
any other file that happens to have such a name. Only headers are read here; no file is opened for running.
"""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.describe import Description, describe
from onnxferry.runtime.errors import ArtifactError, OnnxFerryError
from onnxferry.runtime.onnx_file.summary import Limits
from onnxferry.runtime.onnx_file.values import TensorSpec

DECODER = "decoder"
"""Never a variant's tag: ``NAME.decoder.onnx`` is the other half of an autoencoder."""


WEB = "web"
"""Tag, and device, of the variant for the browser: ``onnxferry optimize NAME --target web``."""


_TAG = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


ORT = "onnxruntime"
"""The back end that a variant is made for, if its certificate names no other."""


_WORDS = 200  # characters of a certificate's text that are kept


@dataclass(frozen=True)
class Variant:
    """One certified file beside its original, not opened. What it says of itself was measured when it was made."""

    tag: str  # "int8", "float16", "slim", …
    file: Description
    goal: str  # what it had to be: "faster" or "smaller"
    budget: str  # how far it may differ, such as "top1 -0.1pt"
    data: str  # what it was scored on, in words
    score: Mapping[str, Any]  # metric, source's and variant's, n, …
    speed: Mapping[int, float]  # times as fast as its original, by batch size
    original_bytes: int  # size of the original's file; 0 where the certificate does not say
    variant_bytes: int  # size of this file
    device: str  # "cpu" or "cuda": where that was measured, and what the certificate holds for
    machine: str  # CPU or GPU on which its speed was measured
    onnxruntime: str  # version with which its speed was measured
    backends: Mapping[str, Mapping[str, Any]]  # what it was scored on and is certified for, that which it was made for first

    @property
    def path(self) -> Path:
        return self.file.source if isinstance(self.file.source, Path) else Path()

    @property
    def per_row(self) -> bool:
        """True if its rows must run one by one, because the result for a row depends on the batch around it."""
        return self.file.per_row

    def words(self) -> str:
        """One line: ``within top1 -0.1pt, 2.1 × as fast at batch 1, 1.5 × at 64, 27% of the bytes``."""
        parts = [f"within {self.budget}"] if self.budget else []
        parts += [f"{ratio:.2g} × {'as fast at batch ' if i == 0 else 'at '}{batch}" for i, (batch, ratio) in enumerate(self.speed.items())]
        parts += [f"on {self.device.upper()}"] if self.device != "cpu" else []
        parts += [f"on {', '.join(self.backends)}"] if list(self.backends) != [ORT] else []
        parts += [f"{self.variant_bytes / self.original_bytes:.0%} of the bytes"] if self.original_bytes else []
        return ", ".join(parts) or "certified"


@dataclass(frozen=True)
class Ignored:
    """A file that is named like a variant and is none."""

    tag: str
    path: Path
    reason: str  # in words


def certified_variants(model: Path | Description, limits: Limits | None = None, device: str | None = None) -> tuple[Variant, ...]:
    """The certified variants beside the model's file, by tag; only those for ``device`` ("cpu" or "cuda") if it is given.

    ``model``: the file, or its description, which is not read again. Files that only look like a variant are left out, without an error.
    """
    return tuple(variant for variant in variants_beside(model, limits)[0] if device in (None, variant.device))


def variants_beside(model: Path | Description, limits: Limits | None = None) -> tuple[tuple[Variant, ...], tuple[Ignored, ...]]:
    """The certified variants beside a model's file, and the files that are only named like one, with the reason.

    Raises ArtifactError if the model's own file cannot be read; it is read only if there is such a file beside it.
    """
    path = model.path if isinstance(model, Description) else model
    files = [] if path is None else _named_like_variants(path)
    if not files:
        return (), ()
    original = model if isinstance(model, Description) else describe(model, limits)
    variants, ignored = [], []
    for tag, file in files:
        try:
            variants.append(_variant(tag, describe(file, original.limits), original))
        except OnnxFerryError as error:
            ignored.append(Ignored(tag, file, str(error).partition("\n")[0]))
    return tuple(variants), tuple(ignored)


def certified_variant(file: Path, original: Path, tag: str, limits: Limits | None = None) -> Variant:
    """A file as a variant of an original that may lie elsewhere. Raises ArtifactError with the reason where it is none."""
    return _variant(tag, describe(file, limits), describe(original, limits))


def variants_of(path: Path, tag: str, limits: Limits | None = None) -> dict[Path, Variant]:
    """The model's own files that have a variant of that tag, each with that variant.

    One entry; of an autoencoder one or two, as each of its files may have won or not. Raises ArtifactError, which names the tags
    there are, where there is none.
    """
    found: dict[Path, Variant] = {}
    tags: set[str] = set()
    reasons: list[str] = []
    for original in (path, decoder_path(path)):
        if not original.is_file():
            continue
        variants, ignored = variants_beside(original, limits)
        tags |= {variant.tag for variant in variants}
        found.update((original, variant) for variant in variants if variant.tag == tag)
        reasons += [f"{other.path} is not one: {other.reason}" for other in ignored if other.tag == tag]
    if found:
        return found
    import difflib  # only here: few starts end in an error

    near = difflib.get_close_matches(str(tag), tags, n=1)
    others = ", ".join(map(repr, sorted(tags))) or "none; `onnxferry optimize` makes them"
    hint = f"did you mean {near[0]!r}?" if near else f"it has {others}"
    raise ArtifactError(f"{path.name} has no certified variant {tag!r}; {'; '.join(reasons) or hint}")


def decoder_path(encoder: Path) -> Path:
    """Where the decoder of an autoencoder's encoder lies: ``a.onnx`` → ``a.decoder.onnx``."""
    return encoder.with_name(f"{encoder.stem}.{DECODER}.onnx")


def original_path(path: Path, contract: Contract | None) -> Path:
    """``digits.int8.onnx`` → ``digits.onnx`` where the file's own certificate says that it is that variant; else ``path`` itself."""
    tag = contract.certificate.get("variant") if contract else None
    if isinstance(tag, str) and path.stem.endswith(f".{tag}") and len(path.stem) > len(tag) + 1:
        return path.with_name(path.stem.removesuffix(f".{tag}") + path.suffix)
    return path


def _named_like_variants(path: Path) -> list[tuple[str, Path]]:
    """(tag, file), by tag: what lies beside and is named ``NAME.TAG.onnx``."""
    found = []
    for file in path.parent.glob(f"{glob.escape(path.stem)}.*"):
        if file.name == path.name:
            continue
        tag = file.stem.removeprefix(f"{path.stem}.")
        if file.suffix.lower() == ".onnx" and tag != DECODER and _TAG.fullmatch(tag):
            found.append((tag, file))
    return sorted(found)


def _variant(tag: str, file: Description, original: Description) -> Variant:
    """Raises ArtifactError with the reason where the file is no certified variant of the original."""
    contract = file.contract
    certificate = contract.certificate if contract else {}
    if contract is None or not certificate:
        raise ArtifactError("it carries no certificate")
    if certificate.get("variant") != tag:
        raise ArtifactError(f"its certificate is for a variant {_text(certificate, 'variant')!r}, not {tag!r}")
    if certificate.get("of") != original.digest:
        raise ArtifactError("it was made of other bytes than this original; run `onnxferry optimize` again")
    _check_same_task(file, original)
    sizes = certificate.get("bytes")
    original_bytes = sizes[0] if isinstance(sizes, list) and sizes and type(sizes[0]) is int and sizes[0] > 0 else 0
    score = certificate.get("score")
    return Variant(
        tag=tag,
        file=file,
        goal=_text(certificate, "goal"),
        budget=_text(certificate, "budget"),
        data=_text(certificate, "data"),
        score=dict(score) if isinstance(score, Mapping) else {},
        speed=certified_speeds(certificate.get("speed")),
        original_bytes=original_bytes,
        variant_bytes=file.summary.file_bytes,
        device=_text(certificate, "device") or "cpu",  # the first certificates did not say
        machine=_text(certificate, "machine"),
        onnxruntime=_text(certificate, "onnxruntime"),
        backends=certified_backends(certificate),
    )


def _check_same_task(file: Description, described: Description) -> None:
    """A variant replaces its original, so it has the same task, takes the same inputs and has outputs of the same names and dtypes."""
    source, contract = described.contract, file.contract
    variant, original = file.summary, described.summary
    if source is not None and contract is not None and (source.kind, source.labels) != (contract.kind, contract.labels):
        raise ArtifactError("its contract promises another task or other labels than the original's")
    for what, theirs, ours in (
        ("inputs", variant.inputs, original.inputs),
        ("optional inputs", variant.optional_inputs, original.optional_inputs),
    ):
        if _taken(theirs) != _taken(ours):
            raise ArtifactError(f"its {what} are not the original's: {_listed(theirs)}, expected {_listed(ours)}")
    if {spec.name: spec.dtype for spec in variant.outputs} != {spec.name: spec.dtype for spec in original.outputs}:
        raise ArtifactError(f"its outputs are not the original's: {_listed(variant.outputs)}, expected {_listed(original.outputs)}")


def _taken(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, bool, tuple[int | None, ...]]]:
    """What inputs take: dtype and sizes by name; what a dynamic axis is called does not matter."""
    sizes = {spec.name: tuple(size if isinstance(size, int) else None for size in spec.shape) for spec in specs}
    return {spec.name: (spec.dtype, spec.ranked, sizes[spec.name]) for spec in specs}


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs)) or "none"


def _text(certificate: Mapping[str, Any], key: str) -> str:
    value = certificate.get(key)
    return value[:_WORDS] if isinstance(value, str) else ""


def certified_backends(certificate: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Which back ends a variant is certified for, and what the certificate says of each: rms, speed and, of others than ONNX Runtime,
    version, precision and CPU features. The one that it was made for comes first; the first certificates did not say, and were of
    ONNX Runtime."""
    listed = certificate.get("backends")
    others = listed.items() if isinstance(listed, Mapping) else ()
    found = {name: entry for name, entry in others if re.fullmatch(r"[a-z0-9-]{1,64}", str(name)) and isinstance(entry, Mapping)}
    return found if certificate.get("backend", ORT) != ORT else {ORT: certificate, **found}


def certified_speeds(value: object) -> dict[int, float]:
    """``{"1": 2.1, "64": 1.5}`` with numbers for keys; what is no batch size or no ratio is left out."""
    found = {}
    for batch, ratio in value.items() if isinstance(value, Mapping) else ():
        if re.fullmatch(r"[1-9][0-9]{0,6}", str(batch)) and type(ratio) in (int, float) and 0 < ratio < math.inf:
            found[int(batch)] = float(ratio)
    return dict(sorted(found.items()))
