"""How dates are written, language by language: formats of the CLDR, those that people use besides, and what their hands change.

A format is text with fields in braces: ``{d} {MMMM} {y}``. The fields d, dd, M, MM, MMM, MMMM, y, yy, E, EEEE and G are the CLDR's
(Unicode Technical Standard 35, part 4). Others are ours:

=============  ====================================================================================================
``o``          the day as an ordinal number where the language has one: 1st, 1er, 1º, 3:e
``R``          the month as a Roman number
``hy hm hd``   year, month and day in Chinese characters: 二〇一九, 十二, 三十一
``era``        a Japanese era and the year in it: 令和元, 平成31
``Era``        the same with the era's Latin letter: R1, H31
``roc``        the year of the Republic of China (from 1912)
``be``         the year of the Buddhist era, 543 more
=============  ====================================================================================================
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LOCALES: Mapping[str, tuple[str, ...]] = {
    "en": ("en_US", "en_GB"), "fr": ("fr",), "de": ("de",), "es": ("es",), "it": ("it",), "pt": ("pt",), "nl": ("nl",),
    "pl": ("pl",), "cs": ("cs",), "ru": ("ru",), "uk": ("uk",), "sv": ("sv",), "da": ("da",), "nb": ("nb",), "fi": ("fi",),
    "tr": ("tr",), "el": ("el",), "hu": ("hu",), "ro": ("ro",), "id": ("id",), "vi": ("vi",), "zh": ("zh_Hans", "zh_Hant"),
    "ja": ("ja",), "ko": ("ko",), "ar": ("ar",), "hi": ("hi",), "th": ("th",),
}  # fmt: skip
"""Language to the locales whose formats and names it has. Croatian is left out: its listopad is October, that of Polish November."""


BY_HAND: Mapping[str, tuple[str, ...]] = {
    "en": (
        "{o} of {MMMM} {y}", "the {o} of {MMMM}, {y}", "{MMMM} {o}, {y}", "{MMM} {o} {y}", "{MMM} {d}, '{yy}", "{MMMM} {d}, '{yy}",
        "{d} {MMM} '{yy}", "{d}-{MMM}-{y}", "{d}-{MMM}-{yy}", "{dd}{MMM}{y}", "{MMM} {d} {y}", "{MMMM} {d} {y}", "{E} {d} {MMM} {y}",
        "{y} {MMM} {d}", "{MMM}. {d}, {y}", "{y}-{MMM}-{dd}", "{EEEE}, {MMMM} {o}, {y}", "on {MMMM} {d}, {y}", "on {d} {MMMM} {y}",
        "{d}/{MMM}/{y}",
    ),
    "fr": ("le {d} {MMMM} {y}", "le {EEEE} {d} {MMMM} {y}", "{o} {MMMM} {y}", "le {o} {MMMM} {y}", "{d} {MMMM} '{yy}",
           "le {dd}/{MM}/{y}", "le {d} {MMM} {y}", "{E} {o} {MMM} {y}", "{d}-{MMM}-{y}"),
    "de": ("{d}.{MMMM} {y}", "den {d}. {MMMM} {y}", "{EEEE}, den {d}. {MMMM} {y}", "am {d}. {MMMM} {y}", "{d}. {MMM} '{yy}",
           "am {d}.{M}.{y}", "{d} {MMMM} {y}", "{d}. {MMMM} '{yy}", "{E} {d}. {MMM} {y}"),
    "es": ("{d} {MMMM} {y}", "el {d} de {MMMM} de {y}", "{d} de {MMMM} del {y}", "{EEEE} {d} de {MMMM} de {y}", "{d}-{MMM}-{y}",
           "el {d}/{M}/{y}", "{d} de {MMM} de {y}", "{d}/{MMM}/{y}", "a {d} de {MMMM} de {y}", "{d} {MMM} '{yy}"),
    "it": ("il {d} {MMMM} {y}", "{o} {MMMM} {y}", "il {o} {MMMM} {y}", "{d} {MMMM} '{yy}", "il {d}/{M}/{y}", "{EEEE}, {d} {MMMM} {y}",
           "{d}-{MMM}-{y}"),
    "pt": ("em {d} de {MMMM} de {y}", "{d}/{MMM}/{y}", "dia {d} de {MMMM} de {y}", "{d} {MMM} {y}", "em {dd}/{MM}/{y}",
           "{o} de {MMMM} de {y}", "{EEEE} {d} de {MMMM} de {y}", "{d} de {MMM}. de {y}"),
    "nl": ("{d} {MMMM} '{yy}", "op {d} {MMMM} {y}", "{EEEE}, {d} {MMMM} {y}", "op {d}-{M}-{y}", "{d}-{MMM}-{y}"),
    "pl": ("{d} {R} {y}", "{d} {MMMM} {y} r.", "dnia {d} {MMMM} {y} r.", "{EEEE} {d} {MMMM} {y}", "{d}.{R}.{y}", "{d} {R} {y} r."),
    "cs": ("{d}.{MMMM} {y}", "dne {d}. {MMMM} {y}", "{d} {MMMM} {y}", "dne {d}. {M}. {y}", "{EEEE}, {d}. {MMMM} {y}"),
    "ru": ("{d} {MMMM} {y}", "{d} {MMMM} {y} года", "{d} {MMMM} {y} г.", "от {d} {MMMM} {y} г.", "{EEEE} {d} {MMMM} {y}",
           "{d} {MMM} {y}", "{dd}.{MM}.{y} г."),
    "uk": ("{d} {MMMM} {y}", "{d} {MMMM} {y} року", "{d} {MMMM} {y} р.", "{EEEE} {d} {MMMM} {y}", "{d} {MMM} {y}", "від {d} {MMMM} {y} р."),
    "sv": ("den {d} {MMMM} {y}", "den {o} {MMMM} {y}", "{EEEE} den {d} {MMMM} {y}", "{o} {MMMM} {y}", "{d} {MMMM} -{yy}"),
    "da": ("den {d}. {MMMM} {y}", "{EEEE}, {d}. {MMMM} {y}", "d. {d}. {MMMM} {y}", "{d} {MMMM} {y}", "{d}. {MMMM} '{yy}"),
    "nb": ("den {d}. {MMMM} {y}", "{EEEE}, {d}. {MMMM} {y}", "{d} {MMMM} {y}", "{d}. {MMMM} '{yy}", "{d}.{MMMM} {y}"),
    "fi": ("{EEEE} {d}. {MMMM} {y}", "{d} {MMMM} {y}", "{d}.{MMMM} {y}", "{E} {d}. {MMMM} {y}", "{EEEE}, {d}. {MMMM} {y}"),
    "tr": ("{EEEE}, {d} {MMMM} {y}", "{d} {MMMM} '{yy}", "{d}-{MMM}-{y}", "{d} {MMMM}, {y}", "{d} {MMMM} {y}, {EEEE}"),
    "el": ("στις {d} {MMMM} {y}", "{EEEE}, {d} {MMMM} {y}", "{d} {MMMM} '{yy}", "{d}-{MMM}-{y}", "{d}η {MMMM} {y}"),
    "hu": ("{y}. {R}. {d}.", "{y} {MMMM} {d}.", "{y}. {MMMM} {d}", "{y}. {MMM} {d}", "{y}.{MM}.{dd}.", "{y} {MMMM} {d}",
           "{y}. {MMMM} {d}. {EEEE}"),
    "ro": ("pe {d} {MMMM} {y}", "{d} {R} {y}", "data de {d} {MMMM} {y}", "{EEEE} {d} {MMMM} {y}", "{d}-{MMM}-{y}"),
    "id": ("tanggal {d} {MMMM} {y}", "{EEEE} {d} {MMMM} {y}", "{d} {MMMM} '{yy}", "tgl {d} {MMMM} {y}", "{d}-{MMM}-{y}"),
    "vi": ("ngày {d} tháng {M} năm {y}", "{d} tháng {M}, {y}", "ngày {d}/{M}/{y}", "{EEEE}, ngày {d} tháng {M} năm {y}",
           "ngày {d} tháng {M}, {y}", "{d} tháng {M} {y}", "ngày {d}-{M}-{y}"),
    "zh": ("{y}年{M}月{d}号", "{yy}年{M}月{d}日", "{hy}年{hm}月{hd}日", "{y}.{M}.{d}", "{y}年{MM}月{dd}日", "公元{y}年{M}月{d}日",
           "{y}-{M}-{d}", "{yy}年{M}月{d}号", "{hy}年{hm}月{hd}号", "民國{roc}年{M}月{d}日", "{y} 年 {M} 月 {d} 日",
           "{hy}年{hm}月{hd}日{EEEE}",
           "民国{roc}年{M}月{d}日", "{y}年{M}月{d}日（{E}）", "{y}年{M}月{d}號", "公元{hy}年{hm}月{hd}日"),
    "ja": ("{era}年{M}月{d}日", "{Era}.{M}.{d}", "{yy}年{M}月{d}日", "{y}.{M}.{d}", "{era}年{MM}月{dd}日", "{Era}/{M}/{d}",
           "{era}年{M}月{d}日（{E}）", "{y}年{MM}月{dd}日", "{era}年{M}月{d}日{EEEE}", "西暦{y}年{M}月{d}日", "{y} 年 {M} 月 {d} 日"),
    "ko": ("{y}년 {M}월 {d}일", "{y}.{M}.{d}.", "{y}년{M}월{d}일", "{yy}년 {M}월 {d}일", "'{yy}. {M}. {d}.", "{y}.{M}.{d}",
           "{y}년 {MM}월 {dd}일",
           "{y}년 {M}월 {d}일({E})", "{yy}년{M}월{d}일"),
    "ar": ("{d} {MMMM} {y}م", "{d} {MMMM} سنة {y}", "{EEEE} {d} {MMMM} {y}", "يوم {d} {MMMM} {y}", "{d} {MMMM}، {y}",
           "يوم {EEEE} {d} {MMMM} {y}", "بتاريخ {d}/{M}/{y}"),
    "hi": ("{d} {MMMM} {y}", "दिनांक {d} {MMMM} {y}", "{EEEE} {d} {MMMM} {y}", "{MMMM} {d}, {y}", "दिनांक {d}/{M}/{y}", "{d}-{MMM}-{y}"),
    "th": ("{d} {MMMM} พ.ศ. {be}", "{d} {MMMM} {be}", "{EEEE}ที่ {d} {MMMM} พ.ศ. {be}", "วันที่ {d} {MMMM} {be}", "{d} {MMM} {be}",
           "วันที่ {d} {MMMM} พ.ศ. {be}", "วัน{EEEE}ที่ {d} {MMMM} {be}", "{d} {MMMM} ค.ศ. {y}"),
}  # fmt: skip
"""Formats that people use and the CLDR does not list."""


MORE_MONTHS: Mapping[str, Mapping[str, int]] = {
    "en": {"Sept.": 9, "Sept": 9, "Sep.": 9}, "de": {"Jänner": 1, "Feber": 2, "Mrz": 3, "Juno": 6, "Okt": 10},
    "fr": {"fév.": 2, "jan.": 1}, "es": {"setiembre": 9, "ene.": 1}, "nb": {"mar.": 3}, "ru": {"май": 5},
}  # fmt: skip
"""Names of months besides the CLDR's."""


