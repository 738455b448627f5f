"""Your model: any .onnx, read and run in a process of its own; what it takes, gives and promises, and how fast it is here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import streamlit as st

from onnxferry.demo.images.uploads import read_upload
from onnxferry.demo.widgets import html
from onnxferry.demo.widgets.page import heading, show_errors
from onnxferry.demo.your_file import inputs as model_inputs
from onnxferry.demo.your_file.report import check_rows, facts_of, output_rows, parity_words, shape_words, value_rows
from onnxferry.demo.your_file.sandbox import Answer, Request, SandboxLimits, ask
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.kinds import TEXT_GENERATOR

_LIMITS = SandboxLimits()


_MOST_WIDGETS = 16  # inputs that can be filled by hand: a page of thousands of fields would not come up


def page() -> None:
    """The page."""
    heading(
        "Your model",
        "Drop any .onnx file. A bounded reader looks first; then it is opened in a process of its own with limits on memory and time.",
    )
    with show_errors():
        file = st.file_uploader("An .onnx file", key="upload", max_upload_size=_LIMITS.model_bytes // 2**20)
        if file is None:
            st.caption("Nothing leaves this machine. A file with custom operators, or with weights in files beside it, is refused.")
            return
        data = file.getvalue()
        key = hashlib.sha256(data).hexdigest()
        if st.session_state.get("upload_key") != key:
            # What another file said is not this one's.
            st.session_state["upload_key"] = key
            for name in ("upload_report", "upload_check", "upload_answer"):
                st.session_state.pop(name, None)
        if "upload_report" not in st.session_state:
            st.session_state["upload_report"] = _asked("Reading the file", Request(data, "inspect")).report
        report = st.session_state["upload_report"]
        _report(report)
        _check(data, report)
        _try(data, report)


def _asked(what: str, request: Request) -> Answer:
    """Asks the child, with the seconds that pass on the page. Leaving the page, or pressing Stop, ends it."""
    place = st.empty()
    with place.container():
        line = st.empty()
        stopped = st.button("Stop", key=f"stop {request.task}")
    if stopped:  # this run is the one that the button began: the child of the one before has ended with it
        place.empty()
        raise InputError("stopped; give the file again to go on")

    def tick(seconds: float) -> None:
        line.progress(min(seconds / _LIMITS.seconds, 1.0), f"{what} … {seconds:.0f} s of at most {_LIMITS.seconds:.0f}")

    def waits(before: int) -> None:
        line.progress(0.0, f"{what}: waiting for a free CPU, {before} before you")

    tick(0.0)
    try:
        return ask(request, _LIMITS, tick, waits)
    finally:
        place.empty()


def _report(report: Mapping[str, Any]) -> None:
    summary, contract = report["summary"], report["contract"]
    st.header("What it is")
    st.html(html.facts(facts_of(summary, contract), name="The file"))
    st.html(html.table(("", "name", "dtype", "shape"), value_rows(summary), name="Inputs and outputs"))
    operators = [(name.removeprefix("ai.onnx::"), count) for name, count in summary["operators"].items()]
    with st.expander(f"Operators: {len(operators)} kinds, {summary['nodes']:,} nodes"):
        most = max([1, *(count for _, count in operators)])
        st.html(html.scale_bars([(name, count / most, f"× {count:,}") for name, count in operators[:40]], title="Operators"))


def _check(data: bytes, report: Mapping[str, Any]) -> None:
    st.header("Does it still do what it should?")
    contract = report["contract"]
    if not contract or not contract["goldens"]:
        st.caption("It carries no golden samples of onnxferry's, so there is nothing to check it by.")
        return
    if st.button("Replay its golden samples", key="check"):
        st.session_state["upload_check"] = _asked("Replaying", Request(data, "check")).report["comparisons"]
    comparisons = st.session_state.get("upload_check")
    if comparisons is None:
        return
    passed = sum(bool(each["passed"]) for each in comparisons)
    (st.success if passed == len(comparisons) else st.error)(f"{passed} of {len(comparisons)} comparisons passed on this machine.")
    st.html(html.table(("sample", "output", "largest difference", "allowed", "verdict"), check_rows(comparisons), name="Golden check"))


def _try(data: bytes, report: Mapping[str, Any]) -> None:
    st.header("Try it, and time it here")
    inputs = [_input(spec) for spec in report["summary"]["inputs"]]
    kind = (report["contract"] or {}).get("kind", "")
    with st.form("try", border=True):
        arrays = st.file_uploader(
            "Arrays, as .npz by input name or .npy (instead of what is below)", type=["npz", "npy"], max_upload_size=64
        )
        makers = [_choose(spec, kind) for spec in inputs[:_MOST_WIDGETS]] + [_made_up(spec, kind) for spec in inputs[_MOST_WIDGETS:]]
        if len(inputs) > _MOST_WIDGETS:
            st.caption(f"{len(inputs) - _MOST_WIDGETS} more inputs get random numbers; arrays for them can be given in the .npz.")
        repeats = st.slider("Timed runs", 1, 200, 20, key="repeats")
        go = st.form_submit_button("Run", type="primary")
    if go:
        st.session_state.pop("upload_answer", None)
        given = model_inputs.from_file(arrays.getvalue(), inputs) if arrays is not None else {}
        fed = {spec.name: given[spec.name] if spec.name in given else make() for spec, make in zip(inputs, makers, strict=True)}
        st.session_state["upload_answer"] = _asked("Running", Request(data, "run", fed, int(repeats)))
    answer = st.session_state.get("upload_answer")
    if answer is not None:
        _answer(answer, report)


def _input(spec: Mapping[str, Any]) -> model_inputs.Input:
    return model_inputs.Input(spec["name"], spec["dtype"], None if spec["shape"] is None else tuple(spec["shape"]))


def _choose(spec: model_inputs.Input, kind: str) -> Any:
    """The widgets for one input; gives a function that makes its array when the form is sent."""
    name = html.plain_markdown(spec.name)  # labels are Markdown too
    st.markdown(f"**{name}** · {html.plain_markdown(f'{spec.dtype} {shape_words(spec.shape)}')}")
    image = text = None
    if spec.takes_image:
        image = st.file_uploader(
            f"An image for {name}", type=["png", "jpg", "jpeg", "gif", "bmp", "webp"], key=f"image {spec.name}", max_upload_size=32
        )
    if spec.takes_text:
        text = st.text_input(f"Text for {name}", "To be, or not to be", key=f"text {spec.name}", max_chars=4000)
    columns = st.columns(max(1, len(spec.free_axes)) + 1)
    fill = columns[0].selectbox(f"Else fill {name} with", ("random numbers", "zeros"), key=f"fill {spec.name}")
    sizes = {
        axis: int(
            columns[1 + place].number_input(
                f"Size of axis {axis}{_axis_name(spec, axis)}",
                0, 100_000, _usual_size(spec, axis, kind), key=f"size {spec.name} {axis}",
            )
        )
        for place, axis in enumerate(spec.free_axes)
    }  # fmt: skip

    def make() -> np.ndarray:
        if image is not None:
            return model_inputs.from_image(spec, read_upload(image.getvalue(), image.name))
        if text:
            return model_inputs.from_text(text)
        made = model_inputs.made_up(spec, sizes, zeros=fill == "zeros")
        # The text generator takes shares in [0, 1): anything else would choose no byte.
        return np.abs(np.mod(made, 1)).astype(made.dtype) if kind == TEXT_GENERATOR.name and spec.name == "uniforms" else made

    return make


def _axis_name(spec: model_inputs.Input, axis: int) -> str:
    size = spec.shape[axis] if spec.shape else None
    return f", {html.plain_markdown(size)}" if isinstance(size, str) else ""


def _made_up(spec: model_inputs.Input, kind: str) -> Callable[[], np.ndarray]:
    """Makes the array of an input that has no widgets."""
    return lambda: model_inputs.made_up(spec, {axis: _usual_size(spec, axis, kind) for axis in spec.free_axes}, zeros=False)


def _usual_size(spec: model_inputs.Input, axis: int, kind: str) -> int:
    """A first axis is a batch; an axis of an image or of text is longer."""
    if kind == TEXT_GENERATOR.name and spec.name == "uniforms" and axis == 1:
        return 100
    return 1 if axis == 0 else 28 if spec.takes_image else 16


def _answer(answer: Answer, report: Mapping[str, Any]) -> None:
    told_by = answer.report
    if told_by["median_seconds"] is not None:
        columns = st.columns(3)
        columns[0].metric("Median run", f"{1000 * told_by['median_seconds']:.2f} ms")
        columns[1].metric("Slowest", f"{1000 * told_by['slowest_seconds']:.2f} ms")
        columns[2].metric("Opening it", f"{1000 * told_by['open_seconds']:.0f} ms")
        device = html.plain_markdown(str(told_by["device"]))
        st.caption(f"{int(told_by['runs'])} timed runs after the first, on {device} with {int(told_by['threads'])} threads.")
    labels = tuple((report["contract"] or {}).get("labels", ()))
    probabilities = answer.outputs.get("probabilities")
    if labels and probabilities is not None and probabilities.ndim == 2 and probabilities.shape[1] == len(labels) and len(probabilities):
        st.html(html.bars(labels[:40], [float(p) for p in probabilities[0][:40]], title="Probability of each class"))
    for name, array in answer.outputs.items():
        if name == "bytes" and array.dtype == np.uint8 and array.ndim == 2 and len(array):
            st.html(html.sheet("", array[0].tobytes().decode("utf-8", "replace")))
        elif array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] in (1, 3) and len(array) and 0 < array[0].size <= 2**22:
            st.html(html.grid([html.image(each, f"{name} {i}") for i, each in enumerate(array[:16])], name=name))
    st.html(html.table(("output", "dtype", "shape", "smallest", "mean", "largest", "first values"), output_rows(answer), name="Outputs"))
    if report["contract"]:
        st.caption(parity_words(report["contract"]))
