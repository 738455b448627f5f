"""Compares what `onnxferry deploy kserve` writes with KServe's own schema: every field must be known there, and of its type.

    python tests/bench/check_kserve.py serving.kserve.io_inferenceservices.yaml

The file is config/crd/full/serving.kserve.io_inferenceservices.yaml of https://github.com/kserve/kserve. Needs jsonschema and PyYAML.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from onnxferry.runtime.server.deploy.kserve import manifest
from onnxferry.runtime.server.options import model_source


def strict(schema: Any) -> Any:
    """The schema, which refuses fields that it does not name: the server of Kubernetes drops those and says nothing."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: strict(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        made["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        made.setdefault("additionalProperties", False)
    return made


def main() -> None:
    document = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    (version,) = (each for each in document["spec"]["versions"] if each["name"] == "v1beta1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    models = [model_source("digits"), model_source("m:2=a.onnx")]
    for storage in ("", "s3://bucket/models"):
        jsonschema.validate(yaml.safe_load(manifest("digits", "registry/x:1", models, storage, 2, "2Gi")), schema)
    print("both manifests fit")


if __name__ == "__main__":
    main()
