"""All words of the demo by language and key. The pages that Python serves and the static site take theirs from here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onnxferry.demo.words import chinese, english, families_chinese, families_english, static_chinese, static_english

LANGUAGES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "en": {**english.WORDS, **families_english.WORDS, **static_english.WORDS},
        "zh": {**chinese.WORDS, **families_chinese.WORDS, **static_chinese.WORDS},
    }
)


NAMES: Mapping[str, str] = MappingProxyType({"en": "English", "zh": "中文"})
