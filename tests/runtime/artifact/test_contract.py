"""The contract: written and read back whole, and read from a stranger without harm."""

from __future__ import annotations

import base64
import json
import random
import sys

import numpy as np
import pytest

from onnxferry.runtime.artifact.contract import GOLDEN_BYTES, MAX_GOLDENS, MAX_VALUE_BYTES, SCHEMA, Contract, Golden, Tolerance
from onnxferry.runtime.artifact.metadata import contract_from_metadata, metadata_from_contract
from onnxferry.runtime.errors import ArtifactError, OnnxFerryError

DTYPES = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]


def full_contract() -> Contract:
    rng = np.random.default_rng(0)
    golden = Golden(
        {"image": rng.integers(0, 256, (2, 5, 4, 1), dtype=np.uint8), "temperature": np.array(0.8, np.float32)},
        {"probabilities": rng.random((2, 3), np.float32), "none": np.zeros((0, 3), np.float16)},
    )
    return Contract(
        kind="recogniser",
        name="digits",
        family="cnn",
        description="Reads digits.\nOf any size: ½ “quoted” 数字.",
        labels=("zero", "un", "二", "👍🏽"),
        options={"channels": 1, "image_size": [28, 28], "framing": "ink", "deep": {"a": [1, 2.5, None, True]}},
        tolerances={"probabilities": Tolerance(1e-4, 1e-5), "none": Tolerance(0.0, 0.0)},
        goldens=(golden, Golden({"image": np.zeros((1, 1, 1, 1), np.uint8)}, {"probabilities": np.ones((1, 3), np.float32)})),
        provenance={"framework": "torch 2.13.0", "weights_sha256": "ab" * 32},
        metrics={"accuracy": 0.998},
        parity={"max_abs": 1.5e-7},
        certificate={"budget": "top1 -0.1pt"},
        author="Zoë",
        license="Apache-2.0",
        version="1.2",
    )


def metadata(**changes: object) -> dict[str, str]:
    """A small contract's metadata, some keys replaced: strings as they are, anything else as JSON; None removes."""
    values = metadata_from_contract(Contract(kind="model", name="m"))
    for key, value in changes.items():
        name = f"onnxferry.{key}"
        if value is None:
            del values[name]
        else:
            values[name] = value if isinstance(value, str) else json.dumps(value)
    return values


def about(**changes: object) -> dict[str, object]:
    return {"kind": "model", "name": "m", **changes}


def golden(**array: object) -> list[dict]:
    """Goldens with one array as given, JSON-side."""
    value = {"dtype": "uint8", "shape": [2], "data": base64.b64encode(b"ab").decode(), **array}
    return [{"inputs": {"x": value}, "outputs": {}}]


# There and back


def test_round_trip():
    contract = full_contract()
    read = contract_from_metadata(metadata_from_contract(contract))
    assert read is not None
    plain = ("kind", "name", "family", "description", "labels", "options", "tolerances", "provenance", "metrics", "parity")
    for name in (*plain, "certificate", "author", "license", "version", "schema"):
        assert getattr(read, name) == getattr(contract, name), name
    assert len(read.goldens) == 2
    for one, other in zip(read.goldens, contract.goldens, strict=True):
        for side in ("inputs", "outputs"):
            back, sent = getattr(one, side), getattr(other, side)
            assert list(back) == sorted(sent)
            for name in sent:
                assert (back[name].dtype, back[name].shape) == (sent[name].dtype, sent[name].shape), name
                np.testing.assert_array_equal(back[name], sent[name])


def test_a_minimal_contract_leaves_out_what_is_empty():
    written = metadata_from_contract(Contract(kind="model", name="m"))
    assert sorted(written) == ["onnxferry.contract", "onnxferry.schema", "task"]
    read = contract_from_metadata(written)
    assert read is not None
    assert (read.labels, read.goldens, read.tolerances, read.metrics) == ((), (), {}, {})


def test_equal_contracts_give_equal_bytes():
    contract = full_contract()
    shuffled = contract.replace(options=dict(reversed(contract.options.items())))
    assert list(metadata_from_contract(shuffled).items()) == list(metadata_from_contract(contract).items())


def test_plain_keys_for_other_tools():
    written = metadata_from_contract(full_contract())
    assert written["task"] == "recogniser"
    assert json.loads(written["names"])["2"] == "二"
    assert json.loads(written["imgsz"]) == [28, 28]
    assert (written["author"], written["license"], written["version"]) == ("Zoë", "Apache-2.0", "1.2")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)])
