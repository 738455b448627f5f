"""Saves small TensorFlow models: python save_models.py FOLDER. Run by a Python that has TensorFlow, which the tests' own need not have."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tensorflow as tf

FOLDER = Path(sys.argv[1])
layers = keras.layers
keras.utils.set_random_seed(0)
SPEC = tf.TensorSpec


def save(name: str, function: object, *specs: tf.TensorSpec, **held: object) -> None:
    module = tf.Module()
    module.held = list(held.values())
    concrete = tf.function(function).get_concrete_function(*specs)
    tf.saved_model.save(module, str(FOLDER / name), signatures={"serving_default": concrete})


def from_keras(name: str, *stack: keras.layers.Layer, shape: tuple[int | None, ...], dtype: str = "float32") -> keras.Model:
    model = keras.Sequential([keras.Input(shape, dtype=dtype, name="x"), *stack])
    model.export(str(FOLDER / name), verbose=False)
    return model


weights = tf.Variable(np.random.default_rng(0).normal(size=(6, 4)).astype("float32"))
small = tf.Variable(np.random.default_rng(1).normal(size=(3, 3, 3, 5)).astype("float32") * 0.3)

save("perceptron", lambda features: {"scores": tf.nn.softmax(features @ weights)}, SPEC([None, 6], name="features"), w=weights)
save(
    "two ends",
    lambda left, right: {"total": left + right, "largest": tf.argmax(left * right, axis=1)},
    SPEC([None, 5], name="left"),
    SPEC([None, 5], name="right"),
)
save(
    "convolution",
    lambda image: {"y": tf.nn.relu(tf.nn.conv2d(image, small, 2, "SAME"))},
    SPEC([None, None, None, 3], name="image"),
    w=small,
)
save("gather", lambda ids: {"rows": tf.gather(weights, ids)}, SPEC([None, None], tf.int64, name="ids"), w=weights)
save("branch", lambda x: {"y": tf.where(tf.reduce_sum(x, 1, keepdims=True) > 0, tf.sin(x), tf.exp(-x))}, SPEC([None, 4], name="x"))
save("sorted", lambda x: {"values": tf.sort(x, axis=1), "places": tf.argsort(x, axis=1)}, SPEC([None, 7], name="x"))


def turns(x: tf.Tensor) -> dict[str, tf.Tensor]:
    def body(step: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return step + 1, tf.tanh(state * 1.1 + x)

    return {"state": tf.while_loop(lambda step, state: step < 5, body, (tf.constant(0), tf.zeros_like(x)))[1]}


save("while", turns, SPEC([None, 3], name="x"))

digits = from_keras(
    "digits",
    layers.Conv2D(8, 3, activation="relu"),
    layers.MaxPooling2D(),
    layers.Flatten(),
    layers.Dense(10, activation="softmax"),
    shape=(12, 12, 1),
)
from_keras("lstm", layers.LSTM(5, return_sequences=True), layers.Dense(2), shape=(None, 3))
from_keras("gru", layers.GRU(4), shape=(None, 3))
from_keras("both ways", layers.Bidirectional(layers.LSTM(3)), shape=(None, 2))
from_keras("upwards", layers.Conv2DTranspose(4, 3, strides=2, padding="same"), layers.BatchNormalization(), shape=(5, 5, 2))
from_keras("embedding", layers.Embedding(2, 6), layers.GlobalAveragePooling1D(), layers.Dense(3), shape=(None,), dtype="int32")
from_keras("rescaled", layers.Rescaling(1 / 255.0, offset=-0.5), layers.SeparableConv2D(4, 3), shape=(9, 9, 3))

module = tf.Module()
module.one = tf.function(lambda x: {"y": x + 1.0}).get_concrete_function(SPEC([None, 2], name="x"))
module.two = tf.function(lambda x: {"y": x * 2.0}).get_concrete_function(SPEC([None, 2], name="x"))
tf.saved_model.save(module, str(FOLDER / "two signatures"), signatures={"more": module.one, "twice": module.two})

(FOLDER / "digits.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(digits).convert())
plain = tf.Module()
plain.call = tf.function(lambda features: {"scores": tf.nn.softmax(features @ weights)}).get_concrete_function(
    SPEC([None, 6], name="features")
)
plain.held = weights
tf.saved_model.save(plain, str(FOLDER / "for lite"), signatures={"serving_default": plain.call})
(FOLDER / "perceptron.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(FOLDER / "for lite")).convert())

# Those that are refused.
bare = tf.Module()
bare.held = tf.Variable(1.0)
tf.saved_model.save(bare, str(FOLDER / "no signatures"))
save("text", lambda words: {"length": tf.strings.length(words)}, SPEC([None], tf.string, name="words"))
save("text out", lambda x: {"words": tf.strings.as_string(x)}, SPEC([None], name="x"))
save("text inside", lambda x: {"y": tf.strings.length(tf.strings.as_string(x))}, SPEC([None], name="x"))
table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2], tf.int64), tf.constant([5, 7], tf.int64)), -1)
save("table", lambda ids: {"y": table.lookup(ids)}, SPEC([None], tf.int64, name="ids"), t=table)
save("drawn", lambda x: {"y": x + tf.random.normal(tf.shape(x))}, SPEC([None, 3], name="x"))
save("antialias", lambda x: {"y": tf.image.resize(x, [5, 5], antialias=True)}, SPEC([None, 9, 9, 2], name="x"))
count = tf.Variable(0.0)
save("counting", lambda x: {"y": x + count.assign_add(1.0)}, SPEC([None, 2], name="x"), c=count)
save("any rank", lambda x: {"y": x + 1.0}, SPEC(None, name="x"))
(FOLDER / "cut.tflite").write_bytes((FOLDER / "digits.tflite").read_bytes()[:200])
