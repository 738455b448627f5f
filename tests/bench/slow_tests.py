"""Writes tests/slow.txt, the test functions that take 2 seconds or more (all their cases together), from pytest's own list of durations.

python -m pytest -n 2 --durations=0 -vv | python tests/bench/slow_tests.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SECONDS = 2.0
LINE = re.compile(r"^\s*([\d.]+)s (?:call|setup)\s+(tests/\S+?::[^\[\s]+)")


def main() -> None:
    total: dict[str, float] = {}
    for line in sys.stdin:
        if found := LINE.match(line):
            total[found[2]] = total.get(found[2], 0.0) + float(found[1])
    slow = sorted(name for name, seconds in total.items() if seconds >= SECONDS)
    if not slow:
        raise SystemExit("no durations were read: give pytest --durations=0 -vv")
    Path(__file__).parents[1].joinpath("slow.txt").write_text("\n".join(slow) + "\n", encoding="utf-8")
    print(f"{len(slow)} slow tests")


if __name__ == "__main__":
    main()
