"""A model class for MLServer (https://github.com/SeldonIO/MLServer), which has none for ONNX: any .onnx file, by its own names and types.

``model-settings.json`` names it as ``implementation``; ``onnxferry deploy mlserver`` writes one. It needs mlserver and
onnxferry[cpu] in one environment, and nothing of the extra ``serve``.
"""

from __future__ import annotations

from typing import Any

from mlserver.errors import InferenceError
from mlserver.model import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataTensor, ResponseOutput
from mlserver.utils import get_model_uri

from onnxferry.runtime.errors import OnnxFerryError, first_line
from onnxferry.runtime.server.tensors import datatype_of, described, from_list, metadata, to_list
from onnxferry.runtime.tasks.loading import load


class OnnxFerryModel(MLModel):  # type: ignore[misc]  # it may not be installed, and has no types then
    """MLServer's interface around a loaded model."""

    async def load(self) -> bool:
        uri = await get_model_uri(self._settings, wellknown_filenames=["model.onnx"])
        self._model = load(uri)
        engine = self._model.engine
        self._inputs = {spec.name: spec for spec in (*engine.inputs, *engine.optional_inputs) if datatype_of(spec)}
        self._outputs = {spec.name: spec for spec in engine.outputs if datatype_of(spec)}
        return True

    async def unload(self) -> bool:
        self._model.close()
        return True

    async def metadata(self) -> MetadataModelResponse:
        inputs = [MetadataTensor(**metadata(spec)) for spec in self._inputs.values()]
        outputs = [MetadataTensor(**metadata(spec)) for spec in self._outputs.values()]
        return MetadataModelResponse(
            name=self.name, versions=[self.version or "1"], platform="onnxruntime_onnx", inputs=inputs, outputs=outputs
        )

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        try:
            feeds = {tensor.name: self._array(tensor) for tensor in payload.inputs}
            wanted = [output.name for output in payload.outputs or ()]
            answer = await self._model.engine.arun(feeds, wanted or list(self._outputs))
        except OnnxFerryError as error:
            raise InferenceError(first_line(error)) from error
        outputs = [ResponseOutput(**described(name, array), data=to_list(array)) for name, array in answer.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _array(self, tensor: Any) -> Any:
        spec = self._inputs.get(tensor.name)
        if spec is None:
            raise InferenceError(f"there is no input {tensor.name[:60]!r}; the model takes {', '.join(self._inputs)}")
        data = getattr(tensor.data, "root", tensor.data)
        elements = [element.decode("utf-8") if isinstance(element, bytes) else element for element in data]
        datatype = getattr(tensor.datatype, "value", tensor.datatype)
        return from_list(spec, datatype, list(tensor.shape), elements)