def test_golden_arrays_of_every_dtype(dtype, shape):
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype)
    if dtype.startswith("float") and array.size:
        array.flat[0] = -0.0
    for sent in (array, np.array(array, order="F"), array.astype(array.dtype.newbyteorder(">"))):
        contract = Contract(kind="model", name="m", goldens=(Golden({"x": sent}, {}),))
        read = contract_from_metadata(metadata_from_contract(contract))
        assert read is not None
        back = read.goldens[0].inputs["x"]
        assert (back.dtype, back.shape, back.dtype.isnative) == (np.dtype(dtype), shape, True)
        assert back.tobytes() == array.tobytes()
        assert back.flags.writeable


def test_goldens_keep_what_is_not_a_number():
    odd = np.array([np.nan, np.inf, -np.inf, 5e-324])
    read = contract_from_metadata(metadata_from_contract(Contract(kind="model", name="m", goldens=(Golden({"x": odd}, {}),))))
    assert read is not None
    assert read.goldens[0].inputs["x"].tobytes() == odd.tobytes()


# Contracts that must not be written


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "oracle"}, "unknown artifact kind 'oracle'; expected one of recogniser"),
        ({"goldens": (Golden({}, {}),) * (MAX_GOLDENS + 1)}, "at most 4 golden samples fit an artifact, got 5"),
        ({"goldens": (Golden({"x": np.zeros(GOLDEN_BYTES, np.uint8)}, {"y": np.zeros(1, np.uint8)}),)}, "golden samples take 262145 bytes"),
        ({"labels": ("a\x1b[31m",)}, "names and labels must be one line of text"),
        ({"labels": ("a\nb",)}, "names and labels must be one line of text"),
        ({"name": "\ud800"}, "names and labels must be one line of text"),
    ],
)
def test_contracts_that_cannot_be(changes, words):
    with pytest.raises(ArtifactError, match=words):
        Contract(**{"kind": "model", "name": "m", **changes})


def test_goldens_at_their_limit_can_be_read_back():
    contract = Contract(kind="model", name="m", goldens=(Golden({"x": np.zeros(GOLDEN_BYTES, np.uint8)}, {}),))
    read = contract_from_metadata(metadata_from_contract(contract))
    assert read is not None
    assert read.goldens[0].nbytes() == GOLDEN_BYTES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": {"loss": float("nan")}}, "the contract's metrics cannot be written as JSON"),
        ({"metrics": {"loss": np.float32(1)}}, "the contract's metrics cannot be written as JSON"),
        ({"options": {"f": print}}, "the contract's labels and options cannot be written as JSON"),
        ({"provenance": {"who": "\udcff"}}, "the contract's provenance cannot be written as JSON"),
        ({"provenance": {"log": "é" * MAX_VALUE_BYTES}}, "take 20971[0-9]{2} bytes, more than the 1048576 that are read back"),
        ({"goldens": (Golden({"x": np.zeros(1, np.complex64)}, {}),)}, "dtype complex64 cannot be stored"),
        ({"goldens": (Golden({"x": np.array(["a", 3], dtype=object)}, {}),)}, "dtype object cannot be stored"),
    ],
)
def test_what_json_cannot_carry_is_refused_when_written(changes, words):
    with pytest.raises(ArtifactError, match=words):
        metadata_from_contract(Contract(kind="model", name="m").replace(**changes))


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")])
def test_tolerances_that_make_no_sense(value):
    with pytest.raises(ArtifactError, match="must be a finite number >= 0"):
        Tolerance(rtol=value)
    with pytest.raises(ArtifactError, match="must be a finite number >= 0"):
        Tolerance(atol=value)


# A stranger's metadata


def test_a_file_without_a_contract_is_not_ours():
    assert contract_from_metadata({}) is None
    assert contract_from_metadata({"task": "detect", "names": "{0: 'person'}", "onnxferry.contract": "junk"}) is None


def test_a_newer_schema_is_refused_and_an_older_one_loads():
    with pytest.raises(ArtifactError, match=rf"has schema {SCHEMA + 1}, this runtime reads up to {SCHEMA}: pip install -U onnxferry"):
        contract_from_metadata(metadata(schema=str(SCHEMA + 1), contract="what a later version writes"))
    for schema in range(1, SCHEMA + 1):
        read = contract_from_metadata(metadata(schema=str(schema)))
        assert read is not None
        assert read.schema == schema


