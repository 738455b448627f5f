"""What is written for other servers is what they read.

``model_config.binpb``: the descriptors of protobuf/model_config.proto of
https://github.com/triton-inference-server/common (BSD-3-Clause), by ``protoc --descriptor_set_out``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.server.deploy.kserve import manifest, write_kserve
from onnxferry.runtime.server.deploy.triton import write_triton
from onnxferry.runtime.server.options import ModelSource, model_source
from tests.runtime.server.conftest import write_echo


def triton_config(path: Path) -> Any:
    pool = descriptor_pool.DescriptorPool()
    data = Path(__file__).with_name("model_config.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))()
    return text_format.Parse(path.read_text(), config, descriptor_pool=pool)


def test_a_recogniser_for_triton(tmp_path: Path) -> None:
    folder = write_triton(tmp_path / "repository", model_source("digits"))
    config = triton_config(folder / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 32)
    (image,) = config.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", 2, [-1, -1, 1])  # TYPE_UINT8, without the batch
    outputs = {output.name: output for output in config.output}
    assert list(outputs["probabilities"].dims) == [10]
    assert outputs["probabilities"].label_filename == "labels.txt"
    assert list(outputs["class_index"].reshape.shape) == []
    assert list(outputs["class_index"].dims) == [1]
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000
    assert (folder / "labels.txt").read_text().split() == list("0123456789")
    assert (folder / "1" / "model.onnx").is_file()
    with pytest.raises(InputError, match="exists already"):
        write_triton(tmp_path / "repository", model_source("digits"))


def test_any_types_and_versions_for_triton(tmp_path: Path) -> None:
    path = write_echo(tmp_path / "echo.onnx", ())
    folder = write_triton(tmp_path, ModelSource("echo", str(path), "7"))
    config = triton_config(folder / "config.pbtxt")
    assert config.max_batch_size == 0
    assert {tensor.name: tensor.data_type for tensor in config.input}["BYTES"] == 13  # TYPE_STRING
    assert not config.HasField("dynamic_batching")
    assert "scale" not in {tensor.name for tensor in config.input}  # optional: it keeps its default
    assert (folder / "7" / "model.onnx").is_file()


def test_weights_beside_the_file_go_along(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 64])],
        [onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "in").mkdir()
    onnx.save(model, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    folder = write_triton(tmp_path / "out", model_source(str(tmp_path / "in" / "m.onnx")))
    assert {file.name for file in (folder / "1").iterdir()} == {"model.onnx", "m.data"}
    from onnxferry.runtime import load

    with load(folder / "1" / "model.onnx", device="cpu") as copy:
        np.testing.assert_array_equal(copy.run({"x": np.ones((1, 64), np.float32)})["y"], np.ones((1, 64), np.float32))


NUMBER_OR_TEXT = (int, str)
QUANTITIES = {"cpu": NUMBER_OR_TEXT, "memory": NUMBER_OR_TEXT}
PROBE = {"httpGet": {"path": str, "port": NUMBER_OR_TEXT}, "periodSeconds": int}
RESOURCES = {"limits": QUANTITIES, "requests": QUANTITIES}
CAPABILITIES = {"drop": [str]}
CONTAINER = {
    "name": str, "image": str, "command": [str], "ports": [{"containerPort": int, "protocol": str}], "readinessProbe": PROBE,
    "livenessProbe": PROBE, "resources": RESOURCES, "volumeMounts": [{"name": str, "mountPath": str}],
    "securityContext": {
        "allowPrivilegeEscalation": bool, "readOnlyRootFilesystem": bool, "runAsNonRoot": bool, "capabilities": CAPABILITIES,
    },
}  # fmt: skip
MODEL = {"modelFormat": {"name": str}, "protocolVersion": str, "storageUri": str, "resources": RESOURCES}
PREDICTOR = {"minReplicas": int, "containers": [CONTAINER], "model": MODEL, "volumes": [{"name": str, "emptyDir": {}}]}
INFERENCE_SERVICE = {"apiVersion": str, "kind": str, "metadata": {"name": str}, "spec": {"predictor": PREDICTOR}}
"""Names and types of the fields that manifests have, by the schema of inferenceservices.serving.kserve.io, v1beta1, of KServe (Apache-2.0).

tests/bench/check_kserve.py compares manifests with that schema itself.
"""


def misfits(value: object, expected: object, place: str = "") -> list[str]:
    """Fields that the schema does not have, and values of another type."""
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return [place]
        unknown = [f"{place}.{name}" for name in set(value) - set(expected)]
        return unknown + [wrong for name in set(value) & set(expected) for wrong in misfits(value[name], expected[name], f"{place}.{name}")]
    if isinstance(expected, list):
        items = value if isinstance(value, list) else [value]
        return [] if value == [] else [wrong for item in items for wrong in misfits(item, expected[0], f"{place}[]")]
    allowed = expected if isinstance(expected, tuple) else (expected,)
    return [] if type(value) in allowed else [place]


def test_manifests_fit_the_schema_of_an_inference_service() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    models = [model_source("digits"), model_source("m:2=a.onnx")]
    for storage in ("", "s3://bucket/models"):
        document = yaml.safe_load(manifest("digits", "registry/x:1", models, storage, 2, "2Gi"))
        assert misfits(document, INFERENCE_SERVICE) == []
        document["spec"]["predictor"]["minReplica"] = document["spec"]["predictor"].pop("minReplicas")
        assert misfits(document, INFERENCE_SERVICE) == [".spec.predictor.minReplica"]
    assert misfits({"kind": 1}, INFERENCE_SERVICE) == [".kind"]


def test_a_manifest_for_kserve(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    document = yaml.safe_load(manifest("digits", "registry/x:1", [model_source("digits"), model_source("m:2=a.onnx")], "", 2, "2Gi"))
    assert (document["apiVersion"], document["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = document["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert container["command"][:4] == ["onnxferry", "serve", "digits", "m:2=a.onnx"]
    assert container["image"] == "registry/x:1"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert predictor["volumes"][0]["name"] == container["volumeMounts"][0]["name"]
    triton = yaml.safe_load(manifest("digits", "", [model_source("digits")], "s3://b: [x]", 1, "1Gi"))["spec"]["predictor"]["model"]
    assert (triton["modelFormat"]["name"], triton["storageUri"]) == ("triton", "s3://b: [x]")
    with pytest.raises(InputError, match="lower-case"):
        write_kserve(tmp_path / "x.yaml", "Digits!", "i", [model_source("digits")])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "mlserver", str(tmp_path / "models"), "digits", "--json"]) == 0
    (written,) = json.loads(capsys.readouterr().out)["written"]
    settings = json.loads((Path(written) / "model-settings.json").read_text())
    assert settings["parameters"]["uri"] == "./model.onnx"
    module, _, name = settings["implementation"].rpartition(".")
    source = Path(__file__).parents[4] / "runtime" / "server" / "deploy" / f"{module.rsplit('.', 1)[1]}.py"
    assert f"class {name}(MLModel)" in source.read_text()
    assert main(["deploy", "kserve", str(tmp_path / "s.yaml"), "digits"]) == 0
    assert "kubectl apply" in capsys.readouterr().out
    assert main(["deploy", "triton", str(tmp_path / "r"), "nothing"]) == 1
    assert not (tmp_path / "r").exists()