DIGITS: Mapping[str, str] = {
    "ar": "٠١٢٣٤٥٦٧٨٩",
    "hi": "०१२३४५६७८९",
    "th": "๐๑๒๓๔๕๖๗๘๙",
    "zh": "０１２３４５６７８９",
    "ja": "０１２３４５６７８９",
}
"""Digits besides 0 to 9; for Chinese and Japanese the full-width ones."""


LOCAL_DIGITS: Mapping[str, float] = {"ar": 0.4, "hi": 0.35, "th": 0.25, "zh": 0.06, "ja": 0.06}
"""How often they are used."""


ERAS = (
    (datetime.date(2019, 5, 1), "令和", "R"),
    (datetime.date(1989, 1, 8), "平成", "H"),
    (datetime.date(1926, 12, 25), "昭和", "S"),
    (datetime.date(1912, 7, 30), "大正", "T"),
    (datetime.date(1868, 10, 23), "明治", "M"),
)
"""Japan's eras: first day, name, Latin letter."""


ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")


HAN = "〇一二三四五六七八九"


_FIELD = re.compile(r"\{(\w+)\}")


_NAMES = frozenset({"MMM", "MMMM", "R", "hm", "era", "Era", "roc", "be"})
"""Fields that show which number is the month, or which calendar is meant."""


