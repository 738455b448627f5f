"""``onnxferry sign`` and ``onnxferry verify-signature``: signatures over model files, in the format of OpenSSF Model Signing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from onnxferry.runtime.artifact.signature import SignedModel, sign_model, verify_signature
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.cli.console import JsonOption, command, new_app, plain, print_json, print_next, stdout

signing_app = new_app()


verifying_app = new_app()


PathArgument = Annotated[str, typer.Argument(metavar="PATH", help="A file, a folder, or the name of a shipped model.", show_default=False)]


SignatureOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PATH.sig beside a file, model.sig in a folder, if not given.", show_default=False)
]


@signing_app.command()
def sign(
    path: PathArgument,
    key: Annotated[Path, typer.Option(metavar="PEM", help="Private key on P-256, P-384 or P-521.", show_default=False)],
    signature: SignatureOption = None,
    password: Annotated[str | None, typer.Option(envvar="ONNXFERRY_KEY_PASSWORD", help="Of an encrypted key.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a model file, or a folder with everything in it.

    The signature is a file of its own, in the format of OpenSSF Model Signing: the model_signing command verifies it too. For a model of
    several files (weights outside, an autoencoder's two), sign their folder.

    ```
    openssl ecparam -name prime256v1 -genkey -noout -out private.pem
    openssl ec -in private.pem -pubout -out public.pem
    onnxferry sign model.onnx --key private.pem
    onnxferry verify-signature model.onnx --key public.pem
    ```

    With --json: path, files, signature, key_sha256.
    """
    found = sign_model(_path(path), key, signature=signature, password=password)
    _print(path, found, "signed", as_json)
    if not as_json:
        print_next(command("verify-signature", path, "--key", "public.pem", *(("--signature", signature) if signature else ())))


@verifying_app.command()
def verify(path: PathArgument, key: Annotated[Path, typer.Option(metavar="PEM", help="The signer's public key.", show_default=False)],
           signature: SignatureOption = None, as_json: JsonOption = False) -> None:  # fmt: skip
    """Verify that a file or a folder is what the holder of the private key signed. Exit code 1 if not.

    Fails where the signature was made with another key, and where a file was changed, removed or added.

    ```
    onnxferry verify-signature model.onnx --key public.pem
    onnxferry verify-signature folder/ --key public.pem --signature folder.sig
    ```

    With --json: path, files, signature, key_sha256.
    """
    _print(path, verify_signature(_path(path), key, signature=signature), "verified", as_json)


def _path(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else find_model(path)


def _print(path: str, found: SignedModel, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"path": path, "files": list(found.files), "signature": str(found.signature), "key_sha256": found.key_sha256})
        return
    files = "1 file" if len(found.files) == 1 else f"{len(found.files)} files"
    stdout().print(Text(f"{what}: {files} of {plain(path)}, signature {plain(found.signature)}", "bold green"), soft_wrap=True)
