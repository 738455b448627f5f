"""HTML that the pages show: what is in it, and that nothing of a stranger's is html."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from onnxferry.demo.widgets import html

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize(
    "made",
    [
        html.image(np.zeros((2, 2), np.uint8), EVIL, EVIL),
        html.grid([], name=EVIL),
        html.strip([], name=EVIL),
        html.bars([EVIL], [0.5], title=EVIL),
        html.scale_bars([(EVIL, 0.5, EVIL)], title=EVIL),
        html.answer(EVIL, EVIL),
        html.meter(0.1, 0.2, name=EVIL, words=EVIL),
        html.sheet(EVIL, EVIL),
        html.facts({EVIL: EVIL}, name=EVIL),
        html.table([EVIL], [[EVIL]], name=EVIL),
        html.heading(EVIL, EVIL),
    ],
)
def test_nothing_of_a_strangers_is_markup(made: str) -> None:
    seen = Tags(made)
    assert "script" not in seen.tags
    assert not any(name.startswith("on") for name in seen.attributes)
    assert seen.tags.count("img") == made.count('src="data:image/png;base64,')


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 3)])
def test_a_image_carries_its_pixels(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (data,) = re.findall(r"base64,([^\"]*)", html.image(array, "alt"))
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(back, array.reshape(back.shape))


def test_the_longest_bar_is_marked_and_none_leaves_its_track() -> None:
    made = html.bars(["a", "b", "c"], [0.1, 1.7, -0.3], title="t")
    assert re.findall(r"width:([\d.]+)%", made) == ["10.00", "100.00", "0.00"]
    assert made.count("of-best") == 1
    assert made.index("of-best") < made.index(">b<")
    assert "<li" not in html.bars([], [], title="nothing")


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0.0 %"), (1e-6, "< 0.1 %"), (0.123, "12.3 %"), (0.9965, "99.65 %"), (0.9999999, "> 99.99 %"), (1.0, "100.00 %")],
)
def test_percent_is_never_a_certainty_that_it_is_not(share: float, words: str) -> None:
    assert html.percent(share) == words


def test_plain_markdown_has_no_markup_left() -> None:
    assert html.plain_markdown("a *b* [c](d) <e> `f`\nsecond line") == r"a \*b\* \[c\]\(d\) \<e\> \`f\`"
    assert len(html.plain_markdown("x" * 1000)) < 420
    assert html.plain_markdown("") == ""


def test_the_meter_marks_its_threshold() -> None:
    assert "of-under" in html.meter(0.1, 0.2, name="s", words="w")
    over = html.meter(0.9, 0.2, name="s", words="w")
    assert "of-over" in over
    assert all(float(number) <= 100 for number in re.findall(r"(?:width|left):([\d.]+)%", over))
    assert "nan" not in html.meter(0.0, 0.0, name="s", words="w")


@pytest.mark.parametrize(
    "name", ["http://elsewhere.example/a", "HTTPS://elsewhere.example", "www.elsewhere.example", "me@elsewhere.example"]
)
def test_a_bare_address_in_a_name_is_no_link(name: str) -> None:
    """GitHub's Markdown makes links of bare addresses, and it looks for them after backslashes are gone."""
    shown = html.plain_markdown(name).replace("\\", "")
    assert shown.replace("\u2060", "") == name
    assert not re.search(r"https?://|www\.|@\w", shown, re.IGNORECASE)


def test_a_name_is_no_emoji_or_icon() -> None:
    for name in (":smile:", ":material/bug_report:", ":red[alarm]"):
        assert not re.search(r":\w", html.plain_markdown(name).replace("\\", ""))


def test_a_sprite_holds_every_image_in_its_place() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None].repeat(2, axis=1).repeat(2, axis=2)
    made = html.sprite(images, 3)
    assert made.shape == (4, 6)
    assert [int(made[2 * (i // 3), 2 * (i % 3)]) for i in range(5)] == [0, 1, 2, 3, 4]
    assert made[2, 4] == 255


@pytest.mark.parametrize(
    "made", [html.sparkline([0.5, 2.0, 1.0], title="a line"), html.curve([0.1, 0.9], title="right", words="90 %", span=10, top=1.0)]
)
def test_lines_are_images_as_streamlit_takes_drawings_out_of_html(made: str) -> None:
    assert "<svg" not in made
    drawing = base64.b64decode(re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', made)[0]).decode()
    points = [tuple(map(float, each.split(","))) for each in re.findall(r'points="([^"]+)"', drawing)[0].split()]
    assert all(0 <= x <= 1000 and 0 <= y <= 80 for x, y in points)
    assert min(y for _, y in points) < 12
