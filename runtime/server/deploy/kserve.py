"""A KServe InferenceService that runs this package's server, or Triton on a model repository.

YAML, written as JSON within it where a value is a text, so that no name can change the document. Source:
https://kserve.github.io/website, the InferenceService of serving.kserve.io/v1beta1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import check_place, write_text_whole
from onnxferry.runtime.server.options import ModelSource

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def write_kserve(
    path: Path, name: str, image: str, models: list[ModelSource], storage: str = "", cpu: int = 1, memory: str = "1Gi"
) -> Path:
    """Writes the manifest. ``image``: of this package's server, which holds the models; with ``storage`` (``s3://…``, ``pvc://…``) Triton
    serves the repository there instead. Raises InputError for a name that Kubernetes does not take.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"a service's name must be lower-case letters, digits and '-', at most 63, got {name[:63]!r}")
    check_place(path)
    write_text_whole(path, manifest(name, image, models, storage, cpu, memory))
    return path


def manifest(name: str, image: str, models: list[ModelSource], storage: str, cpu: int, memory: str) -> str:
    """The document."""
    resources = f"""        limits: {{cpu: {json.dumps(str(cpu))}, memory: {json.dumps(memory)}}}
        requests: {{cpu: {json.dumps(str(cpu))}, memory: {json.dumps(memory)}}}
"""
    head = f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {json.dumps(name)}
spec:
  predictor:
    minReplicas: 1
"""
    if storage:
        return f"""{head}    model:
      modelFormat:
        name: triton
      protocolVersion: v2
      storageUri: {json.dumps(storage)}
      resources:
{resources}"""
    sources = [source.source if source.source == source.name and source.version == "1" else _argument(source) for source in models]
    # Within a cluster the mesh decides who may connect: the server itself serves everybody who reaches its pod.
    command = ["onnxferry", "serve", *sources, "--host", "0.0.0.0", "--port", "8080", "--insecure"]
    return f"""{head}    containers:
    - name: kserve-container
      image: {json.dumps(image)}
      command: {json.dumps(command)}
      ports:
      - containerPort: 8080
        protocol: TCP
      readinessProbe:
        httpGet: {{path: /v2/health/ready, port: 8080}}
        periodSeconds: 5
      livenessProbe:
        httpGet: {{path: /v2/health/live, port: 8080}}
        periodSeconds: 10
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        runAsNonRoot: true
        capabilities: {{drop: [ALL]}}
      volumeMounts:
      - {{name: tmp, mountPath: /tmp}}
      resources:
{resources}    volumes:
    - name: tmp
      emptyDir: {{}}
"""


def _argument(source: ModelSource) -> str:
    return f"{source.name}:{source.version}={source.source}"
