"""Draws the figures of the chapters in docs/*/learn, in both languages: what is drawn from a run comes from its metrics.jsonl.

    onnxferry train cnn --preset quick --width 8 --epochs 12 --out runs/digits
    onnxferry train cnn --preset quick --width 8 --epochs 12 --no-augment --out runs/digits-plain
    onnxferry train rnn --preset quick --width 128 --epochs 4 --out runs/text
    onnxferry train gan --preset quick --width 12 --discriminator-width 12 --epochs 16 --out runs/images
    onnxferry train ae --preset quick --width 8 --epochs 8 --out runs/digits-ae
    onnxferry evaluate digits --data mnist --json > digits.json
    python tests/bench/docs_figures.py --runs runs --evaluation digits.json

Minutes of training on two cores, on data that comes with the install. Without these options only the drawings are made, from the included
models. The SVG files have a white background, so that they can be read on light and on dark pages.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onnxferry.runtime import load

DOCS = Path(__file__).parents[2] / "docs"
BLUE, ORANGE, GREEN, GREY, PALE = "#1f5fae", "#b8500a", "#22763b", "#595f69", "#e8eef7"

Translate = Callable[[str, str], str]
"""English and Chinese words to those of the language that is drawn."""


class Drawing:
    """An SVG image with a white background."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def add(self, tag: str, content: str = "", **attributes: object) -> None:
        words = "".join(f' {name.rstrip("_").replace("_", "-")}="{value}"' for name, value in attributes.items())
        self.parts.append(f"<{tag}{words}>{content}</{tag}>" if content else f"<{tag}{words}/>")

    def box(self, x: float, y: float, w: float, h: float, words: str = "", fill: str = PALE, stroke: str = BLUE, size: int = 14) -> None:
        self.add("rect", x=_n(x), y=_n(y), width=_n(w), height=_n(h), rx=5, fill=fill, stroke=stroke, stroke_width=1.5)
        lines = words.split("\n") if words else []
        for i, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + (i - (len(lines) - 1) / 2) * size * 1.3 + size * 0.36, line, size=size)

    def text(self, x: float, y: float, words: str, size: int = 14, color: str = "#1c2026", anchor: str = "middle") -> None:
        self.add("text", escape(words), x=_n(x), y=_n(y), font_size=size, fill=color, text_anchor=anchor)

    def line(
        self, points: Sequence[tuple[float, float]], color: str = GREY, width: float = 1.5, dash: str = "", arrow: bool = False
    ) -> None:
        more: dict[str, object] = {"stroke_dasharray": dash} if dash else {}
        if arrow:
            more["marker_end"] = f"url(#a{color.strip('#')})"
        at = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        self.add("polyline", points=at, fill="none", stroke=color, stroke_width=width, stroke_linejoin="round", **more)

    def image(self, x: float, y: float, side: float, pixels: np.ndarray) -> None:
        """``pixels``: uint8 (h, w) or (h, w, 3), shown without smoothing."""
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", optimize=True)
        data = base64.b64encode(out.getvalue()).decode()
        self.add(
            "image",
            x=_n(x),
            y=_n(y),
            width=_n(side),
            height=_n(side),
            style="image-rendering:pixelated",
            href=f"data:image/png;base64,{data}",
        )
        self.add("rect", x=_n(x), y=_n(y), width=_n(side), height=_n(side), fill="none", stroke=GREY, stroke_width=1)

    def svg(self) -> str:
        heads = "".join(
            f'<marker id="a{color.strip("#")}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L10 5L0 10z" fill="{color}"/></marker>'
            for color in (GREY, BLUE, ORANGE, GREEN)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="system-ui, sans-serif"><title>{escape(self.title)}</title>'
            f'<defs>{heads}</defs><rect width="100%" height="100%" rx="6" fill="#ffffff"/>\n' + "\n".join(self.parts) + "\n</svg>\n"
        )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def chart(
    on: Drawing,
    x: float,
    y: float,
    w: float,
    h: float,
    series: Sequence[tuple[str, str, str, Sequence[tuple[float, float]]]],
    title: str,
    across: str,
    low: float,
    high: float,
    number: str = "{:g}",
) -> None:
    """A panel of lines: name, color, dash and points (x, y) each; the legend stands below the title."""
    first = min(point[0] for *_, points in series for point in points)
    last = max(point[0] for *_, points in series for point in points)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return x + w * (point[0] - first) / (last - first), y + h * (1 - (min(max(point[1], low), high) - low) / (high - low))

    lowest, highest = min(point[1] for *_, points in series for point in points), max(point[1] for *_, points in series for point in points)
    on.text(x + w / 2, y - 34, title, size=15)
    for i in range(5):
        value = low + (high - low) * i / 4
        level = y + h * (1 - i / 4)
        on.line([(x, level), (x + w, level)], color="#d5d9df", width=1)
        cut = "≤ " if i == 0 and lowest < low else "≥ " if i == 4 and highest > high else ""
        on.text(x - 6, level + 4, cut + number.format(value), size=12, color=GREY, anchor="end")
    steps = max(1, math.ceil((last - first) / 8)) if last - first >= 2 else (last - first) / 4
    value = first
    while value <= last + 1e-9:
        on.text(place((value, low))[0], y + h + 17, f"{value:g}", size=12, color=GREY)
        value += steps
    on.text(x + w / 2, y + h + 36, across, size=13, color=GREY)
    at = x
    for name, color, dash, points in series:
        on.line([place(point) for point in points], color=color, width=2.2, dash=dash)
        on.line([(at, y - 16), (at + 22, y - 16)], color=color, width=2.2, dash=dash)
        on.text(at + 27, y - 12, name, size=12, anchor="start")
        at += 42 + sum(13 if ord(letter) > 255 else 6.6 for letter in name)


