"""The page "Conformance" in both languages, from the recorded rows.

    python tests/conformance/tables.py          # writes docs/en/reference/conformance.md and docs/zh/reference/conformance.md

``tests/conformance/test_tables.py`` fails where the pages are not what this gives.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
PAGE = "reference/conformance.md"
COLUMNS = ("right", "noted", "refused", "wrong", "foreign")


@dataclass(frozen=True)
class Suite:
    """One recorded table."""

    file: str
    script: str
    key: str
    second: str
    en: str
    zh: str


SUITES = (
    Suite("torch_ops.jsonl", "torch_ops.py", "operator", "dtype", "Operators of PyTorch's database", "PyTorch 算子数据库中的算子"),
    Suite("keras_layers.jsonl", "keras_layers.py", "layer", "use", "Layers of Keras", "Keras 的层"),
    Suite("sklearn_cases.jsonl", "sklearn_cases.py", "estimator", "", "Estimators of scikit-learn", "scikit-learn 的估计器"),
)

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "Conformance",
        "intro": (
            "Other projects' own lists, exported row by row: every operator of PyTorch's operator database with samples "
            "(float32 and int64), every layer of `keras.layers`, every estimator of `sklearn.utils.all_estimators()`. What is "
            "exported is run in ONNX Runtime beside the source, at values and sizes that the export did not "
            "see. CI repeats a tenth of each, drawn anew in every run; "
            "no row may come out worse than recorded here."
        ),
        "key": (
            "*Right*: equal. *Noted*: equal for finite inputs; NaN or infinity in the input is answered otherwise, or of several equal "
            "values another one's place is given, or the last bit of a double differs. "
            "*Refused*: no file was written, for the reason below. *Wrong*: a file gave another "
            "answer. *Foreign*: an exception of another library. Rows that ONNX cannot hold (random numbers, complex results, layers "
            "of other frameworks) are not counted."
        ),
        "recorded": "What is recorded:",
        "counts": "| list | rows | right | noted | refused | wrong | foreign | exported |",
        "refused": "Refused",
        "none": "None.",
        "commands": "The commands that record them:",
    },
    "zh": {
        "title": "一致性",
        "intro": (
            "把其他项目自己的清单逐行导出：PyTorch 算子数据库中每个有样例的算子（float32 和 int64）、`keras.layers` 的每个层、"
            "`sklearn.utils.all_estimators()` 的每个估计器。导出的文件在 ONNX Runtime 中与源模型并排运行，所用的值和尺寸"
            "是导出时没有见过的。CI 每次运行都重新抽取各表的十分之一再做一遍；任何一行都不得比这里记录的更差。"
        ),
        "key": (
            "*right*：相等。*noted*：对有限的输入相等；输入含 NaN 或无穷时结果不同，或者在几个相等的值中给出了另一个的位置，"
            "或者双精度数的最后一位不同。"
            "*refused*：没有写出文件，原因见下。*wrong*：文件给出了不同的结果。*foreign*：别的库的异常。"
            "ONNX 无法表示的行（随机数、复数结果、其他框架的层）不计入。"
        ),
        "recorded": "已记录的结果：",
        "counts": "| 清单 | 行数 | right | noted | refused | wrong | foreign | 已导出 |",
        "refused": "被拒绝的",
        "none": "没有。",
        "commands": "记录它们的命令：",
    },
}


def rows(suite: Suite) -> list[dict[str, str]]:
    found = [json.loads(line) for line in (HERE / suite.file).read_text().splitlines()]
    return [row for row in found if row["status"] != "outside"]


def page(language: str) -> str:
    words = WORDS[language]
    lines = [
        f"# {words['title']}",
        "",
        *_wrapped(words["intro"]),
        "",
        *_wrapped(words["key"]),
        "",
        words["recorded"],
        "",
        words["counts"],
        "|---" * 8 + "|",
    ]
    for suite in SUITES:
        found = rows(suite)
        count = Counter(row["status"] for row in found)
        exported = (count["right"] + count["noted"]) / max(1, len(found))
        numbers = " | ".join(str(count[column]) for column in COLUMNS)
        lines.append(f"| {getattr(suite, language)} | {len(found)} | {numbers} | {exported:.0%} |")
    lines += ["", words["commands"], "", "```console"]
    lines += [f"$ python tests/conformance/{suite.script} --record tests/conformance/{suite.file}" for suite in SUITES]
    lines += ["```"]
    for suite in SUITES:
        lines += ["", f"## {words['refused']}: {getattr(suite, language)}" if language == "en" else f"## {words['refused']}{suite.zh}", ""]
        lines += _refused(suite) or [words["none"]]
    return "\n".join(lines) + "\n"


def _refused(suite: Suite) -> list[str]:
    """A line a reason, with the rows that it is of."""
    reasons: dict[str, list[str]] = {}
    for row in rows(suite):
        if row["status"] == "refused":
            second = row.get(suite.second, "") if suite.second else ""
            reasons.setdefault(_reason(row["detail"], row[suite.key]), []).append(f"{row[suite.key]}{f' ({second})' if second else ''}")
    return [
        f"- {', '.join(_names(names))}: {reason}" for reason, names in sorted(reasons.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 140) if text.isascii() else [text]


def _names(names: Sequence[str]) -> list[str]:
    return [f"`{name}`" for name in names]


def _reason(detail: str, name: str) -> str:
    """The first line of a refusal, without the place in the test's own code and without figures of one example."""
    if detail.startswith("the operator ") and "has no translation to ONNX" in detail:
        return "there is no translation to ONNX"
    if detail.startswith("output ") and "different numbers of axes" in detail:
        return "the number of its output's axes depends on the input"
    if "is all NaN" in detail or detail.startswith("nothing was compared"):
        return "the samples' answers hold no number, so that nothing can be verified"
    for start, reason in (
        ("output ", "the file's answer differs from the source's"),
        ("ONNX Runtime cannot load", "ONNX Runtime has no kernel for the graph"),
        ("ONNX Runtime cannot run", "ONNX Runtime does not run the graph"),
    ):
        if detail.startswith(start):
            return reason
    text = re.split(r" at \w+\.py, line \d+", detail, maxsplit=1)[0].split(" (", 1)[0]
    return re.sub(rf"^{re.escape(name)} ", "it ", text).replace("|", "/").replace("<", "&lt;").replace("_", "\\_").strip().rstrip(".:")


def main() -> None:
    for language in WORDS:
        (DOCS / language / PAGE).write_text(page(language), encoding="utf-8")


if __name__ == "__main__":
    main()
