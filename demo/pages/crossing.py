"""The crossing: one drawing by several ways, what each answers, how fast, and how far they are apart; and a switch that breaks the file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from onnxferry.demo.images.strokes import painted, read_strokes
from onnxferry.demo.shipped import crossing, models
from onnxferry.demo.shipped.examples import BROKEN, example_file
from onnxferry.demo.shipped.in_browser import BrowserFiles, browser_files
from onnxferry.demo.widgets import components, pad
from onnxferry.demo.widgets.cards import Card, card, cards, stamp
from onnxferry.demo.widgets.choices import choose, flag, whole_from_address
from onnxferry.demo.widgets.html import percent
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import say
from onnxferry.demo.your_file.sandbox import Request, ask
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.runtime.embed.web_runtime import VERSION
from onnxferry.runtime.errors import UntrustedModelError
from onnxferry.runtime.formats import human_bytes

SOURCES = ("Recorded", "Draw")


INSTALL = "pip install 'onnxferry[cpu]'"


@dataclass(frozen=True, eq=False)
class Passenger:
    """What crosses."""

    image: np.ndarray  # uint8 (height, width, 1)
    pytorch: np.ndarray | None  # float32 (10,): what PyTorch answered, where that was recorded
    rests: bool = True  # False while the pen moves


def page() -> None:
    """The page."""
    heading(say("crossing.title"), say("crossing.lead"))
    with show_errors():
        if crossing.MODEL not in models.shipped([crossing.MODEL]):
            st.info(models.not_shipped(crossing.MODEL))
            return
        with st.container(horizontal=True, vertical_alignment="bottom"):
            source = choose(say("input"), SOURCES, "crosses", default=SOURCES[0], names={each: say(f"crossing.{each}") for each in SOURCES})
        with st.container(key="live"):
            _live(source)
        st.code(INSTALL, language=None)  # coloured, its contrast is too low
        st.caption(say("crossing.install"))


@st.fragment
def _live(source: str) -> None:
    with show_errors():
        left, right = st.columns([2, 5], gap="large")
        with left:
            passenger = _passenger(source)
        with right:
            broken = flag(say("crossing.break"), "broken", help=say("crossing.break.help"))
            result = st.container(key="crossed")
        with result:
            if passenger is None:
                st.info(say("recognise.invite.Draw"))
                return
            _crossed(passenger, broken=broken)


def _passenger(source: str) -> Passenger | None:
    if source == "Draw":
        with st.container(key="pad"):
            text, rests = pad.drawing_pad("pad_crossing", st.query_params.get("drawing", ""))
            strokes = read_strokes(text)
            components.share_button("share", {"drawing": text if strokes else ""})
        return Passenger(painted(strokes), None, rests) if strokes else None
    record = crossing.recorded()
    names = [say("compress.digit.alt", label=label) for label in record.labels]
    last = len(record.images) - 1
    chosen = components.gallery("crossing_recorded", say("crossing.Recorded"), record.images, names, whole_from_address("shown", last, 3))
    if str(chosen) != st.query_params.get("shown", "3"):
        st.query_params["shown"] = str(chosen)
    components.share_button("share", {"drawing": ""})
    return Passenger(record.images[chosen], record.probabilities[chosen])


def _crossed(passenger: Passenger, *, broken: bool) -> None:
    file = zoo_model(crossing.MODEL).path
    leg = crossing.leg(file, passenger.image)
    expected = leg.probabilities if passenger.pytorch is None else passenger.pytorch
    shown = [_pytorch(passenger)]
    good = [True]
    if broken:
        damaged, passed = _broken(passenger.image, expected, rests=passenger.rests)
        shown.append(damaged)
        good.append(passed)
    else:
        shown.append(_card(say("crossing.float32"), say("crossing.float32.how", file=file.name), leg, expected, crossing.self_test(file),
                           compared=passenger.pytorch is not None))  # fmt: skip
        good.append(leg.answer == int(expected.argmax()))
    small = crossing.variant()
    if small is not None:
        other = crossing.leg(small, passenger.image)
        words = say("crossing.int8"), say("crossing.int8.how", file=small.name)
        shown.append(_card(*words, other, expected, crossing.self_test(small), compared=True))
        good.append(other.answer == int(expected.argmax()))
    web = browser_files()
    asked = _browser(web, passenger.image, expected, broken=broken) if web is not None else None
    if web is not None:
        rows = [(say("crossing.took"), "…"), (say("crossing.size"), _size(web, broken=broken)), (say("crossing.apart"), "…")]
        shown.append(_browser_card(say("crossing.browser.loading"), "…", rows, broken=broken))
    key = "crossing.same" if all(good) else "crossing.broken" if broken else "crossing.differ"
    components.crossed("ways", stamp(say(key), good=all(good)) + cards(shown, name=say("crossing.title")), asked)
    if web is None:
        st.caption(say("crossing.browser.missing", version=VERSION))


def _browser(web: BrowserFiles, image: np.ndarray, expected: np.ndarray, *, broken: bool) -> dict[str, Any]:
    """What ``crossed.js`` needs: which file to run, on what, and its card for each way in which that may end. ``{}`` are places for it."""
    sure, size = say("recognise.sure", share="{share}"), (say("crossing.size"), _size(web, broken=broken))
    rows = [(say("crossing.took"), "{milliseconds} ms"), size, (say("crossing.apart"), "{apart}")]
    test = say("crossing.test", passed="{passed}", count="{count}")
    return {
        "files": web.address,
        "model": f"{BROKEN if broken else crossing.MODEL}.onnx",
        "image": base64.b64encode(image.tobytes()).decode("ascii"),
        "shape": [1, *image.shape],
        "expected": [float(each) for each in expected],
        # of a self-test that failed, and of one that passed
        "answered": [card(_browser_card(sure, "{answer}", rows, test, broken=broken, good=good)) for good in (False, True)],
        "strange": [
            card(_browser_card(say("crossing.not finite"), "NaN", [size], test, broken=broken, good=good)) for good in (False, True)
        ],
        "trouble": {
            "no wasm": card(_browser_card(say("static.no wasm"), broken=broken)),
            "no simd": card(_browser_card(say("static.no simd"), broken=broken)),
            "reason": card(_browser_card(say("static.cannot run", reason="{reason}"), broken=broken)),
        },
        "differs": stamp(say("crossing.browser.differs"), good=False),
    }


def _browser_card(
    note: str, answer: str = "", rows: Sequence[tuple[str, str]] = (), test: str = "", *, broken: bool, good: bool = True
) -> Card:
    how = say("crossing.browser.broken" if broken else "crossing.browser.how", file=f"{crossing.MODEL}.onnx", version=VERSION)
    return Card(say("crossing.browser"), how, answer, note, rows, test, good, way="browser")


def _size(web: BrowserFiles, *, broken: bool) -> str:
    return human_bytes(len(web.files[f"{BROKEN if broken else crossing.MODEL}.onnx"]))


def _pytorch(passenger: Passenger) -> Card:
    record = crossing.recorded().record
    name, how = say("crossing.pytorch"), say("crossing.pytorch.how", version=record["torch"])
    if passenger.pytorch is None:
        return Card(name, how, "", say("crossing.pytorch.none"))
    best = int(passenger.pytorch.argmax())
    rows = [
        (say("crossing.took"), say("crossing.took.there", milliseconds=f"{record['milliseconds']:.1f}", processor=record["processor"])),
        (say("crossing.size"), say("crossing.size.weights", size=human_bytes(int(record["bytes"])))),
    ]
    return Card(name, how, str(best), say("recognise.sure", share=percent(float(passenger.pytorch[best]))), rows)


def _card(name: str, how: str, leg: crossing.Leg, expected: np.ndarray, test: crossing.SelfTest, *, compared: bool) -> Card:
    rows = [(say("crossing.took"), f"{leg.milliseconds:.1f} ms"), (say("crossing.size"), human_bytes(leg.bytes))]
    if compared:
        rows.append((say("crossing.apart"), f"{float(np.abs(leg.probabilities - expected).max()):.1g}"))
    good = test.passed == test.count
    words = say("crossing.test", passed=test.passed, count=test.count)
    note = say("recognise.sure", share=percent(float(leg.probabilities.max())))
    return Card(name, how, str(leg.answer), note, rows, words, good, other=leg.answer != int(expected.argmax()))


def _broken(image: np.ndarray, expected: np.ndarray, *, rests: bool) -> tuple[Card, bool]:
    """The file with some of its weights overwritten: read and run in a process of its own, as any file that is not verified."""
    name, how = say("crossing.float32"), say("crossing.float32.broken")
    if not rests:
        return Card(name, how, "", say("recognise.reading")), False
    data = example_file(BROKEN)
    passed, count = _broken_test()
    test = say("crossing.test", passed=passed, count=count)
    try:
        outputs = ask(Request(data, "run", {"image": image[None]})).outputs
    except UntrustedModelError as error:
        return Card(name, how, "", str(error), stamp=test, good=False), False
    probabilities = outputs["probabilities"][0]
    finite = bool(np.isfinite(probabilities).all())
    answer = str(int(probabilities.argmax())) if finite else "NaN"
    rows = [(say("crossing.size"), human_bytes(len(data)))]
    if finite:
        rows.append((say("crossing.apart"), f"{float(np.abs(probabilities - expected).max()):.1g}"))
    note = say("recognise.sure", share=percent(float(probabilities.max()))) if finite else say("crossing.not finite")
    return Card(name, how, answer, note, rows, test, passed == count, other=answer != str(int(expected.argmax()))), passed == count


@st.cache_resource(show_spinner=False)
def _broken_test() -> tuple[int, int]:
    """Of how many comparisons with PyTorch's recorded outputs the broken file passes how many."""
    comparisons = ask(Request(example_file(BROKEN), "check")).report["comparisons"]
    return sum(bool(each["passed"]) for each in comparisons), len(comparisons)