_UNITS = re.compile(r"[年년]|ngày|tháng|\ble\b|\bel\b|\bil\b|\bem\b|\bam\b|\bop\b|\bdne\b|г\.|بتاريخ|दिनांक")
"""Words that say which language, and so which order, the numbers are in, or that name the parts themselves."""


@dataclass(frozen=True)
class Format:
    """One way to write a date in a language."""

    language: str
    text: str  # with fields in braces

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(_FIELD.findall(self.text))

    @property
    def numbers_only(self) -> bool:
        """True if nothing in it shows a language, or it is English, in which both orders are written."""
        if _NAMES & set(self.fields) or _UNITS.search(self.text):
            return False
        return self.language == "en" or not {"E", "EEEE"} & set(self.fields)

    @property
    def shared(self) -> bool:
        """True if it is the same in every language: of numbers alone."""
        return self.numbers_only and not {"E", "EEEE"} & set(self.fields)

    @property
    def key(self) -> tuple[str, str]:
        """Language and text; the same for all languages that share it."""
        return ("" if self.shared else self.language, self.text)

    def certain(self, date: datetime.date, local_digits: bool = False) -> bool:
        """True if a reader who does not know the language can tell the date: see :mod:`onnxferry.train.data.pairs.dates`."""
        fields = self.fields
        if "roc" in fields and date.year < 1912:
            return False
        if "yy" in fields and not 1969 <= date.year <= 2068:
            return False
        if not self.numbers_only:
            return True
        if "yy" in fields and "'" not in self.text and date.year % 100 <= 31:
            return False
        if local_digits:
            return True
        if fields[0] in ("y", "yy") or (fields[0] in ("E", "EEEE") and fields[1] in ("y", "yy")) or "." in self.text:
            return True
        return date.day > 12 or date.day == date.month


