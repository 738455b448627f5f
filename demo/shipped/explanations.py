"""The four families in plain words: what each is, how it learns, its formula, and the Python that puts it into an app."""

from __future__ import annotations

from dataclasses import dataclass

from onnxferry.runtime.kinds import AUTOENCODER, CNN, GAN, RNN


@dataclass(frozen=True)
class Family:
    """One family, for a reader who does not know it. Texts are Markdown, the formula is LaTeX."""

    title: str
    what: str
    learns: str
    formula: str
    symbols: str  # what stands in the formula
    papers: tuple[tuple[str, str], ...]  # name, address


FAMILIES: dict[str, Family] = {
    CNN.name: Family(
        title="Convolutional network: recognises",
        what=(
            "A small window slides over the image and reacts to one pattern, an edge or a curve, wherever it stands. Layers of such "
            "windows stack: curves become loops, loops become an eight. Shortcuts around the layers (*residual* connections) let a deep "
            "stack learn as easily as a shallow one. The last layer gives each class a score, and *softmax* turns scores into "
            "probabilities. In the file, a first stage brings an image of any size to what the network reads."
        ),
        learns=(
            "It is shown a labelled image, and every weight is nudged in the direction that makes the right class likelier; some "
            "thousands of nudges later it reads images that it has never seen."
        ),
        formula=r"p_k = \frac{e^{s_k}}{\sum_j e^{s_j}} \qquad\qquad \mathcal{L} = -\log p_{\text{true class}}",
        symbols="$s_k$: the score of class $k$; $p_k$: its probability; $\\mathcal{L}$: the loss, 0 when the right class gets everything.",
        papers=(
            ("He et al. 2015, residual learning", "https://arxiv.org/abs/1512.03385"),
            ("Loshchilov & Hutter 2017, AdamW", "https://arxiv.org/abs/1711.05101"),
        ),
    ),
    RNN.name: Family(
        title="Recurrent network: writes",
        what=(
            "It reads a text one byte at a time and keeps a *state*, a few thousand numbers that stand for all it has read. *Gates* decide "
            "what is forgotten, what is added and what is shown. From the state comes a probability for each of the 256 bytes that could "
            "follow; one is drawn, read in turn, and so on. In the file the whole loop is one graph: prompt in, text out."
        ),
        learns=(
            "It guesses each next byte of the plays. The surprise at what really comes is pushed back through time, and the weights move "
            "so that it would have been smaller."
        ),
        formula=(
            r"c_t = f_t \odot c_{t-1} + i_t \odot \tilde{c}_t, \quad h_t = o_t \odot \tanh c_t "
            r"\qquad\qquad \mathcal{L} = -\frac{1}{T}\sum_{t=1}^{T} \log p(x_t \mid x_{<t})"
        ),
        symbols=(
            "$c_t, h_t$: the state after byte $x_t$; $f_t, i_t, o_t$: forget, input and output gates, between 0 and 1; "
            "$\\mathcal{L}$: mean surprise, in nats a byte."
        ),
        papers=(
            ("Hochreiter & Schmidhuber 1997, long short-term memory", "https://doi.org/10.1162/neco.1997.9.8.1735"),
            ("Merity et al. 2017, weight-dropped LSTM", "https://arxiv.org/abs/1708.02182"),
        ),
    ),
    GAN.name: Family(
        title="Generative adversarial network: imagines",
        what=(
            "Two networks play against each other. The *generator* turns random numbers and a class into an image; the *discriminator* "
            "looks at real and generated images and says which is which. Only the generator is shipped: nearby random numbers make "
            "similar images, so one can walk from one to another."
        ),
        learns=(
            "The discriminator is rewarded for telling them apart, the generator for fooling it. Each gets better because the other does. "
            "Which moment of the game is kept is decided by how near the generated images are to held-out real ones."
        ),
        formula=(
            r"\mathcal{L}_D = \mathbb{E}\,[\max(0, 1 - D(x, y))] + \mathbb{E}\,[\max(0, 1 + D(G(z, y), y))] "
            r"\qquad \mathcal{L}_G = -\mathbb{E}\,[D(G(z, y), y)]"
        ),
        symbols="$x$: a real image; $y$: its class; $z$: noise; $G$: the generator; $D$: the discriminator's score, high for real.",
        papers=(
            ("Goodfellow et al. 2014, generative adversarial nets", "https://arxiv.org/abs/1406.2661"),
            ("Miyato & Koyama 2018, projection discriminator", "https://arxiv.org/abs/1802.05637"),
        ),
    ),
    AUTOENCODER.name: Family(
        title="Autoencoder: compresses",
        what=(
            "An *encoder* squeezes an image through a bottleneck of a few numbers, and a *decoder* has to draw it again from those alone. "
            "What the few numbers hold is what matters about such images. An image of another kind does not fit through: it comes back "
            "wrong, and how wrong is its anomaly score."
        ),
        learns=(
            "It needs no labels: the image itself is the answer. The weights move so that the drawing comes nearer to the original. The "
            "anomaly threshold is the score that 99 of 100 held-out images stay below."
        ),
        formula=r"z = e(x), \quad \hat{x} = d(z) \qquad\qquad \mathcal{L} = \frac{1}{n} \sum_{i=1}^{n} (x_i - \hat{x}_i)^2",
        symbols="$x$: the image's $n$ pixels, 0 to 1; $e, d$: encoder and decoder; $z$: the latent numbers; $\\hat{x}$: the drawing.",
        papers=(
            ("Hinton & Salakhutdinov 2006, reducing the dimensionality", "https://doi.org/10.1126/science.1127647"),
            ("Kingma & Welling 2013, variational Bayes", "https://arxiv.org/abs/1312.6114"),
        ),
    ),
}


_SNIPPETS = {
    CNN.name: """from onnxferry.runtime import load

model = load("{name}")
for prediction in model.predict(["one.png", "another.jpg"]):  # paths, bytes, PIL images, arrays
    print(prediction.label, f"{{prediction.probability:.3f}}")
""",
    RNN.name: """from onnxferry.runtime import load

model = load("{name}")
for piece in model.stream("To be, ", max_bytes=300, temperature=0.8, seed=0):
    print(piece, end="", flush=True)
""",
    GAN.name: """from onnxferry.runtime import load

model = load("{name}")
images = model.sample(16, labels={label!r}, seed=0)  # uint8 (16, 28, 28)
on_the_way = model.walk(1, 2, steps=12, label={label!r})
""",
    AUTOENCODER.name: """from onnxferry.runtime import load

model = load("{name}")
latents = model.encode(["one.png", "another.png"])  # float32 (2, n)
between = model.decode((latents[:1] + latents[1:]) / 2)  # half-way between the two
strange = model.anomaly_score("one.png") > model.threshold
""",
}


def snippet(family: str, name: str, label: str = "") -> str:
    """The Python that uses the shipped model ``name``; "" for a family that is unknown."""
    return _SNIPPETS[family].format(name=name, label=label) if family in _SNIPPETS else ""