def convolution(t: Translate) -> Drawing:
    """A 3 × 3 kernel for vertical edges on a stroke: the numbers are computed."""
    on = Drawing(720, 290, t("A convolution", "卷积"))
    image = np.zeros((7, 7), int)
    image[:, 3:5] = 1
    kernel = np.array([[-1, 0, 1]] * 3)
    result = np.array([[(image[i : i + 3, j : j + 3] * kernel).sum() for j in range(5)] for i in range(5)])

    def grid(x: float, y: float, cell: float, values: np.ndarray, mark: tuple[int, int, int] | None) -> None:
        span = max(1, np.abs(values).max())
        for (i, j), value in np.ndenumerate(values):
            shade = (
                f"rgb({255 - int(75 * max(0, value / span))},{255 - int(50 * abs(value) / span)},{255 - int(75 * max(0, -value / span))})"
            )
            on.add("rect", x=_n(x + j * cell), y=_n(y + i * cell), width=cell, height=cell, fill=shade, stroke="#aab0ba")
            on.text(x + (j + 0.5) * cell, y + (i + 0.5) * cell + 4, str(value), size=13)
        if mark:
            i, j, n = mark
            on.add(
                "rect", x=_n(x + j * cell), y=_n(y + i * cell), width=n * cell, height=n * cell, fill="none", stroke=ORANGE, stroke_width=3
            )

    grid(30, 50, 28, image, (2, 1, 3))
    grid(300, 78, 28, kernel, None)
    grid(500, 64, 34, result, (2, 1, 1))
    on.text(128, 34, t("input, 7 × 7", "输入，7 × 7"))
    on.text(342, 62, t("kernel, 3 × 3", "卷积核，3 × 3"))
    on.text(585, 48, t("output, 5 × 5", "输出，5 × 5"))
    on.text(262, 126, "✱", size=24)
    on.line([(398, 120), (488, 120)], arrow=True)
    for i, words in enumerate(
        t(
            "the same 9 weights\nat every place:\nlarge where it gets lighter\nfrom left to right",
            "每个位置用同样的\n9 个权重：从左到右\n变亮处数值大",
        ).split("\n")
    ):
        on.text(342, 190 + 19 * i, words, size=13, color=GREY)
    return on


