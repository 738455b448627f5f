"""The bounds in pyproject.toml admit no version that is known to run code out of a file or to corrupt memory."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LIST = tomllib.loads((ROOT / "tests/advisories.toml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EVERY = [Requirement(text) for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()) for text in texts]


def admitted(requirement: Requirement, advisory: dict[str, Any]) -> list[str]:
    """Versions with the fault that a requirement allows: those that are listed, or any just before the fix."""
    bad = [Version(each) for each in advisory.get("bad", [])]
    if "fixed" in advisory:
        # A fix excludes all before it only by a lower bound that is not below it.
        lower = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==", "~=")]
        if not any(bound >= Version(advisory["fixed"]) for bound in lower):
            return [f"before {advisory['fixed']}"]
    return [str(each) for each in bad if requirement.specifier.contains(each)]


@pytest.mark.parametrize("advisory", LIST["advisory"], ids=lambda each: f"{each['package']}-{(each['ids'] or ['none'])[0]}")
def test_no_bound_admits_a_known_fault(advisory: dict[str, Any]) -> None:
    named = [each for each in EVERY if each.name.lower() == advisory["package"]]
    assert named, f"{advisory['package']} is not required any more: take it off the list"
    for requirement in named:
        assert admitted(requirement, advisory) == [], f"{requirement} admits {advisory['ids'] or advisory['what']}"


def test_a_bound_that_is_too_low_is_found() -> None:
    assert admitted(Requirement("keras>=3.8"), {"fixed": "3.9.0"}) == ["before 3.9.0"]
    assert admitted(Requirement("keras"), {"fixed": "3.9.0"}) == ["before 3.9.0"]
    assert admitted(Requirement("keras<4"), {"fixed": "3.9.0"}) == ["before 3.9.0"]
    assert admitted(Requirement("lightning-fabric>=2.6.1,!=2.6.2"), {"bad": ["2.6.2", "2.6.3"]}) == ["2.6.3"]
    assert admitted(Requirement("keras>=3.9,<4"), {"fixed": "3.9.0"}) == []


def test_the_list_says_when_it_was_made() -> None:
    assert isinstance(LIST["date"], date)
    assert all({"package", "ids", "what"} <= each.keys() and {"fixed", "bad"} & each.keys() for each in LIST["advisory"])
