"""Your model, by AppTest: good files, and everything bad that a stranger may upload."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

Show = Callable[..., AppTest]


def uploaded(show: Show, data: bytes, name: str = "model.onnx") -> AppTest:
    page = show("your_model")
    page.file_uploader[0].upload(name, data, "application/octet-stream").run()
    return page


def test_it_waits_for_a_file(show: Show, well) -> None:
    well(show("your_model"))


@pytest.mark.parametrize("name", ["digits", "digits-gan", "shakespeare", "digits-ae"])
def test_one_of_ours_is_reported_checked_and_run(show: Show, well, html, tiny_zoo: Path, name: str) -> None:
    page = uploaded(show, (tiny_zoo / name / f"{name}.onnx").read_bytes())
    well(page)
    assert name in html(page)
    next(button for button in page.button if button.label.startswith("Run the built-in")).click().run()
    well(page)
    assert len(page.success) == 1
    next(button for button in page.button if button.label == "Run").click().run()
    well(page)
    assert "first values" in html(page)
    assert [each.label for each in page.metric] == ["Median run", "Slowest", "Load time"]


def test_a_foreign_model_is_run_with_numbers_made_up(show: Show, well, html, scale_model: bytes) -> None:
    page = uploaded(show, scale_model)
    well(page)
    assert "not made by onnxferry" in html(page)
    assert any("no self-test" in each.value for each in page.caption)
    next(each for each in page.number_input if "axis 0" in each.label or each.label == "Batch size").set_value(4)
    next(button for button in page.button if button.label == "Run").click().run()
    well(page)
    assert "(4, 3)" in html(page)


def test_arrays_are_uploaded(show: Show, well, html, scale_model: bytes, tmp_path: Path) -> None:
    page = uploaded(show, scale_model)
    path = tmp_path / "x.npz"
    np.savez(path, x=np.full((2, 3), 21, np.float32))
    page.file_uploader[1].upload("x.npz", path.read_bytes(), "application/zip")
    next(button for button in page.button if button.label == "Run").click().run()
    well(page)
    assert "<td>42</td>" in html(page)


def test_arrays_with_pickles_are_refused(show: Show, scale_model: bytes, tmp_path: Path) -> None:
    page = uploaded(show, scale_model)
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    page.file_uploader[1].upload("x.npy", path.read_bytes(), "application/octet-stream")
    next(button for button in page.button if button.label == "Run").click().run()
    assert not page.exception
    assert "no arrays that can be read" in page.error[0].value


@pytest.fixture
def bad_files(build_onnx, tiny_zoo: Path) -> dict[str, bytes]:
    from onnx import TensorProto, helper

    whole = (tiny_zoo / "digits" / "digits.onnx").read_bytes()
    custom = build_onnx(
        [helper.make_node("Steal", ["x"], ["y"], domain="evil")],
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [1])],
        domains={"evil": 1},
    )
    outside = build_onnx(
        [helper.make_node("Add", ["x", "w"], ["y"])], [("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])],
        [TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL, external_data=[])],
    )  # fmt: skip
    entry = outside.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    absurd = build_onnx(
        [helper.make_node("Add", ["x", "w"], ["y"])], [("x", TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])],
        [TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**20])],
    )  # fmt: skip
    return {
        "empty": b"",
        "text": b"<!doctype html><title>not found</title>",
        "cut": whole[: len(whole) // 2],
        "custom": custom.SerializeToString(),
        "outside": outside.SerializeToString(),
        "absurd": absurd.SerializeToString(),
        "pickle": b"\x80\x04\x95" + b"x" * 100,
    }


@pytest.mark.parametrize("which", ["empty", "text", "cut", "custom", "outside", "absurd", "pickle"])
def test_a_bad_file_is_told_in_one_line(show: Show, bad_files: dict[str, bytes], which: str) -> None:
    page = uploaded(show, bad_files[which])
    assert not page.exception
    (error,) = page.error
    assert "\n" not in error.value
    assert "model" in error.value
    assert "/tmp" not in error.value


def test_a_model_that_makes_absurd_sizes_when_run_ends_its_own_process_only(show: Show, build_onnx) -> None:
    """Small, well-formed, and asks for a terabyte: what no reader of the file can see."""
    from onnx import TensorProto, helper

    bomb = build_onnx(
        [helper.make_node("ConstantOfShape", ["shape"], ["y"])],
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("shape", TensorProto.INT64, [1], [2**38])],
    )
    page = uploaded(show, bomb.SerializeToString())
    assert not page.error
    next(button for button in page.button if button.label == "Run").click().run()
    assert not page.exception
    assert len(page.error) == 1


def test_another_file_forgets_the_first(show: Show, well, html, scale_model: bytes, tiny_zoo: Path) -> None:
    page = uploaded(show, scale_model)
    next(button for button in page.button if button.label == "Run").click().run()
    assert "first values" in html(page)
    page.file_uploader[0].upload("other.onnx", (tiny_zoo / "digits" / "digits.onnx").read_bytes(), "application/octet-stream").run()
    well(page)
    assert "first values" not in html(page)


def test_a_name_that_is_markup_is_shown_as_it_is(show: Show, html, build_onnx) -> None:
    from onnx import TensorProto, helper

    name = "<img src=x onerror=alert(1)>**bold**"
    model = build_onnx([helper.make_node("Relu", [name], ["y"])], [(name, TensorProto.FLOAT, [1])], [("y", TensorProto.FLOAT, [1])])
    page = uploaded(show, model.SerializeToString())
    assert not page.exception
    assert "<img src=x" not in html(page)
    assert all("**bold**" not in each.value for each in page.markdown)


def test_names_in_a_file_are_no_markup_in_any_label(show: Show, well, build_onnx) -> None:
    """An image in a label would be fetched by the browser, and say who opened the file."""
    from onnx import TensorProto, helper

    evil = "![a](http://elsewhere.example/x.gif)"
    inputs = [(evil, TensorProto.FLOAT, [evil, 3]), (f"{evil} 2", TensorProto.STRING, [1]), (f"{evil} 3", TensorProto.UINT8, [1, 4, 4, 3])]
    data = build_onnx([helper.make_node("Identity", [evil], ["y"])], inputs, [("y", TensorProto.FLOAT, None)]).SerializeToString()
    page = uploaded(show, data)
    well(page)
    kinds = (page.selectbox, page.number_input, page.text_input, page.file_uploader, page.markdown, page.caption, page.button)
    shown = [str(getattr(each, "label", "")) for kind in kinds for each in kind] + [each.value for each in (*page.markdown, *page.caption)]
    assert sum("elsewhere" in text for text in shown) >= 6
    assert not [text for text in shown if "](http" in text]


def test_where_a_file_says_it_comes_from_is_no_markup() -> None:
    from onnxferry.demo.your_file.report import parity_words

    assert "](http" not in parity_words({"framework": "![a](http://elsewhere.example/x.gif)"})


def test_many_inputs_have_a_few_widgets(show: Show, well, build_onnx) -> None:
    from onnx import TensorProto, helper

    names = [f"x{i}" for i in range(200)]
    data = build_onnx(
        [helper.make_node("Sum", names, ["y"])], [(name, TensorProto.FLOAT, ["n", 3]) for name in names], [("y", TensorProto.FLOAT, None)]
    ).SerializeToString()
    page = uploaded(show, data)
    well(page)
    assert len(page.selectbox) == 16
    assert any("184 more inputs get random numbers" in each.value for each in page.caption)
    next(button for button in page.button if button.label == "Run").click().run()
    well(page)


def run(page: AppTest) -> None:
    next(button for button in page.button if button.label == "Run").click().run()


def test_values_are_typed(show: Show, well, html, scale_model: bytes) -> None:
    page = uploaded(show, scale_model)
    next(each for each in page.text_input if each.label.startswith("Values for x")).set_value("1, 2, 3, 4, 5, 6")
    run(page)
    well(page)
    assert "(2, 3)" in html(page)
    assert "2 4 6 8 10 12" in html(page)
    next(each for each in page.text_input if each.label.startswith("Values for x")).set_value("one")
    run(page)
    assert "no numbers" in page.error[0].value


def test_numbers_that_are_not_finite_are_an_alarm(show: Show, scale_model: bytes) -> None:
    page = uploaded(show, scale_model)
    next(each for each in page.text_input if each.label.startswith("Values for x")).set_value("nan, 2, inf")
    run(page)
    assert "2 of 3 numbers of y are not finite" in page.error[0].value


def test_examples_are_there_to_try_and_the_damaged_one_fails_its_test(show: Show, html, well) -> None:
    page = show("your_model")
    next(button for button in page.button if button.label.startswith("A damaged copy")).click().run()
    assert "recogniser digits" in html(page)
    next(button for button in page.button if button.label.startswith("Run the built-in")).click().run()
    assert not page.exception
    assert page.error
    page = show("your_model", example="digits")
    well(page)
    assert "recogniser digits" in html(page)


def test_a_model_and_its_weights_are_dropped_together(show: Show, well, html, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full(300, 2, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [300])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    page = show("your_model")
    files = [(name, (tmp_path / name).read_bytes(), "application/octet-stream") for name in ("m.onnx", "m.onnx.data")]
    page.file_uploader[0].set_value(files).run()
    well(page)
    next(each for each in page.text_input if each.label.startswith("Values for x")).set_value("21")
    run(page)
    well(page)
    assert "42 42" in html(page)
