"""The families in plain words: what each is, how it learns, its formula, and the Python that puts it into an app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnxferry.demo.words.language import say
from onnxferry.runtime.kinds import AUTOENCODER, CNN, DETECTOR_FAMILY, GAN, RNN, SEQ2SEQ, TEXT_FAMILY


@dataclass(frozen=True)
class Family:
    """One family, for a reader who does not know it. Texts are Markdown, the formula is LaTeX."""

    title: str
    what: str
    learns: str
    formula: str
    symbols: str  # what stands in the formula
    papers: tuple[tuple[str, str], ...]  # name, address


FAMILIES: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        CNN.name: (
            r"p_k = \frac{e^{s_k}}{\sum_j e^{s_j}} \qquad\qquad \mathcal{L} = -\log p_{\text{true class}}",
            (
                ("He et al. 2015, residual learning", "https://arxiv.org/abs/1512.03385"),
                ("Loshchilov & Hutter 2017, AdamW", "https://arxiv.org/abs/1711.05101"),
            ),
        ),
        DETECTOR_FAMILY.name: (
            r"\mathcal{L} = -\frac{1}{n} \sum \begin{cases} (1-p)^2 \log p & y = 1 \\ (1-y)^4 p^2 \log(1-p) & y < 1 \end{cases}"
            r" \;+\; 2\,(1 - \mathrm{GIoU}(b, \hat{b}))",
            (
                ("Zhou et al. 2019, objects as points", "https://arxiv.org/abs/1904.07850"),
                ("Tian et al. 2019, FCOS", "https://arxiv.org/abs/1904.01355"),
            ),
        ),
        RNN.name: (
            r"c_t = f_t \odot c_{t-1} + i_t \odot \tilde{c}_t, \quad h_t = o_t \odot \tanh c_t "
            r"\qquad\qquad \mathcal{L} = -\frac{1}{T}\sum_{t=1}^{T} \log p(x_t \mid x_{<t})",
            (
                ("Hochreiter & Schmidhuber 1997, long short-term memory", "https://doi.org/10.1162/neco.1997.9.8.1735"),
                ("Merity et al. 2017, weight-dropped LSTM", "https://arxiv.org/abs/1708.02182"),
            ),
        ),
        TEXT_FAMILY.name: (
            r"z = \tfrac{1}{2} \sum_i \Big( a_i W h_i + \tfrac{1}{\sqrt{n}} \sum_{g \in G_i} w_g \Big) + b, \quad "
            r"a_i = \frac{e^{s_i}}{\sum_j e^{s_j}}, \quad s_i = v^\top \tanh(U h_i), \quad p = \mathrm{softmax}(z)",
            (
                ("Yang et al. 2016, attention over words", "https://aclanthology.org/N16-1174/"),
                ("Joulin et al. 2016, bags of n-grams", "https://arxiv.org/abs/1607.01759"),
                ("Weinberger et al. 2009, feature hashing", "https://arxiv.org/abs/0902.2206"),
            ),
        ),
        SEQ2SEQ.name: (
            r"\alpha_{ti} = \frac{e^{e_{ti}}}{\sum_j e^{e_{tj}}}, \quad e_{ti} = v^\top \tanh(W s_{t-1} + U h_i), "
            r"\quad c_t = \sum_i \alpha_{ti} h_i",
            (
                ("Cho et al. 2014, encoder and decoder", "https://arxiv.org/abs/1406.1078"),
                ("Bahdanau et al. 2015, attention", "https://arxiv.org/abs/1409.0473"),
            ),
        ),
        GAN.name: (
            r"\mathcal{L}_D = \mathbb{E}\,[\max(0, 1 - D(x, y))] + \mathbb{E}\,[\max(0, 1 + D(G(z, y), y))] "
            r"\qquad \mathcal{L}_G = -\mathbb{E}\,[D(G(z, y), y)]",
            (
                ("Goodfellow et al. 2014, generative adversarial nets", "https://arxiv.org/abs/1406.2661"),
                ("Miyato & Koyama 2018, projection discriminator", "https://arxiv.org/abs/1802.05637"),
            ),
        ),
        AUTOENCODER.name: (
            r"z = e(x), \quad \hat{x} = d(z) \qquad\qquad \mathcal{L} = \frac{1}{n} \sum_{i=1}^{n} (x_i - \hat{x}_i)^2",
            (
                ("Hinton & Salakhutdinov 2006, reducing the dimensionality", "https://doi.org/10.1126/science.1127647"),
                ("Kingma & Welling 2013, variational Bayes", "https://arxiv.org/abs/1312.6114"),
            ),
        ),
    }
)
"""Formula, and papers with their addresses, of each family."""


def family_words(name: str) -> Family | None:
    """A family in the language of the visitor; None for one that is unknown."""
    if name not in FAMILIES:
        return None
    formula, papers = FAMILIES[name]
    title, what, learns, symbols = (say(f"family.{name}.{part}") for part in ("title", "what", "learns", "symbols"))
    return Family(title, what, learns, formula, symbols, papers)


_SNIPPETS = {
    CNN.name: """from onnxferry.runtime import load

model = load("{name}")
for prediction in model.predict(["one.png", "another.jpg"]):  # paths, bytes, PIL images, arrays
    print(prediction.label, f"{{prediction.probability:.3f}}")
""",
    DETECTOR_FAMILY.name: """from onnxferry.runtime import load

model = load("{name}")
found = model.detect("number.png")  # a path, bytes, a PIL image, an array
print(found.text, [(each.label, each.score, each.box) for each in found])
""",
    RNN.name: """from onnxferry.runtime import load

model = load("{name}")
for piece in model.stream("To be, ", max_bytes=300, temperature=0.8, seed=0):
    print(piece, end="", flush=True)
""",
    TEXT_FAMILY.name: """from onnxferry.runtime import load

model = load("{name}")
print(model.classify("a lovely film").label)  # a text gives a prediction, a list a list
for word in model.explain("a lovely film").deciding(3):
    print(word.text, word.evidence, word.attention)
""",
    SEQ2SEQ.name: """from onnxferry.runtime import load

model = load("{name}")
print(model.translate(["le 3 mars 2019", "Mar 3, '19"]))  # a text gives a text, a list a list
best, *others = model.explain("2 marzo 2019", beam=3)
print(best.text, f"{{best.probability:.3f}}", best.attention.shape)
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
