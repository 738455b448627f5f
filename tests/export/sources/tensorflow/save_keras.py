"""Saves .keras files of Keras' TensorFlow backend: python save_keras.py FOLDER. Each has inputs and Keras' answers beside it, as NAME.npz.

Run by a Python that has TensorFlow, which the tests' own need not have.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tensorflow as tf

FOLDER = Path(sys.argv[1])
layers = keras.layers
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

TEXTS = ["the cat sat on the mat", "the dog, sat!", "a cat's dog", "to be or not to be", "Übung macht den Meister", "naïve café 42"]
ASKED = np.array(
    [
        "The CAT sat, on the mat!",
        "",
        " \t\r\n ",
        "?!.,;:'\"-_()[]{}<>@#$%^&*+=/\\|`~",
        "don't   stop\tthe\x0bdog\x0csat\r\n now",
        "İstanbul ıI straße ÜBUNG Übung",
        "你好，世界 the",
        "e\u0301te\u0301 nai\u0308ve naïve",
        "a\u00a0cat the\u3000dog",
        "[UNK] -- to be-or-not to:be",
        "😀 😀cat cat😀",
        "ΣΊΣΥΦΟΣ σίσυφος",
        "cat's dog a cat's",
        "the the the the the the the the the the the the",
        "x" * 300,
    ]
)


def save(name: str, model: keras.Model, *arrays: np.ndarray) -> None:
    model.save(FOLDER / f"{name}.keras")
    if name.startswith("plain"):
        model.save_weights(FOLDER / f"{name}.weights.h5")
    given = [tf.constant(array) for array in arrays]
    answer = keras.tree.flatten(model(given if len(given) > 1 else given[0], training=False))
    held = {f"input {place}": array for place, array in enumerate(arrays)}
    held |= {f"output {place}": np.asarray(each) for place, each in enumerate(answer)}
    np.savez(FOLDER / f"{name}.npz", **held)


def of_text(name: str, *stack: Any, shape: tuple[int, ...] = (), asked: np.ndarray = ASKED) -> None:
    model = keras.Sequential([keras.Input(shape, dtype="string", name="text"), *stack])
    save(name, model, asked.reshape(-1, *shape))


def vectors(**options: Any) -> Any:
    layer = layers.TextVectorization(**options)
    layer.adapt(TEXTS)
    return layer


def refused(name: str, layer: Any, shape: tuple[int | None, ...] = (), dtype: str = "string") -> None:
    keras.Sequential([keras.Input(shape, dtype=dtype, name="x"), layer]).save(FOLDER / f"{name}.keras")


of_text("sequences", vectors())
of_text("sequences of 4", vectors(output_sequence_length=4), shape=(1,))
of_text("sequences of pairs", vectors(ngrams=2))
of_text("sequences of triples and words", vectors(ngrams=(3, 1), output_sequence_length=7))
of_text("lower alone", vectors(standardize="lower"))
of_text("strip alone", vectors(standardize="strip_punctuation", max_tokens=9))
of_text("as it is", vectors(standardize=None))
of_text("whole texts", vectors(split=None, output_sequence_length=3), shape=(1,))
of_text("multi-hot", vectors(output_mode="multi_hot"))
of_text("counts of pairs and triples", vectors(output_mode="count", ngrams=(2, 3)))
of_text("tf-idf", vectors(output_mode="tf_idf"))
of_text("padded", vectors(output_mode="multi_hot", pad_to_max_tokens=True, max_tokens=40), layers.Dense(1, activation="sigmoid"))
of_text("tf-idf classifier", vectors(output_mode="tf_idf"), layers.Dense(3, activation="softmax"))
embedding = layers.Embedding(60, 8, mask_zero=True)
of_text("mean", vectors(output_sequence_length=10), embedding, layers.GlobalAveragePooling1D(), layers.Dense(2, activation="softmax"))
both = layers.Bidirectional(layers.LSTM(5))
of_text("masked LSTM", vectors(output_sequence_length=9), layers.Embedding(60, 8, mask_zero=True), both, layers.Dense(1))
some = np.array([text for text in ASKED if len(text) > 3 and text.strip("?!.,;:'\"-_()[]{}<>@#$%^&*+=/\\|`~ \t\r\n")])
of_text("open GRU", vectors(), layers.Embedding(60, 8), layers.GRU(5), layers.Dense(1), asked=some)

WORDS = ["a", "b", "zé", "m", "你"]
words = np.array(["a", "b", "zé", "m", "你", "A", "", "x", "ze\u0301", "[UNK]", "b ", "q"])
of_text("places", layers.StringLookup(vocabulary=WORDS), shape=(3,), asked=words)
of_text("masked places", layers.StringLookup(vocabulary=WORDS, mask_token=""), shape=(3,), asked=words)
of_text("single places", layers.StringLookup(vocabulary=WORDS), asked=words)
of_text("one-hot", layers.StringLookup(vocabulary=WORDS, output_mode="one_hot"), shape=(1,), asked=words)
of_text("several hot", layers.StringLookup(vocabulary=WORDS, output_mode="multi_hot"), shape=(4,), asked=words)
of_text("counts", layers.StringLookup(vocabulary=[*WORDS[:3], "q"], output_mode="count", mask_token="m"), shape=(4,), asked=words)
of_text("known alone", layers.StringLookup(vocabulary=WORDS, num_oov_indices=0), shape=(5,), asked=words[:5])

kind = keras.Input((1,), dtype="string", name="kind")
size = keras.Input((2,), name="size")
year = keras.Input((1,), dtype="int64", name="year")
years = layers.Embedding(9, 3)(layers.IntegerLookup(vocabulary=[1990, 2000, 2010], num_oov_indices=2)(year))
parts = [
    layers.StringLookup(vocabulary=["red", "blue"], output_mode="one_hot")(kind),
    layers.Normalization(mean=[1.0, 2.0], variance=[1.0, 4.0])(size),
    layers.Discretization(bin_boundaries=[-1.0, 0.5], output_mode="one_hot")(layers.Rescaling(0.5)(size)),
    layers.Flatten()(years),
]
parts[2] = layers.Flatten()(parts[2])
x = layers.Concatenate()([*parts, layers.CategoryEncoding(6)(layers.StringLookup(vocabulary=["red", "blue"], mask_token="")(kind))])
table = keras.Model([kind, size, year], {"score": layers.Dense(1, activation="sigmoid")(x), "kind": layers.Dense(3)(x)})
kinds = np.array([["red"], ["blue"], ["green"], [""]])
save("table", table, kinds, rng.normal(size=(4, 2)).astype(np.float32), np.array([[1990], [2010], [7], [-3]]))

refused("characters", vectors(split="character"))
refused("hashed places", layers.StringLookup(vocabulary=WORDS, num_oov_indices=3), (2,))
refused("salted numbers", layers.IntegerLookup(vocabulary=[1, 2], num_oov_indices=3, oov_method="farmhash"), (2,), "int64")
refused("hashing", layers.Hashing(num_bins=5), (2,))
refused("ragged", vectors(ragged=True))
refused("sparse", layers.StringLookup(vocabulary=WORDS, output_mode="multi_hot", sparse=True), (2,))
refused("text out", layers.StringLookup(vocabulary=WORDS, invert=True), (2,), "int64")
refused("one row for all", layers.StringLookup(vocabulary=WORDS, output_mode="multi_hot"))
refused("function", layers.TextVectorization(standardize=tf.strings.upper, vocabulary=WORDS))
whole = keras.Input((1,), name="x")
looked_up = layers.IntegerLookup(vocabulary=[1, 2])(layers.Discretization(bin_boundaries=[0.0])(whole))
keras.Model(whole, looked_up).save(FOLDER / "behind.keras")

# Layers that every backend has.
image = rng.random((3, 12, 12, 2)).astype(np.float32)
first = layers.Conv2D(4, 3, strides=2, padding="same")
stack = [first, layers.BatchNormalization(), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3)]
save("plain convolution", keras.Sequential([keras.Input((12, 12, 2), name="x"), *stack]), image)
ids = rng.integers(0, 3, (3, 13))
ids[0] = 0
for name, layer in (
    ("LSTM", layers.LSTM(5)),
    ("both ways", layers.Bidirectional(layers.GRU(3, return_sequences=True))),
    ("cells", layers.RNN([layers.SimpleRNNCell(3), layers.LSTMCell(2)], go_backwards=True)),
    ("ConvLSTM", layers.ConvLSTM1D(2, 3, padding="same")),
):
    if name == "ConvLSTM":
        model = keras.Sequential([keras.Input((None, 6, 2), name="x"), layer])
        save(f"plain {name}", model, rng.normal(size=(2, 9, 6, 2)).astype(np.float32))
        continue
    embedded = [keras.Input((None,), dtype="int64", name="x"), layers.Embedding(9, 4, mask_zero=True)]
    model = keras.Sequential([*embedded, layer, layers.Dense(2)])
    save(f"plain {name}", model, ids)
steps = keras.Input((None, 8), name="x")
attended = layers.MultiHeadAttention(2, 4)(steps, steps)
save("plain attention", keras.Model(steps, layers.LayerNormalization()(attended + steps)), rng.normal(size=(2, 11, 8)).astype(np.float32))

module = tf.Module()
module.call = tf.function(lambda x: x * 2.0, input_signature=[tf.TensorSpec([None, 2])])
tf.saved_model.save(module, str(FOLDER / "twice"), signatures={"serving_default": module.call})
inner = keras.Input((2,), name="x")
doubled = layers.TFSMLayer(str(FOLDER / "twice"), call_endpoint="serving_default")(inner)
keras.Model(inner, doubled).save(FOLDER / "saved model inside.keras")
