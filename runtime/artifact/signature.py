"""Signatures over model files, in the format of OpenSSF Model Signing (OMS): who holds a public key can tell whether a file, or a folder
of files, is what the holder of the private key signed.

    sign_model("model.onnx", "private.pem")                    # writes model.onnx.sig
    verify_signature("model.onnx", "public.pem").files         # ("model.onnx",), or CheckFailedError

The signature is a file of its own, a Sigstore bundle: a DSSE envelope around an in-toto statement that lists every file with its SHA-256,
signed with ECDSA on P-256, P-384 or P-521. The ``model_signing`` command of that project verifies it, and its signatures with keys
are verified here. A bundle says nothing of who holds the key: that is for the public key's owner to publish.

Sources: https://github.com/sigstore/model-transparency (predicate ``https://model_signing/signature/v1.0``),
https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md, https://docs.sigstore.dev/about/bundle/
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from onnxferry.runtime.errors import CheckFailedError, InputError, MissingExtraError
from onnxferry.runtime.files import write_text_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

CURVES = ("secp256r1", "secp384r1", "secp521r1")
MAX_BUNDLE_BYTES = 16 * 2**20  # some 60,000 files
# Left out by the format: they change without the model's doing.
_GIT = (".git", ".gitattributes", ".github", ".gitignore")


@dataclass(frozen=True)
class SignedModel:
    """What a verified signature covers."""

    files: tuple[str, ...]  # relative to the folder; of one file, its name
    signature: Path
    key_sha256: str  # of the public key in PEM, by which a bundle names its key


def sign_model(
    path: str | os.PathLike[str],
    key: str | os.PathLike[str],
    *,
    signature: str | os.PathLike[str] | None = None,
    password: str | None = None,
) -> SignedModel:
    """Sign a file, or a folder with everything in it.

    ``key``: an elliptic-curve private key (P-256, P-384, P-521) in PEM, with ``password`` if it is encrypted.
    ``signature``: where to write; ``PATH.sig`` beside a file, ``model.sig`` in a folder, if not given.

    Raises InputError for a path, a key or a password that does not fit, and for symbolic links in the folder.
    """
    model, target = Path(path), _signature_path(path, signature)
    private = _private_key(Path(key), password)
    public = private.public_key()
    ignored = _ignored(model, target)
    digests = dict(_digests(model, ignored))
    statement = json.dumps(_statement(model, digests, ignored), indent=2).encode()
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": _key_sha256(public)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(statement).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(private.sign(_to_be_signed(statement), _algorithm(public))).decode(), "keyid": ""}],
        },
    }
    write_text_whole(target, json.dumps(bundle))
    return SignedModel(_names(model, digests), target, _key_sha256(public))


def verify_signature(
    path: str | os.PathLike[str], key: str | os.PathLike[str], *, signature: str | os.PathLike[str] | None = None
) -> SignedModel:
    """Verify that the signature was made with the private key of the public ``key`` (PEM), and that every file is as it was signed.

    A file that was changed, removed or added fails. Raises CheckFailedError for all that, and InputError for a path or a key that does
    not fit.
    """
    model, source = Path(path), _signature_path(path, signature)
    public = _public_key(Path(key))
    envelope, hint = _envelope(source)
    if hint and hint != _key_sha256(public):
        raise CheckFailedError(
            f"{source} was made with another key: the SHA-256 of its public key is {hint}, yours is {_key_sha256(public)}"
        )
    payload = _decoded(envelope["payload"], source)
    _verify(public, envelope["signature"], payload, source)
    signed, ignored = _signed_digests(payload, source)
    found = dict(_digests(model, {*ignored, *_ignored(model, source)}))
    changed = [name for name in signed if name in found and signed[name] != found[name]]
    for names, what in (
        (changed, "changed since it was signed"),
        ([name for name in signed if name not in found], "was signed and is missing"),
        ([name for name in found if name not in signed], "was not signed"),
    ):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckFailedError(f"{model / names[0] if names[0] != '.' else model} {what}{more}: get it again from who signed it")
    return SignedModel(_names(model, signed), source, _key_sha256(public))


def _signature_path(path: str | os.PathLike[str], signature: str | os.PathLike[str] | None) -> Path:
    model = Path(path)
    if not model.exists():
        raise InputError(f"no such file or folder: {model}")
    if signature is not None:
        return Path(signature)
    return model / "model.sig" if model.is_dir() else model.with_name(f"{model.name}.sig")


def _ignored(model: Path, signature: Path) -> set[str]:
    """Names that the format leaves out, relative to the folder."""
    if not model.is_dir():
        return set(_GIT)
    try:
        return {*_GIT, signature.resolve().relative_to(model.resolve()).as_posix()}
    except ValueError:  # it lies elsewhere
        return set(_GIT)


def _digests(model: Path, ignored: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names and SHA-256 of the files, in the order in which the format joins them. One file alone is called ``.``."""
    if not model.is_dir():
        yield ".", _sha256(model)
        return
    left_out = set(ignored)
    for file in sorted(model.rglob("*"), key=lambda path: path.relative_to(model).as_posix()):
        name = file.relative_to(model).as_posix()
        if any(parent in left_out for parent in (name, *(p.as_posix() for p in PurePosixPath(name).parents))):
            continue
        if file.is_symlink():
            raise InputError(f"{file} is a symbolic link, which the signature would not hold: put the file itself there")
        if file.is_file():
            yield name, _sha256(file)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _names(model: Path, digests: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(model.name if name == "." else name for name in digests)


def _statement(model: Path, digests: Mapping[str, str], ignored: Iterable[str]) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": model.resolve().name, "digest": {"sha256": _root_digest(digests.values())}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": sorted(ignored)},
            "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()],
        },
    }


