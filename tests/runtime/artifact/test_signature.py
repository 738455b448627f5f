"""Signatures hold files to what was signed, and are those of OpenSSF Model Signing's own command, in both directions.

``signed_by_model_signing/`` holds a folder that its version 1.1.1 signed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from onnxferry.runtime.artifact.signature import sign_model, verify_signature
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import CheckFailedError, InputError, MissingExtraError

THEIRS = Path(__file__).parent / "signed_by_model_signing"


def write_key(folder: Path, key: Any, name: str = "", password: bytes | None = None) -> tuple[Path, Path]:
    private, public = folder / f"{name}private.pem", folder / f"{name}public.pem"
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_key(tmp_path, ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "model"
    (found / "sub").mkdir(parents=True)
    (found / "model.onnx").write_bytes(b"graph")
    (found / "sub" / "weights.data").write_bytes(b"weights")
    return found


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_file_and_a_folder_are_verified(tmp_path: Path, folder: Path, curve: ec.EllipticCurve) -> None:
    private, public = write_key(tmp_path, ec.generate_private_key(curve))
    file = folder / "model.onnx"
    assert sign_model(file, private).signature == folder / "model.onnx.sig"
    assert verify_signature(file, public).files == ("model.onnx",)
    elsewhere = tmp_path / "folder.sig"
    sign_model(folder, private, signature=elsewhere)
    assert verify_signature(folder, public, signature=elsewhere).files == ("model.onnx", "model.onnx.sig", "sub/weights.data")
    assert sign_model(folder, private).signature == folder / "model.sig"
    assert "model.sig" not in verify_signature(folder, public).files
    sign_model(folder, private)  # again, over its own signature
    verify_signature(folder, public)


def test_every_change_is_found(tmp_path: Path, folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    sign_model(folder, private)
    weights = folder / "sub" / "weights.data"
    weights.write_bytes(b"weighty")
    with pytest.raises(CheckFailedError, match=r"weights\.data changed since it was signed"):
        verify_signature(folder, public)
    weights.unlink()
    with pytest.raises(CheckFailedError, match="was signed and is missing"):
        verify_signature(folder, public)
    weights.write_bytes(b"weights")
    (folder / "extra.txt").write_text("x")
    with pytest.raises(CheckFailedError, match=r"extra\.txt was not signed"):
        verify_signature(folder, public)
    (folder / "extra.txt").unlink()
    weights.rename(folder / "sub" / "renamed.data")
    with pytest.raises(CheckFailedError):
        verify_signature(folder, public)


def test_another_key_and_a_changed_bundle_are_refused(tmp_path: Path, folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    file = folder / "model.onnx"
    signature = sign_model(file, private).signature
    _, other = write_key(tmp_path, ec.generate_private_key(ec.SECP256R1()), "other-")
    with pytest.raises(CheckFailedError, match="was made with another key"):
        verify_signature(file, other)
    bundle = json.loads(signature.read_text())
    bundle["verificationMaterial"]["publicKey"].pop("hint")
    signature.write_text(json.dumps(bundle))
    verify_signature(file, public)
    with pytest.raises(CheckFailedError, match="was not made with the private key of this public key"):
        verify_signature(file, other)
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][0]["digest"] = "00" * 32
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    signature.write_text(json.dumps(bundle))
    with pytest.raises(CheckFailedError, match="was not made with the private key of this public key"):
        verify_signature(file, public)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "[" * 100_000, '{"mediaType": 1}', '{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}'],
)
def test_what_is_no_bundle_is_one_error(folder: Path, keys: tuple[Path, Path], text: str) -> None:
    (folder / "model.onnx.sig").write_text(text)
    with pytest.raises(CheckFailedError):
        verify_signature(folder / "model.onnx", keys[1])


def test_bundles_with_any_part_missing_or_of_another_type_are_one_error(folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    file = folder / "model.onnx"
    signature = sign_model(file, private).signature
    whole = signature.read_text()

    def damaged(value: Any) -> Any:
        """Every copy of the document with one part taken out or exchanged."""
        if isinstance(value, dict):
            for key in value:
                yield {k: v for k, v in value.items() if k != key}
                for other in (None, 1, [], {}, "x"):
                    yield {**value, key: other}
                yield from ({**value, key: inner} for inner in damaged(value[key]))
        elif isinstance(value, list):
            for i, each in enumerate(value):
                yield from ([*value[:i], inner, *value[i + 1 :]] for inner in damaged(each))

    count = 0
    for document in damaged(json.loads(whole)):
        signature.write_text(json.dumps(document))
        # What the signature does not cover may be missing: the hint at the key, the list of logs, the key's id.
        try:
            verify_signature(file, public)
        except CheckFailedError:
            count += 1
    assert count > 40


def test_keys_that_do_not_fit(tmp_path: Path, folder: Path) -> None:
    file = folder / "model.onnx"
    rsa_private, rsa_public = write_key(tmp_path, rsa.generate_private_key(65537, 2048), "rsa-")
    locked, _ = write_key(tmp_path, ec.generate_private_key(ec.SECP256R1()), "locked-", b"word")
    for key, password, words in (
        (rsa_private, None, "no key on one of the curves"),
        (rsa_public, None, "no private key in PEM"),
        (locked, None, "Password was not given"),
        (locked, "other", "or the password is wrong"),
        (tmp_path / "absent.pem", None, "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            sign_model(file, key, password=password)
    sign_model(file, locked, password="word")
    with pytest.raises(InputError, match="no public key in PEM"):
        verify_signature(file, locked)
    with pytest.raises(InputError, match="no such file or folder"):
        sign_model(folder / "absent", locked, password="word")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_are_refused(tmp_path: Path, folder: Path, keys: tuple[Path, Path]) -> None:
    (folder / "link").symlink_to(tmp_path / "private.pem")
    with pytest.raises(InputError, match="is a symbolic link"):
        sign_model(folder, keys[0])


def test_signatures_of_model_signing_are_verified(tmp_path: Path) -> None:
    copy = shutil.copytree(THEIRS, tmp_path / "theirs")
    public = copy / "public.pem"
    assert verify_signature(copy / "folder", public, signature=copy / "folder.sig").files == ("model.onnx", "sub/notes.txt")
    assert verify_signature(copy / "folder" / "model.onnx", public, signature=copy / "model.sig").files == ("model.onnx",)
    (copy / "folder" / "sub" / "notes.txt").write_text("other notes")
    with pytest.raises(CheckFailedError, match=r"notes\.txt changed"):
        verify_signature(copy / "folder", public, signature=copy / "folder.sig")


@pytest.mark.network
@pytest.mark.slow
def test_model_signing_verifies_ours(tmp_path: Path, folder: Path, keys: tuple[Path, Path]) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True, symlinks=os.name != "nt")
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    # pyopenssl is imported by it and not among what it requires.
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "model-signing>=1.1,<2", "pyopenssl"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0 and not os.environ.get("CI"):
        pytest.skip(f"model-signing cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    private, public = keys

    def theirs(path: Path, signature: Path) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "model_signing", "verify", "key", path, "--public_key", public, "--signature", signature]
        return subprocess.run(command, capture_output=True, text=True)

    file = folder / "model.onnx"
    for path in (file, folder):
        signature = sign_model(path, private).signature
        found = theirs(path, signature)
        assert found.returncode == 0, found.stderr
    file.write_bytes(b"other")
    assert theirs(folder, folder / "model.sig").returncode != 0


def test_the_command_line(tmp_path: Path, folder: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    private, public = map(str, keys)
    file = str(folder / "model.onnx")
    assert main(["sign", file, "--key", private]) == 0
    assert "onnxferry verify-signature" in capsys.readouterr().out
    assert main(["verify-signature", file, "--key", public, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["model.onnx"]
    Path(file).write_bytes(b"other")
    assert main(["verify-signature", file, "--key", public]) == 1
    assert "changed since it was signed" in capsys.readouterr().err


def test_without_cryptography_the_install_line_is_shown(folder: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(MissingExtraError, match=r"onnxferry\[sign\]"):
        sign_model(folder / "model.onnx", keys[0])