def test_keys_of_a_later_version_are_passed_over():
    values = metadata(contract=about(colour="blue"), later="{}") | {"onnxferry.evil": "__import__('os')"}
    read = contract_from_metadata(values)
    assert read is not None
    assert read.name == "m"


@pytest.mark.parametrize("schema", ["", "0", "-1", "1.0", "one", "٣", "1" * 10, " 1", "1\n"])
def test_a_schema_that_is_no_number(schema):
    with pytest.raises(ArtifactError, match=r"the file's contract is broken: onnxferry.schema: expected a whole number"):
        contract_from_metadata(metadata(schema=schema))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contract": None}, "onnxferry.contract: missing"),
        ({"contract": ""}, "not JSON"),
        ({"contract": "{'kind': 'model'}"}, "not JSON"),
        ({"contract": '{"kind": "model"'}, "not JSON"),
        ({"contract": "[" * 100_000}, "not JSON"),
        ({"contract": "1" * 5_000}, "not JSON"),
        ({"metrics": '{"a":' * 500 + "1" + "}" * 500}, "onnxferry.metrics: lists and objects in each other more than 64 deep"),
        ({"contract": " " * (MAX_VALUE_BYTES + 1)}, "more than the 1048576 that are read"),
        ({"contract": []}, "expected an object, got list"),
        ({"contract": about(kind=3)}, "kind must be a string"),
        ({"contract": about(kind="oracle" * 1000)}, "unknown artifact kind 'oracle"),
        ({"contract": about(name=None)}, "name must be a string"),
        ({"contract": about(name="a\x1b]0;title\x07")}, "one line of text"),
        ({"contract": about(labels="abc")}, "labels must be a list of strings"),
        ({"contract": about(labels=["a", 1])}, "labels must be a list of strings"),
        ({"contract": about(labels=["\ud800"])}, "one line of text"),
        ({"contract": about(options=[1])}, "options must be an object"),
        ({"contract": '{"kind": "model", "options": {"x": NaN}}'}, "not JSON"),
        ({"contract": '{"kind": "model", "options": {"x": 1e999}}'}, "not JSON"),
        ({"contract": about(tolerances=[])}, "tolerances must be an object"),
        ({"contract": about(tolerances={"y": 1})}, r"tolerance of 'y' must be \[rtol, atol\]"),
        ({"contract": about(tolerances={"y": [1, 2, 3]})}, r"must be \[rtol, atol\]"),
        ({"contract": about(tolerances={"y": [True, 0]})}, r"must be \[rtol, atol\]"),
        ({"contract": about(tolerances={"y": ["1", 0]})}, r"must be \[rtol, atol\]"),
        ({"contract": about(tolerances={"y": [-1, 0]})}, "broken: .*must be a finite number"),
        ({"contract": about(tolerances={"y": [10**400, 0]})}, "broken: .*too large"),
        ({"metrics": "3"}, "onnxferry.metrics: expected an object, got int"),
        ({"provenance": "null"}, "expected an object, got NoneType"),
        ({"goldens": "{}"}, "expected a list of objects"),
        ({"goldens": [1]}, "expected a list of objects"),
        ({"goldens": [{"inputs": {}}]}, "a sample has no outputs"),
        ({"goldens": [{"inputs": [], "outputs": {}}]}, "a sample has no inputs"),
        ({"goldens": [{"inputs": {}, "outputs": {}}] * 5}, "at most 4 golden samples"),
        ({"goldens": [{"inputs": {"x": 1}, "outputs": {}}]}, "an array must be an object"),
        ({"goldens": golden(dtype="object")}, "unknown dtype 'object'"),
        ({"goldens": golden(dtype=["uint8"])}, "unknown dtype"),
        ({"goldens": golden(dtype="O" * 5000)}, "unknown dtype 'O{40}'"),
        ({"goldens": golden(shape="2")}, "a shape must be"),
        ({"goldens": golden(shape=[2.0])}, "a shape must be"),
        ({"goldens": golden(shape=[True, 2])}, "a shape must be"),
        ({"goldens": golden(shape=[-2])}, "a shape must be"),
        ({"goldens": golden(shape=[10**9])}, "a shape must be"),
        ({"goldens": golden(shape=[1] * 17)}, "a shape must be"),
        ({"goldens": golden(shape=[3])}, r"2 bytes do not fill shape \[3\] of uint8"),
        ({"goldens": golden(shape=[0] + [GOLDEN_BYTES] * 15, data="")}, "no array has the shape"),
        ({"goldens": golden(data=3)}, "base64 text"),
        ({"goldens": golden(data="YWI")}, "bad base64"),
        ({"goldens": golden(data="Y*WI=")}, "bad base64"),
        ({"goldens": golden(data="ÿ" * 4)}, "bad base64"),
        ({"goldens": golden(dtype="bool")}, "a bool is neither 0 nor 1"),
        ({"goldens": golden(dtype="str")}, "text must be a list of 2 strings"),
        ({"goldens": golden(dtype="str", data=["a"])}, "text must be a list of 2 strings"),
        ({"goldens": golden(dtype="str", data=["a", 1])}, "text must be a list of 2 strings"),
        ({"goldens": golden(dtype="str", data=["a", "\ud800"])}, "text holds half a character"),
        ({"goldens": golden(dtype="str", shape=[0] + [GOLDEN_BYTES] * 15, data=[])}, "no array has the shape"),
        ({"goldens": golden(dtype="str", data=["a", "b" * GOLDEN_BYTES])}, "golden samples take"),
    ],
)
def test_broken_contracts(changes, words):
    with pytest.raises(ArtifactError, match=words) as caught:
        contract_from_metadata(metadata(**changes))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_golden_text():
    words = np.array([["", "Łódź\n"], ["a\0", "x" * 40]], dtype=object)
    for sent in (words, words[:1].astype(str), words[:0]):
        contract = Contract(kind="model", name="m", goldens=(Golden({"x": sent}, {}),))
        read = contract_from_metadata(metadata_from_contract(contract)).goldens[0]
        assert read.inputs["x"].tolist() == sent.tolist()
        assert read.inputs["x"].shape == sent.shape
        assert read.nbytes() == sum(len(word.encode()) for word in sent.flat)
        assert metadata_from_contract(contract.replace(goldens=(read,))) == metadata_from_contract(contract)