def residual(t: Translate) -> Drawing:
    on = Drawing(720, 360, t("A residual block, and the network", "残差块与整个网络"))
    y = 90
    names = [t("conv 3 × 3", "卷积 3 × 3"), t("norm", "归一化"), "ReLU", t("conv 3 × 3", "卷积 3 × 3"), t("norm", "归一化")]
    on.text(28, y + 5, "x", size=17)
    at = 80.0
    on.line([(40, y), (at, y)], arrow=True)
    for i, name in enumerate(names):
        on.box(at, y - 20, 86, 40, name, size=13)
        on.line([(at + 86, y), (at + (106 if i < 4 else 116), y)], arrow=True)
        at += 106
    on.add("circle", cx=622, cy=y, r=15, fill="#ffffff", stroke=BLUE, stroke_width=1.5)
    on.text(622, y + 6, "+", size=18)
    on.line([(56, y), (56, 34), (622, 34), (622, y - 15)], color=ORANGE, width=2.2, arrow=True)
    on.text(340, 26, t("shortcut: values and gradients pass unchanged", "捷径：数值和梯度原样通过"), size=13, color=ORANGE)
    on.line([(637, y), (652, y)], arrow=True)
    on.box(653, y - 18, 50, 36, "ReLU", size=13)
    on.text(330, y + 48, t("f(x): the block learns only the difference from its input", "f(x)：只学习与输入之差"), size=13, color=GREY)
    on.line([(20, 165), (700, 165)], color="#d5d9df")
    stages = [("1", 28, 1), ("w", 28, 1), ("w", 28, 1), ("2w", 14, 2), ("4w", 7, 4)]
    words = [t("image", "图像"), t("stem", "起始层"), t("stage 1", "阶段 1"), t("stage 2", "阶段 2"), t("stage 3", "阶段 3")]
    at = 40.0
    for (channels, side, depth), word in zip(stages, words, strict=True):
        size = 16 + side * 2.6
        for k in reversed(range(depth + (channels == "w"))):
            on.add(
                "rect",
                x=_n(at + 5 * k),
                y=_n(250 - size / 2 - 5 * k),
                width=_n(size),
                height=_n(size),
                fill=PALE,
                stroke=BLUE,
                stroke_width=1.2,
            )
        on.text(at + size / 2, 330, word, size=13)
        on.text(at + size / 2, 348, f"{channels} × {side} × {side}", size=12, color=GREY)
        at += size + 44
    on.box(at - 18, 190, 30, 120, "", fill=PALE)
    on.text(at - 3, 330, t("mean", "平均"), size=13)
    on.text(at - 3, 348, "4w", size=12, color=GREY)
    on.line([(at + 14, 250), (at + 38, 250)], arrow=True)
    on.box(at + 39, 205, 30, 90, "", fill="#fbeee3", stroke=ORANGE)
    on.text(at + 54, 330, t("classes", "类别"), size=13)
    return on


def lstm(t: Translate) -> Drawing:
    on = Drawing(720, 340, t("An LSTM cell", "LSTM 单元"))
    on.add("rect", x=110, y=40, width=500, height=230, rx=14, fill="#f7f9fc", stroke=BLUE, stroke_width=1.5)
    top = 85.0
    on.line([(40, top), (680, top)], color=ORANGE, width=2.6, arrow=True)
    on.text(60, top - 12, "c", size=17, color=ORANGE)
    on.text(660, top - 12, "c′", size=17, color=ORANGE)
    on.text(
        360,
        28,
        t("the cell c: a path on which the gradient passes while f is near 1", "单元 c：只要 f 接近 1，梯度就能沿这条路传过去"),
        size=13,
        color=ORANGE,
    )
    gates = [
        (175, "σ", "f", t("forget", "遗忘")),
        (275, "σ", "i", t("input", "输入")),
        (375, "tanh", "g", t("candidate", "候选")),
        (475, "σ", "o", t("output", "输出")),
    ]
    on.line([(40, 245), (475, 245)], color=GREY)
    for x, function, letter, name in gates:
        on.line([(x, 245), (x, 222)], arrow=True)
        on.box(x - 27, 190, 54, 32, function, fill="#ffffff")
        on.text(x + 34, 184, letter, size=15, color=BLUE)
        on.text(x, 262, name, size=12, color=GREY)

    def node(x: float, y: float, sign: str) -> None:
        on.add("circle", cx=_n(x), cy=_n(y), r=13, fill="#ffffff", stroke=GREY, stroke_width=1.5)
        on.text(x, y + 5, sign, size=15)

    on.line([(175, 190), (175, top + 14)], arrow=True)
    node(175, top, "×")
    on.line([(275, 190), (275, 140), (312, 140)], arrow=True)
    on.line([(375, 190), (375, 140), (338, 140)], arrow=True)
    node(325, 140, "×")
    on.line([(325, 127), (325, top + 14)], arrow=True)
    node(325, top, "+")
    on.line([(550, top), (550, 112)], arrow=True)
    on.box(523, 113, 54, 28, "tanh", fill="#ffffff", size=13)
    on.line([(550, 141), (550, 191)], arrow=True)
    node(550, 205, "×")
    on.line([(502, 206), (536, 206)], arrow=True)
    on.line([(563, 205), (680, 205)], arrow=True)
    on.text(660, 193, "h′", size=17)
    on.text(56, 236, "h", size=17)
    on.line([(140, 325), (140, 246)], arrow=True)
    on.text(158, 318, "x", size=17, anchor="start")
    on.text(440, 312, t("four linear maps of x and h, one for each gate", "对 x 和 h 的四个线性映射，每个门一个"), size=13, color=GREY)
    return on


