"""Your model: any .onnx, read and run in a process of its own; what it takes, gives and promises, and how fast it is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import streamlit as st

from onnxferry.demo.images.uploads import read_upload
from onnxferry.demo.shipped import models
from onnxferry.demo.shipped.examples import BROKEN, example_file
from onnxferry.demo.widgets import components, html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.words.language import marked, say
from onnxferry.demo.your_file import inputs as model_inputs
from onnxferry.demo.your_file.report import (
    check_rows,
    columns_of,
    facts_of,
    not_finite,
    output_rows,
    parity_words,
    shape_words,
    value_rows,
)
from onnxferry.demo.your_file.sandbox import Answer, Request, SandboxLimits, ask
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import TEXT_GENERATOR

_LIMITS = SandboxLimits()


_MOST_WIDGETS = 16  # inputs that can be filled by hand: a page of thousands of fields would not come up


_USUAL_SIDE = 224  # pixels of an image for a model that does not say: most networks for photographs take it


EXAMPLES = ("digits", "shakespeare", BROKEN)


def page() -> None:
    """The page."""
    heading(say("yours.title"), say("yours.lead"))
    with show_errors():
        given = st.file_uploader(say("yours.file"), key="upload", max_upload_size=_LIMITS.model_bytes // 2**20, accept_multiple_files=True)
        if given:
            components.share_without_file("share")
            data, beside = _files([(file.name, file.getvalue()) for file in given])
        else:
            st.caption(say("yours.private"))
            data, beside = _example(), {}
        if not data and not given:
            return
        key = hashlib.sha256(data).hexdigest() if not given else " ".join(file.file_id for file in given)
        if st.session_state.get("upload_key") != key:
            # What another file said is not this one's.
            st.session_state["upload_key"] = key
            for name in ("upload_report", "upload_check", "upload_answer"):
                st.session_state.pop(name, None)
        if "upload_report" not in st.session_state:
            st.session_state["upload_report"] = _asked(say("yours.reading"), Request(data, "inspect", beside=beside)).report
        report = st.session_state["upload_report"]
        _report(report)
        _check(data, beside, report)
        _try(data, beside, report)


def _files(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, dict[str, bytes]]:
    """The model among the files that were given, and the others by name. Raises InputError for several models."""
    if len(files) == 1:
        return files[0][1], {}
    found = [data for name, data in files if name.lower().endswith(".onnx")]
    if len(found) != 1:
        raise InputError(say("yours.two", count=len(found)))
    return found[0], {name: data for name, data in files if not name.lower().endswith(".onnx")}


def _example() -> bytes:
    """A file to try, where none was given."""
    there = [name for name in EXAMPLES if models.shipped([name.removesuffix(BROKEN) or "digits"])]
    if not there:
        return b""
    st.markdown(say("yours.try one"))
    with st.container(horizontal=True):
        for name in there:
            words = say("yours.try broken") if name == BROKEN else say(f"model.{name}")
            if st.button(words, key=f"example {name}"):
                st.query_params["example"] = name
    asked = st.query_params.get("example", "")
    components.share_button("share")
    if asked not in there:
        return b""
    st.info(say("yours.example.broken") if asked == BROKEN else marked("yours.example", name=f"{asked}.onnx"))
    return example_file(asked)


def _asked(what: str, request: Request) -> Answer:
    """Asks the child, with the seconds that pass on the page. Leaving the page, or pressing Stop, ends it."""
    place = st.empty()
    with place.container():
        line = st.empty()
        stopped = st.button(say("yours.stop"), key=f"stop {request.task}")
    if stopped:  # this run is the one that the button began: the child of the one before has ended with it
        place.empty()
        raise InputError(say("yours.stopped"))

    def tick(seconds: float) -> None:
        words = say("yours.seconds", what=what, seconds=f"{seconds:.0f}", most=f"{_LIMITS.seconds:.0f}")
        line.progress(min(seconds / _LIMITS.seconds, 1.0), words)

    def waits(before: int) -> None:
        line.progress(0.0, say("yours.waiting", what=what, before=before))

    tick(0.0)
    try:
        return ask(request, _LIMITS, tick, waits)
    finally:
        place.empty()


def _report(report: Mapping[str, Any]) -> None:
    summary, contract = report["summary"], report["contract"]
    st.header(say("yours.what"))
    st.html(html.facts(facts_of(summary, contract), name=say("yours.facts")))
    st.html(html.table(columns_of("yours.values.columns"), value_rows(summary), name=say("yours.values")))
    operators = [(name.removeprefix("ai.onnx::"), count) for name, count in summary["operators"].items()]
    key = "yours.operators.one" if len(operators) == 1 else "yours.operators"
    with st.expander(say(key, kinds=len(operators), nodes=f"{summary['nodes']:,}")):
        most = max([1, *(count for _, count in operators)])
        rows = [(name, count / most, f"× {count:,}") for name, count in operators[:40]]
        st.html(html.scale_bars(rows, title=say("yours.operators.title")))


def _check(data: bytes, beside: Mapping[str, bytes], report: Mapping[str, Any]) -> None:
    st.header(say("yours.test"))
    contract = report["contract"]
    if not contract or not contract["goldens"]:
        st.caption(say("yours.no test"))
        return
    if st.button(say("yours.run test"), key="check"):
        answer = _asked(say("yours.replaying"), Request(data, "check", beside=beside))
        st.session_state["upload_check"] = answer.report["comparisons"]
    comparisons = st.session_state.get("upload_check")
    if comparisons is None:
        return
    passed = sum(bool(each["passed"]) for each in comparisons)
    (st.success if passed == len(comparisons) else st.error)(say("yours.passed", passed=passed, count=len(comparisons)))
    st.html(html.table(columns_of("yours.test.columns"), check_rows(comparisons), name=say("yours.test.table")))


def _try(data: bytes, beside: Mapping[str, bytes], report: Mapping[str, Any]) -> None:
    st.header(say("yours.run it"))
    inputs = [_input(spec) for spec in report["summary"]["inputs"]]
    kind = (report["contract"] or {}).get("kind", "")
    ours = bool(report["contract"])
    with st.form("try", border=True):
        arrays = st.file_uploader(say("yours.arrays"), type=["npz", "npy"], max_upload_size=64, key="arrays")
        makers = [_choose(spec, kind, ours) for spec in inputs[:_MOST_WIDGETS]]
        makers += [_made_up(spec, kind, ours) for spec in inputs[_MOST_WIDGETS:]]
        if len(inputs) > _MOST_WIDGETS:
            st.caption(say("yours.more inputs", count=len(inputs) - _MOST_WIDGETS))
        repeats = st.slider(say("yours.repeats"), 1, 200, 20, key="repeats")
        go = st.form_submit_button(say("yours.run"), type="primary", key="run")
    if go:
        st.session_state.pop("upload_answer", None)
        given = model_inputs.from_file(arrays.getvalue(), inputs) if arrays is not None else {}
        fed = {spec.name: given[spec.name] if spec.name in given else make() for spec, make in zip(inputs, makers, strict=True)}
        request = Request(data, "run", fed, int(repeats), beside)
        try:
            answer = _asked(say("yours.running"), request)
        except InputError as error:
            if any(spec.free_axes for spec in inputs) and "exceeds maximum allowed" in str(error):
                raise InputError(say("yours.larger axis", error=error)) from error
            raise
        st.session_state["upload_answer"] = answer
        st.session_state["upload_shapes"] = ", ".join(" × ".join(map(str, array.shape)) or "1" for array in fed.values())
    kept: Answer | None = st.session_state.get("upload_answer")
    if kept is not None:
        _answer(kept, report)


def _input(spec: Mapping[str, Any]) -> model_inputs.Input:
    return model_inputs.Input(spec["name"], spec["dtype"], None if spec["shape"] is None else tuple(spec["shape"]))


def _choose(spec: model_inputs.Input, kind: str, ours: bool) -> Any:
    """The widgets for one input; gives a function that makes its array when the form is sent."""
    st.html(f"<p><b>{escape(spec.name)}</b> · {escape(f'{spec.dtype} {shape_words(spec.shape)}')}</p>")
    image = audio = None
    text = value = ""
    if spec.takes_image:
        kinds = ["png", "jpg", "jpeg", "gif", "bmp", "webp"]
        image = st.file_uploader(marked("yours.image for", name=spec.name), type=kinds, key=f"image {spec.name}", max_upload_size=32)
    elif spec.takes_audio:
        audio = st.file_uploader(marked("yours.audio for", name=spec.name), type=["wav"], key=f"audio {spec.name}", max_upload_size=32)
    if spec.takes_text:
        text = st.text_input(marked("yours.text for", name=spec.name), say("yours.text.default"), key=f"text {spec.name}", max_chars=4000)
    elif spec.takes_values:
        value = st.text_input(marked("yours.value for", name=spec.name), key=f"value {spec.name}", max_chars=4000)
    columns = st.columns(max(1, len(spec.free_axes)) + 1)
    fills = ("random", "zeros")
    fill = columns[0].selectbox(
        marked("yours.fill", name=spec.name), fills, format_func=lambda each: say(f"yours.fill.{each}"), key=f"fill {spec.name}"
    )
    sizes = {}
    for column, axis in zip(columns[1:], spec.free_axes, strict=False):
        usual = _usual_size(spec, axis, kind, ours)
        sizes[axis] = int(column.number_input(_axis(spec, axis), 0, 10**6, usual, key=f"size {spec.name} {axis}"))

    def make() -> np.ndarray:
        if image is not None:
            picture = read_upload(image.getvalue(), image.name)
            return model_inputs.from_image(spec, picture, sizes=None if ours else sizes)
        if audio is not None:
            return model_inputs.from_audio(spec, audio.getvalue())
        if text:
            return model_inputs.from_text(text)
        if value and value.strip():
            return model_inputs.from_values(spec, value, sizes)
        made = model_inputs.made_up(spec, sizes, zeros=fill == "zeros")
        # The text generator takes shares in [0, 1): anything else would choose no byte.
        return np.abs(np.mod(made, 1)).astype(made.dtype) if kind == TEXT_GENERATOR.name and spec.name == "uniforms" else made

    return make


def _axis(spec: model_inputs.Input, axis: int) -> str:
    size = spec.shape[axis] if spec.shape else None
    if isinstance(size, str) and size:
        return marked("yours.axis named", axis=axis, name=size)
    return say("yours.axis.first") if axis == 0 and len(spec.shape or ()) > 1 else say("yours.axis", axis=axis)


def _made_up(spec: model_inputs.Input, kind: str, ours: bool) -> Callable[[], np.ndarray]:
    """Makes the array of an input that has no widgets."""
    return lambda: model_inputs.made_up(spec, {axis: _usual_size(spec, axis, kind, ours) for axis in spec.free_axes}, zeros=False)


def _usual_size(spec: model_inputs.Input, axis: int, kind: str, ours: bool) -> int:
    """A first axis is a batch; an axis of an image or of text is longer."""
    if kind == TEXT_GENERATOR.name and spec.name == "uniforms" and axis == 1:
        return 100
    if axis == 0:
        return 1
    return (28 if ours else _USUAL_SIDE) if spec.takes_image else 512 if spec.takes_audio else 16


def _answer(answer: Answer, report: Mapping[str, Any]) -> None:
    told_by = answer.report
    for name, bad, count in not_finite(answer):
        st.error(marked("yours.not finite", name=name, bad=bad, count=count), icon=":material/error:")
    if told_by["median_seconds"] is not None:
        columns = st.columns(3)
        columns[0].metric(say("yours.median"), f"{1000 * told_by['median_seconds']:.2f} ms")
        columns[1].metric(say("yours.slowest"), f"{1000 * told_by['slowest_seconds']:.2f} ms")
        columns[2].metric(say("yours.load time"), f"{1000 * told_by['open_seconds']:.0f} ms")
        threads, runs = int(told_by["threads"]), int(told_by["runs"])
        key = "yours.timed.one" if threads == 1 else "yours.timed"
        shapes = st.session_state.get("upload_shapes", "")
        st.caption(marked(key, runs=runs, device=told_by["device"], threads=threads, shapes=shapes))
    labels = tuple((report["contract"] or {}).get("labels", ()))
    probabilities = answer.outputs.get("probabilities")
    if labels and probabilities is not None and probabilities.ndim == 2 and probabilities.shape[1] == len(labels) and len(probabilities):
        st.html(html.bars(labels[:40], [float(p) for p in probabilities[0][:40]], title=say("recognise.bars")))
    for name, array in answer.outputs.items():
        if name == "bytes" and array.dtype == np.uint8 and array.ndim == 2 and len(array):
            st.html(html.sheet("", array[0].tobytes().decode("utf-8", "replace"), name=say("write.sheet")))
        elif array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] in (1, 3) and len(array) and 0 < array[0].size <= 2**22:
            st.html(html.grid([html.image(each, f"{name} {i}") for i, each in enumerate(array[:16])], name=name))
    st.html(html.table(columns_of("yours.outputs.columns"), output_rows(answer), name=say("yours.outputs")))
    if report["contract"]:
        st.caption(parity_words(report["contract"]))