def _root_digest(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _to_be_signed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _envelope(path: Path) -> tuple[dict[str, str], str]:
    """Payload and signature of a bundle, in base64, and its hint at the key."""
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise CheckFailedError(f"{path} is no signature: it is larger than {MAX_BUNDLE_BYTES} bytes")
        bundle = json.loads(path.read_bytes())
        if bundle["mediaType"] != BUNDLE_TYPE:
            raise CheckFailedError(f"{path} is a bundle of the type {bundle['mediaType']!r}, expected {BUNDLE_TYPE!r}")
        material, envelope = bundle["verificationMaterial"], bundle["dsseEnvelope"]
        if "publicKey" not in material:
            raise CheckFailedError(f"{path} was signed with a certificate or an identity, and only signatures with a key are verified here")
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise CheckFailedError(f"{path} holds a payload of the type {envelope['payloadType']!r}, expected {PAYLOAD_TYPE!r}")
        (one,) = envelope["signatures"]
        return {"payload": str(envelope["payload"]), "signature": str(one["sig"])}, str(material["publicKey"].get("hint") or "")
    except FileNotFoundError:
        raise InputError(f"no such signature: {path}; give it with --signature, or make it with onnxferry sign") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckFailedError(f"{path} is no signature in the format of OpenSSF Model Signing") from error


def _decoded(text: str, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise CheckFailedError(f"{path} is no signature in the format of OpenSSF Model Signing") from error


def _verify(public: ec.EllipticCurvePublicKey, signature: str, payload: bytes, path: Path) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(_decoded(signature, path), _to_be_signed(payload), _algorithm(public))
    except InvalidSignature:
        raise CheckFailedError(f"{path} was not made with the private key of this public key, or was changed afterwards") from None


def _signed_digests(payload: bytes, path: Path) -> tuple[dict[str, str], set[str]]:
    """Names and digests that the statement lists, and the names that it left out. Only called with a verified payload."""
    try:
        statement = json.loads(payload)
        if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != PREDICATE_TYPE:
            raise CheckFailedError(f"{path} holds a statement of the type {statement['predicateType']!r}, expected {PREDICATE_TYPE!r}")
        predicate, (subject,) = statement["predicate"], statement["subject"]
        how = predicate["serialization"]
        if (how["method"], how["hash_type"]) != ("files", "sha256"):
            raise CheckFailedError(f"{path} lists files by {how['method']}, {how['hash_type']}; expected files, sha256: sign it so")
        digests = {str(each["name"]): str(each["digest"]) for each in predicate["resources"]}
        if not digests or len(digests) != len(predicate["resources"]) or subject["digest"]["sha256"] != _root_digest(digests.values()):
            raise CheckFailedError(f"{path} contradicts itself: its files do not give its own digest")
        return digests, {str(name) for name in how.get("ignore_paths", ())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckFailedError(f"{path} holds no statement of the type {PREDICATE_TYPE!r}") from error


def _private_key(path: Path, password: str | None) -> ec.EllipticCurvePrivateKey:
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    data = _key_bytes(path)
    try:
        key = serialization.load_pem_private_key(data, password.encode() if password is not None else None)
    except TypeError as error:  # a password too many or too few
        raise InputError(f"{path}: {error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no private key in PEM, or the password is wrong") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise InputError(f"{path} is no key on one of the curves P-256, P-384, P-521: make one with {_MAKE_KEY}")
    return key


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    _need_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(_key_bytes(path))
    except ValueError as error:
        raise InputError(f"{path} is no public key in PEM: make it with openssl ec -in private.pem -pubout -out public.pem") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise InputError(f"{path} is no key on one of the curves P-256, P-384, P-521: make one with {_MAKE_KEY}")
    return key


_MAKE_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem"


def _key_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {path} cannot be read: {error.strerror}") from error


def _key_sha256(public: ec.EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives import serialization

    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _algorithm(public: ec.EllipticCurvePublicKey) -> ec.ECDSA:
    """The hash that goes with the curve's size, by Sigstore's list of algorithms."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[public.curve.key_size])


def _need_cryptography() -> None:
    try:
        import cryptography.hazmat.primitives  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("cryptography", "sign", "signing and verifying models") from error
