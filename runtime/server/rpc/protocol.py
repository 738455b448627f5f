"""The messages of the Open Inference Protocol for gRPC, made from the descriptors in ``inference.binpb``.

They live in a descriptor pool of their own: another package's copy of the same messages (tritonclient has one) can be imported into the
same process. Nothing depends on the version of protobuf that generated them.

Source: https://github.com/kserve/open-inference-protocol; ``inference.proto`` beside this file says how the descriptors are made.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "inference"

SERVICE = f"{PACKAGE}.GRPCInferenceService"


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    described = descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("inference.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)
    return pool


@cache
def message(name: str) -> Any:
    """The class of a message, such as ``"ModelInferRequest"``."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


def methods() -> dict[str, tuple[Any, Any]]:
    """The service's methods by name, with the classes of their request and response."""
    service = _pool().FindServiceByName(SERVICE)
    return {method.name: (message(method.input_type.name), message(method.output_type.name)) for method in service.methods}
