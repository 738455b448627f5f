"""The process that runs TensorFlow and tf2onnx: a program by itself, for an environment that need not have onnxferry.

    PYTHON child.py          # requests as lines of JSON on stdin, answers on stdout; arrays and models go over files

It imports nothing but numpy, tensorflow and tf2onnx, and those only when they are asked for.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

NO_NUMBERS = ("string", "resource", "variant", "bfloat16", "qint8", "quint8", "qint32", "complex64", "complex128")


CHANGING = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterAdd", "ResourceScatterUpdate")
TABLES = ("HashTableV2", "LookupTableFindV2", "LookupTableSizeV2", "MutableHashTableV2")


class RefusedError(Exception):
    """One line for the user."""


def versions() -> dict[str, str]:
    import numpy
    import tensorflow
    import tf2onnx

    return {"tensorflow": tensorflow.__version__, "tf2onnx": tf2onnx.__version__, "numpy": numpy.__version__}


def array_file(path: str) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


class SavedModel:
    """One signature of a SavedModel."""

    def __init__(self, path: str, signature: str | None) -> None:
        import tensorflow as tf

        self.model = tf.saved_model.load(path)
        names = sorted(self.model.signatures)
        if not names:
            raise RefusedError(
                "the SavedModel has no signatures, so it does not say what it takes: save it with tf.saved_model.save(module, folder, "
                "signatures=function.get_concrete_function(tf.TensorSpec(...)))"
            )
        default = "serving_default" if "serving_default" in names else names[0] if len(names) == 1 else None
        chosen = signature or default
        if chosen is None:
            raise RefusedError(f"the SavedModel has the signatures {', '.join(names)}: choose one with --signature NAME")
        if chosen not in names:
            raise RefusedError(f"the SavedModel has no signature {chosen!r}; it has {', '.join(names)}")
        self.function = self.model.signatures[chosen]
        specs = self.function.structured_input_signature[1]
        # A dictionary's order is not kept in the file; the arguments' is.
        order = [name for name in getattr(self.function, "_arg_keywords", None) or sorted(specs) if name in specs]
        self.inputs = [described(name, specs[name].dtype.name, specs[name].shape, "input") for name in order]
        self.outputs = [
            described(name, spec.dtype.name, spec.shape, "output") for name, spec in sorted(self.function.structured_outputs.items())
        ]

        self.operators = operators_of(self.function)
        for found in self.operators:
            if found in CHANGING:
                raise RefusedError(
                    f"the model changes a variable when it runs ({found}), and a file keeps none: take it as an input and an output"
                )
            if found in TABLES:
                raise RefusedError(
                    f"the model looks numbers or text up in a table ({found}), which is a resource: look them up before the file"
                )

    def run(self, feeds: dict[str, Any], relative: float = 0.0, seed: int = 0) -> dict[str, Any]:
        """``relative``: the variables are off by about so much of themselves."""
        import numpy as np

        rng, kept = np.random.default_rng(seed), []
        for variable in getattr(self.model, "variables", None) or self.function.variables if relative else ():
            if variable.dtype.is_floating:
                kept.append((variable, variable.numpy()))
                moved = kept[-1][1] * (1 + relative * rng.uniform(-1, 1, variable.shape))
                variable.assign(moved.astype(kept[-1][1].dtype))
        try:
            return self._answer(feeds)
        finally:
            for variable, value in kept:
                variable.assign(value)

    def _answer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        answer = self.function(**{each["name"]: tf.constant(feeds[each["name"]], each["dtype"]) for each in self.inputs})
        return {name: value.numpy() for name, value in answer.items()}

    def convert(self, opset: int, path: str) -> dict[str, Any]:
        import tensorflow as tf
        import tf2onnx

        names = [each["name"] for each in self.inputs]
        specs = [tf.TensorSpec(each["shape"], each["dtype"], name=f"given_{place}") for place, each in enumerate(self.inputs)]
        function = self.function

        @tf.function(input_signature=specs)  # type: ignore[untyped-decorator, unused-ignore]
        def call(*arrays: Any) -> Any:
            answer = function(**dict(zip(names, arrays, strict=True)))
            return [answer[name] for name in sorted(answer)]

        tf2onnx.convert.from_function(call, input_signature=specs, opset=opset, output_path=path)
        return {
            "inputs": {f"given_{place}": name for place, name in enumerate(names)},
            "outputs": [each["name"] for each in self.outputs],
        }


class Lite:
    """A TensorFlow Lite file."""

    def __init__(self, path: str, signature: str | None) -> None:
        import tensorflow as tf

        self.path = path
        try:
            self.interpreter = tf.lite.Interpreter(model_path=path)
        except ValueError as error:
            raise RefusedError(f"TensorFlow Lite cannot read the file: {str(error).splitlines()[0][:300]}") from error
        known = self.interpreter._get_full_signature_list()
        if signature is not None and signature not in known:
            raise RefusedError(f"the file has no signature {signature!r}; it has {', '.join(sorted(known)) or 'none'}")
        if signature is None and len(known) > 1:
            raise RefusedError(f"the file has the signatures {', '.join(sorted(known))}: choose one with --signature NAME")
        if known:
            chosen = known[signature or next(iter(known))]
            self.input_places, self.output_places = dict(chosen["inputs"]), dict(sorted(chosen["outputs"].items()))
        else:
            self.input_places = {plain_name(each["name"]): each["index"] for each in self.interpreter.get_input_details()}
            self.output_places = {plain_name(each["name"]): each["index"] for each in self.interpreter.get_output_details()}
        self.operators = sorted({each["op_name"] for each in self.interpreter._get_ops_details()})
        self.details = {each["index"]: each for each in self.interpreter.get_tensor_details()}
        self.inputs = [self._described(name, place, "input") for name, place in self.input_places.items()]
        self.outputs = [self._described(name, place, "output") for name, place in self.output_places.items()]

    def _described(self, name: str, place: int, what: str) -> dict[str, Any]:
        import numpy as np

        held = self.details[place]
        shape = [None if size == -1 else int(size) for size in held.get("shape_signature", held["shape"])]
        kind = np.dtype(held["dtype"])
        return described(name, "string" if kind.kind in "OS" else kind.name, shape, what)

    def run(self, feeds: dict[str, Any], relative: float = 0.0, seed: int = 0) -> dict[str, Any]:
        """The weights are part of the file, and stay as they are."""
        for name, place in self.input_places.items():
            self.interpreter.resize_tensor_input(place, feeds[name].shape)
        self.interpreter.allocate_tensors()
        for name, place in self.input_places.items():
            self.interpreter.set_tensor(place, feeds[name])
        self.interpreter.invoke()
        return {name: self.interpreter.get_tensor(place) for name, place in self.output_places.items()}

    def convert(self, opset: int, path: str) -> dict[str, Any]:
        import tf2onnx

        tf2onnx.convert.from_tflite(self.path, opset=opset, output_path=path)
        return {
            "inputs": {self.details[place]["name"]: name for name, place in self.input_places.items()},
            "outputs": {self.details[place]["name"]: name for name, place in self.output_places.items()},
        }


def operators_of(function: Any) -> list[str]:
    """The kinds of operators, in the functions that it calls too."""
    graph = function.graph.as_graph_def()
    found = {node.op for node in graph.node}
    for inner in graph.library.function:
        found |= {node.op for node in inner.node_def}
    return sorted(found)


def plain_name(name: str) -> str:
    return name.split(":")[0].removeprefix("serving_default_")


def described(name: str, dtype: str, shape: Any, what: str) -> dict[str, Any]:
    if dtype in NO_NUMBERS:
        held = {"string": "text (tf.string)", "resource": "a resource", "variant": "a variant"}.get(dtype, dtype)
        way = "; take the text's numbers as an input, and make them before the file" if dtype == "string" else ""
        raise RefusedError(f"the signature's {what} {name!r} is {held}, and an exported file takes and gives numbers{way}")
    sizes = getattr(shape, "rank", 0)
    if sizes is None:
        raise RefusedError(
            f"the signature's {what} {name!r} has no number of axes: declare its shape, such as tf.TensorSpec([None, 28, 28])"
        )
    return {"name": name, "dtype": dtype, "shape": [None if size is None else int(size) for size in shape]}


class Errors(logging.Handler):
    """What tf2onnx logs as errors: it writes a file in spite of them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Server:
    def __init__(self) -> None:
        self.models: list[Any] = []

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["do"] == "versions":
            return versions()
        if asked["do"] == "open":
            made = (Lite if asked["lite"] else SavedModel)(asked["path"], asked["signature"])
            self.models.append(made)
            return {"id": len(self.models) - 1, "inputs": made.inputs, "outputs": made.outputs, "operators": made.operators}
        if asked["do"] == "close":
            self.models[asked["id"]] = None
            return {}
        model = self.models[asked["id"]]
        if asked["do"] == "run":
            import numpy as np

            np.savez(asked["out"], **model.run(array_file(asked["feeds"]), asked["relative"], asked["seed"]))
            return {}
        errors = Errors()
        log = logging.getLogger("tf2onnx")
        log.addHandler(errors)
        try:
            return {**model.convert(asked["opset"], asked["out"]), "errors": errors.lines}
        finally:
            log.removeHandler(errors)


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what TensorFlow prints is no answer
    server = Server()
    for line in sys.stdin:
        try:
            reply = server.answer(json.loads(line))
        except RefusedError as error:
            reply = {"refused": str(error)}
        except ModuleNotFoundError as error:
            reply = {"missing": error.name or "tensorflow"}
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent says it in one line
            words = next((line for line in str(error).splitlines() if line.strip()), "no message")
            reply = {"failed": f"{type(error).__name__}: {words.strip()[:300]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