class Names:
    """Months, days of the week and eras of a language, and its formats."""

    def __init__(self, language: str) -> None:
        from babel import Locale

        self.language = language
        self.formats: list[Format] = [Format(language, text) for text in BY_HAND[language]]
        self.months: dict[str, list[list[str]]] = {"MMMM": [[] for _ in range(12)], "MMM": [[] for _ in range(12)]}
        self.days: dict[str, list[list[str]]] = {"EEEE": [[] for _ in range(7)], "E": [[] for _ in range(7)]}
        self.era = ""
        for name in LOCALES[language]:
            self._add(Locale.parse(name))
        for name, month in MORE_MONTHS.get(language, {}).items():
            self.months["MMM" if len(name) <= 5 else "MMMM"][month - 1].append(name)
        self.formats = [*dict.fromkeys(self.formats)]

    def _add(self, locale: Any) -> None:
        for field, width in (("MMMM", "wide"), ("MMM", "abbreviated")):
            for context in ("format", "format", "format", "stand-alone"):  # three times as often
                for month in range(12):
                    self.months[field][month].append(locale.months[context][width][month + 1])
        for field, width in (("EEEE", "wide"), ("E", "abbreviated")):
            for day in range(7):
                self.days[field][day].append(locale.days["format"][width][day])
        self.era = locale.eras["abbreviated"][1]
        patterns = [locale.date_formats[length].pattern for length in ("full", "long", "medium", "short")]
        patterns += [each.pattern for key, each in locale.datetime_skeletons.items() if "y" in key and "d" in key]
        for pattern in patterns:
            text = _braced(pattern)
            if text is not None and ("{G}" not in text or self.language == "th"):
                self.formats.append(Format(self.language, text))


