"""Which framework a model is from: one table, asked by the export and by the verification alike.

To add a source framework, write its file with a function ``plans`` and add a row to :data:`FRAMEWORKS`.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import IN_TRAINING_MODE, Plan
from onnxferry.export.sources.factory import FACTORY, object_from_factory
from onnxferry.export.sources.named_models import NAME, NamedModel
from onnxferry.export.sources.other_files import is_saved_model, is_torchscript, refuse_other, way_from
from onnxferry.export.tasks.plans import task_plans
from onnxferry.runtime.arguments import kind
from onnxferry.runtime.errors import ExportError, InputError, MissingExtraError

CODE = (".pkl", ".pickle", ".joblib")
"""Endings of files that may run code when they are read."""


PROGRAM = ".pt2"
"""Ending of a file of ``torch.export.save``, which has example inputs of its own."""


@dataclass(frozen=True)
class Framework:
    """A row of the table."""

    name: str  # what it takes, for messages
    package: str  # top-level packages that define the classes of its models; "" where it has files only
    suffixes: tuple[str, ...]  # endings of its files; "/" for a folder
    plans: str  # "module:function", called as function(model, example_inputs, options, target) -> Sequence[Plan]
    options: frozenset[str]  # the options that it takes besides COMMON
    extra: str  # the extra that installs what it needs
    functions: bool = False  # whether plain functions are models of it
    marker: str = ""  # a file that its folders hold
    own_task: bool = False  # whether it puts images in front and classes behind itself

    def matches(self, model: Any) -> bool:
        """True for a path to one of its files, or an object of one of its classes. Imports nothing."""
        if isinstance(model, Path):
            if model.is_dir():
                return "/" in self.suffixes and (not self.marker or (model / self.marker).is_file())
            return model.suffix.lower() in self.suffixes
        return any(is_of(package, model) for package in self.package.split()) or (self.functions and is_jax_function(model))


COMMON = frozenset({"golden", "name", "description", "license", "command"})


COMPARED = frozenset({"dynamic_shapes", "output_names", "rtol", "atol", "samples", "labels", "image", "activation", "scores"})


NAMED = Framework(
    "a model of timm or torchvision, by name (timm:resnet18)",
    "",
    (),
    "onnxferry.export.sources.zoo_models:plans",
    (COMPARED - {"dynamic_shapes", "output_names", "samples"}) | {"opset", "strict_nonfinite"},
    "timm",
    own_task=True,
)

FRAMEWORKS = (
    NAMED,
    # Before runs, which are folders too.
    Framework(
        "a folder of transformers (config.json, safetensors)",
        "",
        ("/",),
        "onnxferry.export.sources.transformers.source:plans",
        frozenset({"rtol", "atol", "strict_nonfinite", "opset"}),
        "transformers",
        marker="config.json",
    ),
    Framework(
        "a run folder or checkpoint (.pt)",
        "",
        ("/", ".pt", ".pth", ".ckpt"),
        "onnxferry.export.families.checkpoint:plans",
        frozenset({"with_labels", "bits"}),
        "export",
    ),
    Framework(
        "an .onnx file",
        "",
        (".onnx",),
        "onnxferry.export.sources.onnx_file:plans",
        (COMPARED - {"output_names"}) | {"strict_nonfinite"},
        "export",
    ),
    Framework(
        "a JAX function or module (Flax, Equinox)",
        "jax jaxlib flax equinox",
        (),
        "onnxferry.export.sources.jax.source:plans",
        COMPARED | {"opset", "strict_nonfinite"},
        "jax",
        functions=True,
    ),
    # Before scikit-learn: their estimators are its own too.
    Framework(
        "a LightGBM, XGBoost or CatBoost model (.txt, .json, .ubj, .cbm)",
        "lightgbm xgboost catboost",
        (".txt", ".json", ".ubj", ".cbm", ".bst", ".model"),
        "onnxferry.export.sources.boosted.source:plans",
        COMPARED | {"opset"},
        "boosted",
    ),
    Framework(
        "a fitted scikit-learn estimator",
        "sklearn",
        (),
        "onnxferry.export.sources.sklearn.estimator:plans",
        COMPARED | {"opset"},
        "sklearn",
    ),
    # Before PyTorch: with Keras' torch backend, its models are torch.nn.Modules too.
    Framework(
        "a Keras model (.keras)",
        "keras",
        (".keras",),
        "onnxferry.export.sources.keras:plans",
        COMPARED | {"opset", "strict_nonfinite", "python"},
        "keras",
    ),
    # After Keras: the models of its TensorFlow backend have TensorFlow's classes too.
    Framework(
        "a TensorFlow SavedModel folder, tf.function or .tflite file",
        "tensorflow",
        (".tflite", ".lite"),
        "onnxferry.export.sources.tensorflow.source:plans",
        COMPARED | {"opset", "strict_nonfinite", "signature", "python"},
        "tensorflow",
    ),
    Framework(
        "a torch.nn.Module, torch.export program (.pt2) or TorchScript archive (.pt, .torchscript)",
        "torch",
        (PROGRAM, ".torchscript"),
        "onnxferry.export.sources.pytorch.plan:plans",
        COMPARED | {"opset", "strict_nonfinite"},
        "export",
    ),
)
"""The frameworks, the first that matches is taken. None is imported before a model of it arrives."""


HINTS = {
    "weights": "it loads weights into a PyTorch or Keras model that is named as pkg.module:make_model",
    "with_labels": "it adds the class names of a classifier that was trained with onnxferry",
    "strict_nonfinite": "NaN and infinity are compared for PyTorch, Keras, JAX, TensorFlow and .onnx models",
    "labels": "a run has its own",
    "image": "a run prepares its images itself",
    "signature": "it chooses one of the signatures of a TensorFlow model",
    "python": "it names the environment in which TensorFlow runs a model of its own, or a Keras file with tables for text",
    "bits": "it is for text generators and translators that were trained with onnxferry; for other models, see onnxferry optimize",
}


@dataclass(frozen=True, eq=False)
class Chosen:
    """A model, and the framework that it is from."""

    model: Any
    framework: Framework
    notes: tuple[str, ...] = ()  # what the user should know of how it was found
    by_name: bool = False  # made by pkg.module:make_model

    def plans(self, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
        """The files to write for it. Imports the framework. Raises InputError for an option that it does not take."""
        self._check_options(example_inputs, options)
        module, _, function = self.framework.plans.partition(":")
        try:
            make = getattr(import_module(module), function)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or module, self.framework.extra, f"exporting {self.framework.name}") from error

        def own_plans(examples: Any, asked: ExportOptions) -> Sequence[Plan]:
            found: Sequence[Plan] = make(self.model, examples, asked, target)
            for plan in found[:1]:
                if isinstance(plan.source.notes, list):
                    plan.source.notes.extend(self.notes)
                    if self.by_name and IN_TRAINING_MODE in plan.source.notes:
                        plan.source.notes.remove(IN_TRAINING_MODE)
            return found

        if self.framework.own_task:
            return own_plans(example_inputs, options)
        if options.labels is None and options.image is None and options.activation == "auto" and options.scores is None:
            return own_plans(example_inputs, options)
        return task_plans(own_plans, "" if self._has_examples() else self.framework.package, example_inputs, options)

    def _has_examples(self) -> bool:
        """Whether the model says itself what it takes: an exported program does, and an .onnx file."""
        if isinstance(self.model, Path):
            return self.model.suffix.lower() == PROGRAM
        return self.framework.package == "torch" and not hasattr(self.model, "forward")

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Puts back afterwards what runs of a PyTorch model wrote into its buffers."""
        if self.framework.package != "torch" or isinstance(self.model, Path):
            yield
            return
        from onnxferry.export.sources.pytorch.modes import buffers_kept

        with buffers_kept(self.model):
            yield

    def takes(self, option: str) -> bool:
        return option in COMMON | self.framework.options

    def _check_options(self, example_inputs: Any, options: ExportOptions) -> None:
        wrong = example_inputs is not None or not all(map(self.takes, options.given()))
        if wrong and isinstance(self.model, Path) and not self.takes("samples") and self.model.is_file():
            self._check_is_run(self.model)
        for option in options.given():
            if not self.takes(option):
                raise InputError(
                    f"the option {option} does not apply to {self.framework.name}: {HINTS.get(option, 'it has its own')}; leave it out"
                )
        if example_inputs is not None and not self.takes("samples"):
            raise InputError(f"example inputs do not apply to {self.framework.name}: it has its own; leave them out")

    @staticmethod
    def _check_is_run(path: Path) -> None:
        """Raises CheckpointError for what is no checkpoint of ours: that comes first, whatever options were given."""
        from onnxferry.train.loop.checkpoint import load_checkpoint

        load_checkpoint(path)


