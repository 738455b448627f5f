"""Dates as people write them in 27 languages, and as ISO 8601 has them: what ``onnxferry train seq2seq`` trains on by default.

Formats and names are those of the Unicode CLDR, which the package Babel brings (its data: Unicode License v3); formats of hands, other
digits, eras and numbers in Chinese characters stand in :mod:`onnxferry.train.data.pairs.date_writing`. A text is then changed as hands
change it: lower and upper case, missing accents, commas, dots and spaces, more spaces.

**What is ambiguous is left out.** A text is made only if a reader who does not know its language can tell the date:

- names of months and days, eras, Roman months, words and signs of a language (年, ngày, "le") and local digits show the order;
- numbers alone: the year first is year, month, day; with dots the day is first; with / or - (3/4/2019 is April in London and March
  in Boston) only where the day is above 12 or equal to the month;
- English is written in both orders, so a day of the week does not help there;
- a year of two digits appears beside a name, a sign such as 年 or an apostrophe, or is above 31. It is 1969 to 2068, as POSIX reads it;
- a year from 2443 on is one of the Buddhist era.

**What is held out.** Of the days from 1900 to 2099 a tenth is for the test and a twentieth for choosing the epoch; neither is ever trained
on. Of each language's formats a tenth is for the test and a twentieth for choosing: a new arrangement of fields each of which the
language's other formats have. Both splits depend on nothing but the day and the format.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from onnxferry.runtime.errors import MissingExtraError
from onnxferry.train.data.pairs.date_writing import DIGITS, LOCAL_DIGITS, LOCALES, Format, Names, plain_text
from onnxferry.train.data.pairs.tsv import TEST_SHARE, VALIDATION_SHARE, Pair, PairSplits, digest_of
from onnxferry.train.data.progress import Progress, no_progress

DATES = "dates"


FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)


COUNT = 250_000
"""Pairs to train on."""


PER_LANGUAGE = 200
"""Pairs of each language in the test, of new days in known formats, and as many of new days in new formats."""


TEST, VALIDATION, TRAIN = "test", "validation", "train"


NUMBERS_SHARE = 0.4
"""How often a format of numbers alone is drawn, compared with others: languages share them."""


def load_dates(count: int = COUNT, per_language: int = PER_LANGUAGE, *, seed: int = 0, progress: Progress = no_progress) -> PairSplits:
    """``count`` pairs to train on, and those to choose by and to test on; the same arguments and the same Babel give the same pairs.

        splits = load_dates(1000)
        splits.train[0]     # (b'3 mars 2019', b'2019-03-03')

    The test's groups are ``dates`` (new days, known formats), ``formats`` (new days, new formats), and each language's code.
    Raises MissingExtraError without Babel.
    """
    writers = _writers()
    total = count + 3 * per_language * len(writers)
    made = 0

    def pairs(split: str, form: str, languages: Sequence[str], number: int, key: int) -> Iterator[tuple[str, Pair]]:
        nonlocal made
        generator = np.random.default_rng((seed, key))
        for at in range(number):
            language = languages[at % len(languages)]
            writer = writers[language]
            yield language, writer.pair(split, form, generator)
            made += 1
            if made % 2000 == 0:
                progress("dates", made, total, "texts")

    languages = list(writers)
    train = [pair for _, pair in pairs(TRAIN, TRAIN, languages, count, 1)]
    choosing = max(1, per_language // 4) * len(languages)
    validation = [pair for key, form in ((2, VALIDATION), (3, TRAIN)) for _, pair in pairs(VALIDATION, form, languages, choosing, key)]
    test: list[Pair] = []
    groups: dict[str, list[int]] = {"dates": [], "formats": [], **{language: [] for language in languages}}
    for group, form, key in (("dates", TRAIN, 4), ("formats", TEST, 5)):
        for language, pair in pairs(TEST, form, languages, per_language * len(languages), key):
            groups[group].append(len(test))
            groups[language].append(len(test))
            test.append(pair)
    content = b"\n".join(source + b"\t" + target for source, target in (*train, *validation, *test))
    return PairSplits(
        DATES,
        train,
        validation,
        test,
        digest_of(content),
        "dates of the Unicode CLDR (Unicode License v3), written by onnxferry",
        {name: tuple(rows) for name, rows in groups.items() if rows},
    )


@functools.cache
def _writers() -> dict[str, DateWriter]:
    try:
        import babel  # noqa: F401  (asked for here, so that the error comes before the work)
    except ImportError as error:
        raise MissingExtraError("babel", "train", "dates as people write them") from error
    return {language: DateWriter(Names(language)) for language in LOCALES}


class DateWriter:
    """Writes dates of one language in the formats of a split."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.formats = _splits(names)
        self._shares = {split: _shares(forms) for split, forms in self.formats.items() if forms}

    def pair(self, days: str, formats: str, generator: np.random.Generator) -> Pair:
        """A day of the split ``days`` in a format of the split ``formats``: what is written, and the ISO date, both UTF-8."""
        forms = self.formats[formats]
        while True:
            form = forms[int(np.searchsorted(self._shares[formats], generator.random(), side="right"))]
            local = generator.random() < LOCAL_DIGITS.get(form.language, 0.0) and "hy" not in form.fields
            for _ in range(20):
                date = _day(days, generator)
                if form.certain(date, local):
                    text = plain_text(form, date, self.names, generator)
                    return by_hand(text, form.language, local, generator).encode(), date.isoformat().encode()