def _braced(pattern: str) -> str | None:
    """A pattern of the CLDR with its fields in braces; None where it has one that no date needs (a week's year, a day of the year)."""
    text = ""
    for quoted, field, other in re.findall(r"'((?:[^']|'')*)'|([A-Za-z]+)|([^A-Za-z']+)", pattern):
        if field:
            field = {"LLLL": "MMMM", "LLL": "MMM", "cccc": "EEEE", "ccc": "E", "EEE": "E"}.get(field, field)
            if field not in ("d", "dd", "M", "MM", "MMM", "MMMM", "y", "yy", "E", "EEEE", "G"):
                return None
            text += f"{{{field}}}"
        else:
            text += (quoted.replace("''", "'") or other).replace("’", "'").replace("\u200f", "")
    fields = set(_FIELD.findall(text))
    return text if fields & {"d", "dd"} and fields & {"y", "yy"} and fields & {"M", "MM", "MMM", "MMMM"} else None


def han_number(value: int) -> str:
    """1 … 99 in Chinese characters: 十二, 二十, 三十一."""
    tens, ones = divmod(value, 10)
    return ("" if tens == 0 else "十" if tens == 1 else HAN[tens] + "十") + (HAN[ones] if ones else "")


def era_year(date: datetime.date, latin: bool = False) -> str:
    """A year in Japan's era: 令和元, 平成31; R1, H31. Raises ValueError before 1868-10-23."""
    for first, name, letter in ERAS:
        if date >= first:
            year = date.year - first.year + 1
            return f"{letter}{year}" if latin else f"{name}{'元' if year == 1 else year}"
    raise ValueError(f"no era for {date}")


def _ordinal(language: str, day: int) -> str:
    if language == "en":
        return f"{day}{'th' if 11 <= day <= 13 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"
    if language == "fr":
        return "1er" if day == 1 else str(day)
    if language == "sv":
        return f"{day}:{'a' if day % 10 in (1, 2) and day not in (11, 12) else 'e'}"
    return "1º" if day == 1 else str(day)


_NUMBERS: Mapping[str, Callable[[datetime.date], str]] = {
    "d": lambda date: str(date.day),
    "dd": lambda date: f"{date.day:02d}",
    "M": lambda date: str(date.month),
    "MM": lambda date: f"{date.month:02d}",
    "y": lambda date: str(date.year),
    "yy": lambda date: f"{date.year % 100:02d}",
    "R": lambda date: ROMAN[date.month - 1],
    "hy": lambda date: "".join(HAN[int(digit)] for digit in str(date.year)),
    "hm": lambda date: han_number(date.month),
    "hd": lambda date: han_number(date.day),
    "era": era_year,
    "Era": lambda date: era_year(date, latin=True),
    "roc": lambda date: str(date.year - 1911),
    "be": lambda date: str(date.year + 543),
}


def plain_text(form: Format, date: datetime.date, names: Names, generator: np.random.Generator) -> str:
    """A date as the format has it: names drawn from those of the language."""

    def value(match: re.Match[str]) -> str:
        field = match[1]
        if field in _NUMBERS:
            return _NUMBERS[field](date)
        if field == "o":
            return _ordinal(form.language, date.day)
        if field == "G":
            return names.era
        choices = names.months[field][date.month - 1] if field[0] == "M" else names.days[field][date.weekday()]
        return choices[int(generator.integers(len(choices)))]

    return _FIELD.sub(value, form.text)
