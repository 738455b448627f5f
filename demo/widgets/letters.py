"""A text whose letters are coloured, and of which one can be chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from onnxferry.demo.widgets.components import renderer, sent_value, whole
from onnxferry.demo.words.language import say


def coloured_letters(key: str, letters: Sequence[str], heat: Sequence[float | None], rest: str = "") -> int:
    """The position of the letter that was chosen, -1 for none. ``heat``: 0 to 1 for each letter. ``rest``: text after them, uncoloured."""
    mount = renderer("letters", '<div class="letters" tabindex="0" role="group"></div>', "letters.js")
    digest = hashlib.sha256("".join(letters).encode("utf-8", "replace")).hexdigest()[:16]
    sent = sent_value(key, "chosen")
    chosen = min(whole(sent), len(letters) - 1) if sent is not None else -1
    data = {
        "key": digest,
        "label": say("write.sheet"),
        "letters": list(letters),
        "heat": [None if each is None else round(each, 2) for each in heat],
        "rest": rest,
        "chosen": chosen,
    }
    result = mount(key=key, data=data, default={"chosen": None}, on_chosen_change=lambda: None)
    return -1 if result.chosen is None else min(whole(result.chosen), len(letters) - 1)
