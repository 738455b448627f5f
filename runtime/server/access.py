"""Who may do what: bearer tokens, of which only hashes are kept, the models that each may use, and how many requests a second.

The file is TOML, a table a token; ``onnxferry serve --new-token NAME`` prints one:

    [alice]
    sha256 = "6f1ed002ab5595859014ebf0951522d9…"    # of the token, in hexadecimal
    models = ["digits"]                             # all where it is left out
    rate = 50                                       # requests a second, without a limit where it is left out
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.errors import RequestError


@dataclass
class Caller:
    """One token's owner."""

    name: str
    sha256: bytes = b""
    models: frozenset[str] | None = None  # None: all
    rate: float = math.inf
    _tokens: float = field(default=math.nan, repr=False)  # of the bucket: as many as a second's requests
    _filled: float = field(default=0.0, repr=False)

    def admit(self) -> None:
        """Counts one request. Raises RequestError 429 beyond the rate (a token bucket that holds one second's requests, at least one)."""
        if self.rate == math.inf:
            return
        now, size = time.monotonic(), max(1.0, self.rate)
        left = size if math.isnan(self._tokens) else min(size, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if left < 1:
            self._tokens = left
            raise RequestError(429, f"more than {self.rate:g} requests a second, as many as this token allows", (1 - left) / self.rate)
        self._tokens = left - 1

    def check_model(self, name: str) -> None:
        """Raises RequestError 403 for a model that this token may not use."""
        if self.models is not None and name not in self.models:
            raise RequestError(403, f"this token may not use the model {name[:60]!r}")


class Access:
    """Finds the caller of a request. Without any token everybody is one caller."""

    def __init__(self, callers: Mapping[str, Caller] | None = None) -> None:
        self.callers = list((callers or {}).values())
        self.everybody = Caller("everybody")

    def caller(self, authorization: str | None) -> Caller:
        """The caller for the value of an Authorization header. Raises RequestError 401 for a token that is missing or unknown."""
        if not self.callers:
            return self.everybody
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RequestError(401, "a token is needed: send the header Authorization: Bearer TOKEN")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for caller in self.callers:  # all of them are compared, each in constant time
            if hmac.compare_digest(caller.sha256, given):
                found = caller
        if found is None:
            raise RequestError(401, "this token is unknown")
        return found


def read_access(path: str, environment_token: str = "") -> Access:
    """Reads the file of tokens. ``environment_token``: one more, in plain text. Raises InputError for a file that is not as it must be."""
    callers: dict[str, Caller] = {}
    if path:
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"the tokens in {path} cannot be read: {error}") from error
        callers = {name: _caller(path, name, entry) for name, entry in document.items()}
        if not callers:
            raise InputError(f"{path} holds no token; make one with: onnxferry serve --new-token NAME >> {path}")
    if environment_token:
        callers["ONNXFERRY_SERVE_TOKEN"] = Caller("ONNXFERRY_SERVE_TOKEN", hashlib.sha256(environment_token.encode()).digest())
    return Access(callers)


def new_token(name: str) -> tuple[str, str]:
    """A token of 256 random bits, which is shown once, and its entry for the file. Raises InputError for a name that is no TOML key."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise InputError(f"the name of a token must be letters, digits, '_' and '-', got {name[:64]!r}")
    token = secrets.token_urlsafe(32)
    return token, f'[{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\n'


def _caller(path: str, name: str, entry: Any) -> Caller:
    wrong = f"{path}: [{name}] must hold sha256, and may hold models and rate"
    if not isinstance(entry, dict) or set(entry) - {"sha256", "models", "rate"}:
        raise InputError(wrong)
    digest, models, rate = entry.get("sha256"), entry.get("models"), entry.get("rate", math.inf)
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise InputError(f"{wrong}; sha256 must be 64 hexadecimal digits")
    if models is not None and not (isinstance(models, list) and all(isinstance(model, str) for model in models)):
        raise InputError(f"{wrong}; models must be a list of names")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise InputError(f"{wrong}; rate must be a number above 0, requests a second")
    return Caller(name, bytes.fromhex(digest), None if models is None else frozenset(models), float(rate))