def _shares(forms: Sequence[Format]) -> np.ndarray:
    """The running sum of the chances of formats, (n,), which ends with 1."""
    weights = np.cumsum([NUMBERS_SHARE if form.numbers_only else 1.0 for form in forms])
    shares: np.ndarray = weights / weights[-1]
    return shares


def _share(*parts: str) -> float:
    """A number in [0, 1) that the parts alone decide."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big") / 2**64


@functools.cache
def _split_of_day(ordinal: int) -> str:
    return _split_at(_share("day", str(ordinal)))


def _split_at(share: float) -> str:
    return TEST if share < TEST_SHARE else VALIDATION if share < TEST_SHARE + VALIDATION_SHARE else TRAIN


def _splits(names: Names) -> dict[str, list[Format]]:
    """Formats by split, in the order in which the language has them.

    Those of numbers alone are split for all languages at once. Of the others those with the lowest numbers that their names give are held
    out, if the remaining ones have all their fields and words.
    """
    held: dict[Format, str] = {}
    own = [form for form in names.formats if not form.shared]
    for form in names.formats:
        if form.shared and (split := _split_at(_share("format", *form.key))) != TRAIN:
            held[form] = split
    wanted = [TEST] * max(1, round(TEST_SHARE * len(own))) + [VALIDATION] * max(1, round(VALIDATION_SHARE * len(own)))
    for form in sorted(own, key=lambda form: _share("format", *form.key)):
        if not wanted:
            break
        others = [other for other in names.formats if other not in held and other != form]
        known = {field for other in others for field in other.fields} | {word for other in others for word in _words(other)}
        if set(form.fields) | _words(form) <= known:
            held[form] = wanted.pop(0)
    return {split: [form for form in names.formats if held.get(form, TRAIN) == split] for split in (TRAIN, VALIDATION, TEST)}


def _words(form: Format) -> set[str]:
    """What a format has besides its fields and punctuation."""
    bare = form.text
    for field in form.fields:
        bare = bare.replace(f"{{{field}}}", " ")
    return set("".join(c if c.isalpha() else " " for c in bare).split())


def _day(split: str, generator: np.random.Generator) -> datetime.date:
    while True:
        ordinal = int(generator.integers(FIRST.toordinal(), LAST.toordinal() + 1))
        if _split_of_day(ordinal) == split:
            return datetime.date.fromordinal(ordinal)


def by_hand(text: str, language: str, local_digits: bool, generator: np.random.Generator) -> str:
    """A text as hands change it: digits, case, accents, punctuation, spaces."""
    chance = generator.random(10)
    if local_digits:
        text = text.translate(str.maketrans("0123456789", DIGITS[language]))
    if chance[0] < 0.18:
        text = text.lower()
    elif chance[0] < 0.3:
        text = text.upper()
    elif chance[0] < 0.38:
        text = text[:1].upper() + text[1:]
    text = text.replace("i̇", "i")  # what lower() makes of a Turkish İ
    if chance[1] < 0.15 and language not in ("hi", "th", "ja", "ko", "ar"):
        text = unicodedata.normalize("NFC", "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)))
    elif chance[1] < 0.18:
        text = unicodedata.normalize("NFD", text)  # as macOS names files
    if chance[2] < 0.12:
        text = text.replace(",", "").replace("،", "")
    if chance[3] < 0.15:  # dots after letters only: those between numbers show the order
        text = "".join(c for at, c in enumerate(text) if c != "." or not at or not text[at - 1].isalpha() or language == "th")
    if chance[4] < 0.8:
        text = text.replace("\u202f", " ").replace("\xa0", " ")
    if "'" in text:
        text = text.replace("'", "'’‘'"[int(4 * chance[5])])
    if chance[6] < 0.07:
        text = text.replace(", ", ",").replace(". ", ".")
    if chance[7] < 0.06:
        text = text.replace(" ", "  ")
    if chance[8] < 0.08:
        text = (" " + text, text + " ", text + "\n", "  " + text + " ")[int(4 * chance[9])]
    return text
