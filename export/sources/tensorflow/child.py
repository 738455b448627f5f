"""The process that runs TensorFlow and tf2onnx: a program by itself, for an environment that need not have onnxferry.

    PYTHON child.py          # requests as lines of JSON on stdin, answers on stdout; arrays and models go over files

It imports nothing but numpy, tensorflow, tf2onnx and keras, and those only when they are asked for.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NO_NUMBERS = ("string", "resource", "variant", "bfloat16", "qint8", "quint8", "qint32", "complex64", "complex128")


CHANGING = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterAdd", "ResourceScatterUpdate")
TABLES = ("HashTableV2", "LookupTableFindV2", "LookupTableSizeV2", "MutableHashTableV2")
TABLE_LAYERS = ("StringLookup", "TextVectorization", "IntegerLookup", "Hashing", "HashedCrossing")


class RefusedError(Exception):
    """One line for the user."""


def versions(keras_file: bool) -> dict[str, str]:
    import numpy
    import tensorflow

    found = {"tensorflow": tensorflow.__version__, "numpy": numpy.__version__}
    if keras_file:
        import keras

        return {"keras": keras.__version__, **found}
    import tf2onnx

    return {**found, "tf2onnx": tf2onnx.__version__}


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
        variables = getattr(self.model, "variables", None) or self.function.variables
        with moved_variables([each for each in variables if each.dtype.is_floating], relative, seed):
            return self._answer(feeds)

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


class KerasFile:
    """A .keras file whose inputs go through tables (StringLookup, TextVectorization, IntegerLookup), which TensorFlow holds.

    It is cut behind the tables: what they hold is described, and the layers behind them are saved as a model of their own.
    """

    def __init__(self, path: str, signature: str | None) -> None:
        import keras

        try:
            self.model = keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise RefusedError(f"Keras {keras.__version__} cannot open the file: {first_words(error)}") from error
        graph = getattr(self.model, "_functional", self.model)
        if not getattr(graph, "_nodes_by_depth", None):
            raise RefusedError("this Keras model does not declare its inputs: build it from keras.Input, or give keras.Model(x, model(x))")
        self.given = list(graph.inputs)
        places = {id(tensor): place for place, tensor in enumerate(self.given)}
        self.tables: list[dict[str, Any]] = []
        self.behind: list[Any] = []  # the tensors that the tables give
        for node in (node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]):
            layer, kind = node.operation, type(node.operation).__name__
            sources = node.input_tensors
            if kind in TABLE_LAYERS:
                if len(sources) != 1 or id(sources[0]) not in places:
                    raise RefusedError(f"the {kind} {layer.name!r} looks up what the model computes: put it at an input")
                self.tables.append({"input": places[id(sources[0])], **table_of(layer, kind)})
                self.behind.append(node.output_tensors[0])
            elif any(tensor.dtype == "string" for tensor in sources):
                raise RefusedError(f"the {kind} {layer.name!r} takes text, which ONNX has no operators for: compute it before the file")
        self.inputs = [described(tensor.name, tensor.dtype, tensor.shape, "input", text=True) for tensor in self.given]
        looked_up = {table["input"] for table in self.tables}
        self.direct = [place for place in range(len(self.given)) if place not in looked_up]
        keys = getattr(self.model, "output", None)
        names = sorted(keys) if isinstance(keys, dict) else [str(name) for name in getattr(self.model, "output_names", ())]
        self.outputs = [{"name": name} for name in names]
        self.operators = ["Sigmoid"] if any(word in self.model.to_json() for word in ("sigmoid", "LSTM", "GRU", "silu", "swish")) else []
        self.front = keras.Model(self.given, self.behind)

    def run(self, feeds: dict[str, Any], relative: float = 0.0, seed: int = 0) -> dict[str, Any]:
        """The answers by their places. ``relative``: the weights are off by about so much of themselves."""
        weights = [each for each in self.model.weights if "float" in str(each.dtype)]
        with moved_variables(weights, relative, seed):
            return self._answer(self.model, feeds)

    def _answer(self, model: Any, feeds: dict[str, Any]) -> dict[str, Any]:
        import keras
        import tensorflow as tf

        tensors = [tf.constant(feeds[each["name"]], each["dtype"]) for each in self.inputs]
        whole = model is self.model and hasattr(model, "input")
        packed = keras.tree.pack_sequence_as(model.input, tensors) if whole else tensors if len(tensors) > 1 else tensors[0]
        found = keras.tree.flatten(model(packed, training=False))
        return {str(place): keras.ops.convert_to_numpy(each) for place, each in enumerate(found)}

    def cut(self, path: str, feeds: dict[str, Any], out: str) -> dict[str, Any]:
        """Saves the layers behind the tables, and what they are given for these feeds, in the order of their inputs."""
        import keras
        import numpy as np

        made = self._answer(self.front, feeds)
        direct = [self.given[place] for place in self.direct]
        arrays = [*made.values(), *(feeds[self.inputs[place]["name"]] for place in self.direct)]
        np.savez(out, **{str(place): array for place, array in enumerate(arrays)})
        outputs = list(self.model.outputs)
        known = [id(tensor) for tensor in self.behind]
        if all(id(tensor) in known for tensor in outputs):  # tables alone
            return {"ends": [known.index(id(tensor)) for tensor in outputs]}
        keras.Model([*self.behind, *direct], outputs if len(outputs) > 1 else outputs[0]).save(path)
        return {"ends": None}


def table_of(layer: Any, kind: str) -> dict[str, Any]:
    """What a layer of ``TABLE_LAYERS`` holds, as JSON has it."""
    found: dict[str, Any] = {"layer": layer.name, "kind": kind}
    lookup = layer
    if kind in ("Hashing", "HashedCrossing"):
        raise RefusedError(f"the {kind} layer {layer.name!r} hashes with FarmHash, which ONNX has not: take StringLookup, or IntegerLookup")
    if kind == "TextVectorization":
        lookup = layer._lookup_layer
        for what in ("standardize", "split"):
            if callable(getattr(layer, f"_{what}")):
                raise RefusedError(f"the TextVectorization {layer.name!r} has a function of its own as {what}: compute it before the file")
        if layer._ragged:
            raise RefusedError(f"the TextVectorization {layer.name!r} has ragged=True: set output_sequence_length in its place")
        found |= {"standardize": layer._standardize, "split": layer._split, "length": layer._output_sequence_length}
        found["ngrams"] = None if layer._ngrams is None else list(layer._ngrams)
    if lookup.sparse:
        raise RefusedError(f"the {kind} {layer.name!r} has sparse=True, and a file gives dense arrays: set sparse=False")
    if lookup.invert:
        raise RefusedError(f"the {kind} {layer.name!r} gives text (invert=True): leave it out, and give the classes with --labels")
    lookup._ensure_known_vocab_size()
    words = lookup.get_vocabulary(include_special_tokens=False)
    text = lookup.vocabulary_dtype == "string"
    return {
        **found,
        "vocabulary": [str(word) if text else int(word) for word in words],
        "first": lookup._token_start_index(),
        "unknown": lookup._oov_start_index(),
        "unknowns": lookup.num_oov_indices,
        "method": getattr(lookup, "oov_method", "floormod"),
        "mask": None if lookup.mask_token is None else str(lookup.mask_token) if text else int(lookup.mask_token),
        "mode": lookup.output_mode,
        "depth": lookup.max_tokens if lookup.pad_to_max_tokens else lookup._frozen_vocab_size,
        "weights": lookup.idf_weights_const.numpy().tolist() if lookup.output_mode == "tf_idf" else None,
    }


@contextmanager
def moved_variables(variables: Any, relative: float, seed: int) -> Iterator[None]:
    """Each variable off by about ``relative`` of itself, for a while."""
    import numpy as np

    rng, kept = np.random.default_rng(seed), []
    for variable in variables if relative else ():
        value = np.asarray(variable)
        kept.append((variable, value))
        variable.assign((value * (1 + relative * rng.uniform(-1, 1, value.shape))).astype(value.dtype))
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


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


def described(name: str, dtype: str, shape: Any, what: str, *, text: bool = False) -> dict[str, Any]:
    """``text``: strings are taken."""
    if dtype in NO_NUMBERS and not (text and dtype == "string"):
        held = {"string": "text (tf.string)", "resource": "a resource", "variant": "a variant"}.get(dtype, dtype)
        way = "; take the text's numbers as an input, and make them before the file" if dtype == "string" else ""
        raise RefusedError(f"the signature's {what} {name!r} is {held}, and an exported file takes and gives numbers{way}")
    if getattr(shape, "rank", 0) is None:
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


KINDS = {"saved": SavedModel, "lite": Lite, "keras": KerasFile}


def first_words(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no message").strip()[:300]


class Server:
    def __init__(self) -> None:
        self.models: list[Any] = []

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["do"] == "versions":
            return versions(asked["keras"])
        if asked["do"] == "open":
            made: Any = KINDS[asked["kind"]](asked["path"], asked["signature"])
            self.models.append(made)
            tables = {"tables": made.tables} if asked["kind"] == "keras" else {}
            return {"id": len(self.models) - 1, "inputs": made.inputs, "outputs": made.outputs, "operators": made.operators, **tables}
        if asked["do"] == "close":
            self.models[asked["id"]] = None
            return {}
        model = self.models[asked["id"]]
        if asked["do"] == "run":
            import numpy as np

            np.savez(asked["out"], **model.run(array_file(asked["feeds"]), asked["relative"], asked["seed"]))
            return {}
        if asked["do"] == "cut":
            return dict(model.cut(asked["path"], array_file(asked["feeds"]), asked["out"]))
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
    os.environ["KERAS_BACKEND"] = "tensorflow"
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
            reply = {"failed": f"{type(error).__name__}: {first_words(error)}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