def choose(model: Any, *, weights: str | os.PathLike[str] | None = None) -> Chosen:
    """The framework of a model: an object, a path to a file or run folder, or the name ``pkg.module:make_model``.

    What a name stands for is imported and, unless it is a model already, called without arguments. Raises InputError for what no
    framework takes, ExportError for a name that cannot be imported or makes no model.
    """
    if isinstance(model, str) and (named := NAME.fullmatch(model)):
        return Chosen(NamedModel(named[1], named[2], None if weights is None else Path(weights)), NAMED)
    if isinstance(model, str) and FACTORY.fullmatch(model):
        return _named(model, weights)
    if weights is not None:
        raise InputError(f"the option weights does not apply here: {HINTS['weights']}")
    if isinstance(model, str | os.PathLike):
        if not os.fspath(model):
            raise InputError("the model's name is empty, expected a file, a run folder or pkg.module:make_model")
        return Chosen(Path(model), _of_file(Path(model)))
    framework = _framework(model)
    if framework is None:
        raise InputError(f"expected {EXPECTED}, got {type(model).__name__}{way_from(model)}{_state_dict_hint(model)}")
    return Chosen(model, framework)


def is_of(package: str, model: Any) -> bool:
    """True if the object's class (or the class itself), or one that it derives from, is defined in that package."""
    kind = model if isinstance(model, type) else type(model)
    return any(base.__module__.partition(".")[0] == package for base in kind.__mro__)