def test_goldens_that_are_too_many_bytes():
    data = base64.b64encode(bytes(GOLDEN_BYTES // 2)).decode()
    array = {"dtype": "uint8", "shape": [GOLDEN_BYTES // 2], "data": data}
    with pytest.raises(ArtifactError, match="golden samples take 393216 bytes, more than the 262144"):
        contract_from_metadata(metadata(goldens=[{"inputs": {"a": array, "b": array}, "outputs": {"c": array}}]))


@pytest.mark.parametrize("seed", [1, 2, "fresh"])
def test_mutants_give_a_contract_or_our_errors(seed):
    """1000 a seed, in text and in structure; what is read can be written again."""
    if seed == "fresh":
        seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # shown where the test fails
    rng = random.Random(seed)
    source = metadata_from_contract(full_contract())
    oddities: list[object] = [None, True, -1, 0, 2**70, 10**400, 1.5, "", "x", "\ud800", "é" * 300, [], {}, [[]], {"": None}, [1, 2]]
    read = 0
    for number in range(1000):
        values = dict(source)
        key = rng.choice([key for key in values if key.startswith("onnxferry.")])
        if rng.random() < 0.5:
            at = rng.randrange(len(values[key]))
            values[key] = values[key][:at] + rng.choice(["", "[", '"', "9", "\\", "\0", "NaN", "é"]) + values[key][at + rng.randrange(3) :]
        elif key != "onnxferry.schema":
            values[key] = json.dumps(with_oddity(json.loads(values[key]), rng, oddities))
        try:
            contract = contract_from_metadata(values)
        except OnnxFerryError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, mutant {number}: {error!r}") from error
        read += 1
        assert contract is not None
        try:
            metadata_from_contract(contract)
        except ArtifactError as error:  # half a character within options and the like is carried no further
            assert "cannot be written as JSON" in str(error)  # noqa: PT017
    assert 50 < read < 950


def with_oddity(value: object, rng: random.Random, oddities: list[object]) -> object:
    """The JSON value with one part of it, of any depth, replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        return {**value, key: with_oddity(value[key], rng, oddities)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return [*value[:at], with_oddity(value[at], rng, oddities), *value[at + 1 :]]
    return rng.choice(oddities)


def test_int_conversion_limit_is_not_what_protects():
    """Python's limit on the digits of a number may be lifted by the app: the value is bounded all the same."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(ArtifactError, match="broken"):
            contract_from_metadata(metadata(contract='{"kind": "model", "tolerances": {"y": [' + "9" * 20_000 + ", 0]}}"))
    finally:
        sys.set_int_max_str_digits(limit)