def gan_game(t: Translate) -> Drawing:
    model = load("digits-gan")
    made = np.asarray(model.sample(4, labels=["3", "3", "3", "3"], seed=0))
    with np.load(Path(__file__).parents[2] / "runtime/zoo/digits-gan/examples.npz") as file:
        real = file["images"][file["labels"] == 3][:4, ..., 0]
    on = Drawing(720, 300, t("The game of two networks", "两个网络的博弈"))
    on.box(20, 60, 92, 40, t("noise z", "噪声 z"), fill="#ffffff", stroke=GREY)
    on.box(20, 116, 92, 40, t("class y", "类别 y"), fill="#ffffff", stroke=GREY)
    on.line([(112, 80), (150, 98)], arrow=True)
    on.line([(112, 136), (150, 118)], arrow=True)
    on.box(152, 78, 118, 60, t("generator G", "生成器 G"))
    on.line([(270, 108), (300, 108)], arrow=True)
    for k in range(4):
        on.image(304 + 42 * (k % 2), 66 + 42 * (k // 2), 40, made[k])
        on.image(304 + 42 * (k % 2), 196 + 42 * (k // 2), 40, real[k])
    on.text(345, 54, t("generated", "生成的图像"), size=13)
    on.text(345, 186, t("real", "真实图像"), size=13)
    on.line([(390, 108), (470, 146)], arrow=True)
    on.line([(390, 236), (470, 176)], arrow=True)
    on.box(472, 130, 136, 60, t("discriminator D", "判别器 D"), fill="#fbeee3", stroke=ORANGE)
    on.line([(608, 160), (640, 160)], arrow=True)
    on.text(676, 156, t("score", "得分"), size=14)
    on.text(676, 174, t("real?", "真吗？"), size=12, color=GREY)
    on.line([(540, 130), (540, 22), (211, 22), (211, 77)], color=GREEN, width=2.2, dash="6 4", arrow=True)
    on.text(400, 16, t("gradient: how to make the score higher", "梯度：怎样让得分更高"), size=13, color=GREEN)
    return on


def hourglass(t: Translate) -> Drawing:
    model = load("digits-ae")
    original = np.stack(_examples("digits-ae")[:1])
    latent = np.asarray(model.encode(list(original)))[0]
    copy = np.asarray(model.reconstruct(list(original)))[0]
    on = Drawing(720, 240, t("An autoencoder", "自编码器"))
    on.image(20, 60, 120, original[0])
    on.text(80, 204, t("784 pixels", "784 个像素"), size=13)
    on.line([(142, 120), (166, 120)], arrow=True)
    on.add("polygon", points="170,50 290,95 290,145 170,190", fill=PALE, stroke=BLUE, stroke_width=1.5)
    on.text(226, 125, t("encoder f", "编码器 f"))
    on.line([(290, 120), (312, 120)], arrow=True)
    span = float(np.abs(latent).max())
    for k, value in enumerate(latent):
        level = int(255 - 190 * abs(float(value)) / span)
        shade = f"rgb({255 if value > 0 else level},{level},{level if value > 0 else 255})"
        on.add("rect", x=_n(318 + 21 * (k % 4)), y=_n(36 + 21 * (k // 4)), width=20, height=20, fill=shade, stroke="#aab0ba")
    on.text(360, 222, t("32 latents z", "32 个隐变量 z"), size=13)
    on.line([(404, 120), (428, 120)], arrow=True)
    on.add("polygon", points="430,95 550,50 550,190 430,145", fill=PALE, stroke=BLUE, stroke_width=1.5)
    on.text(494, 125, t("decoder g", "解码器 g"))
    on.line([(550, 120), (574, 120)], arrow=True)
    on.image(580, 60, 120, copy)
    on.text(640, 204, t("reconstruction", "重建"), size=13)
    return on


def _examples(name: str) -> list[np.ndarray]:
    """The images that come with a model, uint8 (28, 28)."""
    with np.load(Path(__file__).parents[2] / "runtime/zoo" / name / "examples.npz") as file:
        return list(file["images"][..., 0])


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def values(run: Path, part: str, name: str, times: float = 1.0) -> list[tuple[float, float]]:
    """A metric by epoch."""
    return [(row["epoch"], times * row[part][name]) for row in metrics(run) if name in row.get(part, {})]


def cnn_curves(t: Translate, runs: Path) -> Drawing:
    on = Drawing(720, 330, t("Training with and without augmentation", "有无数据增强的训练"))
    for x, run, title in ((60, "digits", t("with augmentation", "有数据增强")), (420, "digits-plain", t("--no-augment", "--no-augment"))):
        lines = [
            (t("training", "训练"), BLUE, "6 4", values(runs / run, "train", "accuracy", 100)),
            (t("validation", "验证"), ORANGE, "", values(runs / run, "validation", "accuracy", 100)),
        ]
        chart(on, x, 70, 270, 200, lines, title, t("epoch", "轮"), 80, 100, "{:g} %")
    return on


def rnn_curves(t: Translate, runs: Path) -> Drawing:
    on = Drawing(720, 330, t("Training of a text generator", "文本生成器的训练"))
    lines = [
        (t("training", "训练"), BLUE, "6 4", values(runs / "text", "train", "loss")),
        (t("validation", "验证"), ORANGE, "", values(runs / "text", "validation", "loss")),
    ]
    top = math.ceil(2 * max(y for *_, points in lines for _, y in points)) / 2
    chart(on, 80, 70, 560, 200, lines, t("loss, nats a byte", "损失，nat 每字节"), t("epoch", "轮"), 1.0, top, "{:.2f}")
    return on


def gan_curves(t: Translate, runs: Path) -> Drawing:
    on = Drawing(720, 330, t("Losses and Fréchet distance", "损失与 Fréchet 距离"))
    losses = [
        (t("generator", "生成器"), BLUE, "6 4", values(runs / "images", "train", "generator")),
        (t("discriminator", "判别器"), ORANGE, "", values(runs / "images", "train", "discriminator")),
    ]
    ends = [y for *_, points in losses for _, y in points]
    chart(on, 60, 70, 270, 200, losses, t("losses", "损失"), t("epoch", "轮"), math.floor(min(ends)), math.ceil(max(ends)), "{:.2g}")
    distance = values(runs / "images", "validation", "frechet")[1:]  # the first is far above the others
    high = max(y for _, y in distance)
    chart(
        on,
        420,
        70,
        270,
        200,
        [(t("held-out images", "留出图像"), GREEN, "", distance)],
        t("Fréchet distance", "Fréchet 距离"),
        t("epoch", "轮"),
        0,
        high,
        "{:.2g}",
    )
    return on


def autoencoder_curves(t: Translate, runs: Path) -> Drawing:
    on = Drawing(720, 330, t("Reconstruction error of an autoencoder", "自编码器的重建误差"))
    found = values(runs / "digits-ae", "validation", "mse")
    lines = [
        (t("training", "训练"), BLUE, "6 4", values(runs / "digits-ae", "train", "mse")),
        (t("validation", "验证"), ORANGE, "", found),
        (t("PCA with 32 components", "32 个分量的 PCA"), GREEN, "2 3", values(runs / "digits-ae", "validation", "pca_mse")),
    ]
    chart(on, 80, 70, 560, 200, lines, t("mean squared error", "均方误差"), t("epoch", "轮"), 0, 0.08, "{:.2f}")
    return on


def schedules(t: Translate) -> Drawing:
    """What the families' schedulers set: from a tenth, over a warm-up of a fifth or a twentieth, to the highest, and down on a cosine."""
    steps = 201

    def one_cycle(done: float, warm_up: float) -> float:
        if done < warm_up:
            return 0.1 + 0.9 * (1 - math.cos(math.pi * done / warm_up)) / 2
        return (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2

    images, text = ([one_cycle(i / (steps - 1), warm_up) for i in range(steps)] for warm_up in (0.2, 0.05))
    both = [max(0.01, min(1.0, 2 * (1 - i / (steps - 1)))) for i in range(steps)]

    def at(rates: Sequence[float]) -> list[tuple[float, float]]:
        return [(i / (steps - 1), rate) for i, rate in enumerate(rates)]

    on = Drawing(720, 330, t("Learning rates", "学习率"))
    lines = [
        (t("cnn, ae: one cycle", "cnn、ae：单周期"), BLUE, "", at(images)),
        (t("rnn: short warm-up, cosine", "rnn：短预热，余弦"), ORANGE, "6 4", at(text)),
        (t("gan: constant, then linear", "gan：先恒定，后线性"), GREEN, "2 3", at(both)),
    ]
    chart(
        on,
        80,
        70,
        560,
        200,
        lines,
        t("share of the highest learning rate", "占最高学习率的比例"),
        t("share of the training", "训练进度"),
        0,
        1,
        "{:.2f}",
    )
    return on


def few_labels(t: Translate) -> Drawing:
    """The figures of docs/en/explanation/figures.md."""
    rows = [("10", 93.75, 94.66), ("100", 97.99, 98.09), ("1,000", 98.48, 98.51)]
    on = Drawing(720, 300, t("Accuracy with few labels", "少量标签时的准确率"))
    for k, (words, color) in enumerate(
        ((t("random initialization", "随机初始化"), GREY), (t("encoder of digits-ae", "digits-ae 的编码器"), BLUE))
    ):
        on.add("rect", x=90 + 250 * k, y=22, width=14, height=14, fill=color)
        on.text(112 + 250 * k, 34, words, size=13, anchor="start")
    for i, (labels, *shares) in enumerate(rows):
        y = 62 + 76 * i
        on.text(70, y + 32, labels, size=14, anchor="end")
        for k, (share, color) in enumerate(zip(shares, (GREY, BLUE), strict=True)):
            on.add("rect", x=90, y=y + 27 * k, width=_n((share - 90) * 50), height=22, fill=color)
            on.text(98 + (share - 90) * 50, y + 27 * k + 16, f"{share:.2f} %", size=13, anchor="start")
    on.text(90, 294, t("labels a class; the bars begin at 90 %", "每类标签数；条形从 90 % 开始"), size=12, color=GREY, anchor="start")
    return on


def occlusion(t: Translate) -> Drawing:
    """A digit of the model's examples, and how far the probability falls where a patch is covered."""
    model = load("digits")
    image = _examples("digits")[0]
    answer = model.predict_one(image)
    side, step = 6, 2
    covered, places = [], []
    for i in range(0, 28 - side + 1, step):
        for j in range(0, 28 - side + 1, step):
            one = image.copy()
            one[i : i + side, j : j + side] = 0
            covered.append(one)
            places.append((i, j))
    fall, count = np.zeros((28, 28)), np.zeros((28, 28))
    sure = [found.probabilities[answer.index] for found in model.predict(covered)]
    for (i, j), probability in zip(places, sure, strict=True):
        fall[i : i + side, j : j + side] += answer.probability - probability
        count[i : i + side, j : j + side] += 1
    share = np.clip(fall / np.maximum(count, 1), 0, None)
    share /= max(float(share.max()), 1e-9)
    base = 255 - image.astype(float) * 0.45
    heat = np.stack([base, base * (1 - 0.8 * share), base * (1 - 0.95 * share)], axis=-1).astype(np.uint8)
    on = Drawing(720, 250, t("Occlusion", "遮挡法"))
    on.image(40, 30, 170, image)
    worst = int(np.argmin(sure))
    on.image(275, 30, 170, covered[worst])
    i, j = (170 / 28 * at for at in places[worst])
    patch = 170 / 28 * side
    on.add("rect", x=_n(275 + j), y=_n(30 + i), width=_n(patch), height=_n(patch), fill="none", stroke=ORANGE, stroke_width=2.5)
    on.image(510, 30, 170, heat)
    on.text(125, 226, t(f"read as {answer.label}, {answer.probability:.1%}", f"识别为 {answer.label}，{answer.probability:.1%}"), size=13)
    on.text(
        360,
        226,
        t(f"the worst of {len(covered)} patches: {sure[worst]:.1%}", f"{len(covered)} 处遮挡中影响最大的：{sure[worst]:.1%}"),
        size=13,
    )
    on.text(595, 226, t("red: covering it lowers that", "红色：遮住后概率下降"), size=13)
    return on


def calibration(t: Translate, evaluation: Path) -> Drawing:
    """Accuracy by probability, of the document that ``onnxferry evaluate --json`` prints; bins with fewer than 8 images are left out."""
    bins = [each for each in json.loads(evaluation.read_text(encoding="utf-8"))["bins"] if each["images"] >= 8]
    on = Drawing(720, 360, t("Calibration", "校准"))
    points = [(each["mean_probability"], each["correct"] / each["images"]) for each in bins]
    lines = [
        (t("accuracy", "准确率"), BLUE, "", points),
        (t("perfectly calibrated", "完全校准"), GREY, "6 4", [(0.4, 0.4), (1.0, 1.0)]),
    ]
    chart(on, 80, 70, 400, 230, lines, t("accuracy by probability", "各概率区间的准确率"), t("probability", "概率"), 0.4, 1.0, "{:.2f}")
    for i, each in enumerate(bins):
        words = t(
            f"{each['mean_probability']:.2f}: {each['images']:,} images", f"{each['mean_probability']:.2f}：{each['images']:,} 张图像"
        )
        on.text(520, 80 + 24 * i, words, size=13, color=GREY, anchor="start")
    return on


DRAWINGS: dict[str, Callable[[Translate], Drawing]] = {
    "cnn-convolution": convolution,
    "cnn-residual": residual,
    "rnn-lstm": lstm,
    "gan-game": gan_game,
    "autoencoder": hourglass,
    "recipes-schedules": schedules,
    "few-labels": few_labels,
    "explain-occlusion": occlusion,
}
CURVES: dict[str, Callable[[Translate, Path], Drawing]] = {
    "cnn-curves": cnn_curves,
    "rnn-curves": rnn_curves,
    "gan-curves": gan_curves,
    "autoencoder-curves": autoencoder_curves,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="the folder of the runs above")
    parser.add_argument("--evaluation", type=Path, help="the JSON document of the evaluation above")
    parser.add_argument("--only", nargs="*", help="names of figures")
    arguments = parser.parse_args()
    for place, language in enumerate(("en", "zh")):

        def words(*both: str, place: int = place) -> str:
            return both[place]

        folder = DOCS / language / "assets"
        folder.mkdir(exist_ok=True)
        made = {name: draw(words) for name, draw in DRAWINGS.items() if not arguments.only or name in arguments.only}
        if arguments.runs:
            made |= {name: draw(words, arguments.runs) for name, draw in CURVES.items() if not arguments.only or name in arguments.only}
        if arguments.evaluation:
            made["explain-calibration"] = calibration(words, arguments.evaluation)
        for name, drawing in made.items():
            (folder / f"{name}.svg").write_text(drawing.svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