def is_jax_function(model: Any) -> bool:
    """True for a function that takes arguments, where JAX is loaded, and for a Flax Linen module with its variables."""
    if isinstance(model, tuple):
        return len(model) == 2 and is_of("flax", model[0])
    if "jax" not in sys.modules or not isinstance(model, types.FunctionType | types.MethodType | functools.partial):
        return False
    needed = [p for p in inspect.signature(model).parameters.values() if p.default is p.empty or p.kind is p.VAR_POSITIONAL]
    return bool(needed)


def _framework(model: Any) -> Framework | None:
    return next((framework for framework in FRAMEWORKS if framework.matches(model)), None)


def _named(name: str, weights: str | os.PathLike[str] | None) -> Chosen:
    made = object_from_factory(name, is_model=lambda found: _framework(found) is not None and not isinstance(found, type))
    framework = _framework(made)
    if framework is None:
        raise InputError(f"{name} gave {kind(made)}, expected {EXPECTED}{way_from(made)}{_state_dict_hint(made)}")
    if weights is not None and framework.package == "keras":
        from onnxferry.export.sources.keras import load_keras_weights

        load_keras_weights(made, weights)
    elif weights is not None:
        if framework.package != "torch":
            raise InputError(f"the option weights does not apply to {framework.name}: {HINTS['weights']}")
        from onnxferry.export.sources.pytorch.weights import load_weights

        load_weights(made, weights)
    notes = _untrained(name, made) if weights is None and framework.package == "torch" else ()
    return Chosen(made, framework, notes, by_name=True)


def _state_dict_hint(made: Any) -> str:
    weights = isinstance(made, Mapping) and made and all(isinstance(key, str) and is_of("torch", value) for key, value in made.items())
    return "; these are weights alone: name what makes the model, and give them with --weights FILE" if weights else ""


def _untrained(name: str, made: Any) -> tuple[str, ...]:
    """A note where the name makes a PyTorch model with other weights at each call: most likely its trained ones were forgotten."""
    from onnxferry.export.sources.pytorch.weights import differ

    try:
        again = object_from_factory(name, is_model=lambda found: found is made)
    except ExportError:  # it can be called once
        return ()
    if again is made or not differ(made, again):
        return ()
    return (f"{name} gives other weights at each call, and no --weights was given: those here were never trained",)


def _of_file(path: Path) -> Framework:
    refuse_other(path)
    framework = _framework(path)
    if is_saved_model(path):
        return next(framework for framework in FRAMEWORKS if framework.package == "tensorflow")
    if framework is not None and path.suffix.lower() != PROGRAM and is_torchscript(path):
        return next(framework for framework in FRAMEWORKS if framework.package == "torch")
    if framework is not None:
        return framework
    if path.suffix.lower() in CODE:
        raise InputError(
            f"{path.name} may run code when it is read, so it is not opened: name a function of yours that opens it, pkg.module:load_model"
        )
    if path.exists():
        raise InputError(f"{path} cannot be exported; expected {EXPECTED}")
    raise InputError(f"there is no {path}; expected {EXPECTED}")


EXPECTED = ", ".join([*(framework.name for framework in reversed(FRAMEWORKS)), "or pkg.module:make_model"])
