"""Roles under other names: who counts as a speaker, and what renaming leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxferry.runtime.errors import InputError
from onnxferry.train.data.speaker_names import rename_speakers, speaker_names
from onnxferry.train.data.text import TextSplits
from onnxferry.train.families.rnn import RnnConfig, RnnLearner, RnnOptions

PLAY = b"""First Lord:
Where is the king, Romeo? Thy king, Juliet's king.

ROMEO:
Ask Juliet, first of ladies.

JULIET:
Romeo knows; the lord of this house.

KING BRUTUS:
Here, Juliet.

"""


def array(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def test_names_are_words_of_headings_that_never_stand_in_small_letters() -> None:
    assert speaker_names(PLAY) == [b"Brutus", b"Juliet", b"Romeo"]
    assert speaker_names(b"no play at all: nobody speaks\n") == []


def test_a_name_becomes_the_same_other_name_wherever_it_stands() -> None:
    made = rename_speakers(array(PLAY), speaker_names(PLAY), 1.0, np.random.default_rng(1)).tobytes().decode()
    lines = made.split("\n")
    romeo = lines[3].removesuffix(":")
    juliet = lines[6].removesuffix(":")
    assert romeo.isupper()
    assert romeo != juliet
    assert lines[1] == f"Where is the king, {romeo.capitalize()}? Thy king, {juliet.capitalize()}'s king."
    assert lines[7] == f"{romeo.capitalize()} knows; the lord of this house."
    assert lines[0] == "First Lord:"


def test_with_share_0_the_text_is_the_same_and_chances_are_the_generators() -> None:
    names = speaker_names(PLAY)
    assert rename_speakers(array(PLAY), names, 0.0, np.random.default_rng(0)).tobytes() == PLAY
    first, again, other = (rename_speakers(array(PLAY), names, 1.0, np.random.default_rng(seed)).tobytes() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def splits(text: bytes) -> TextSplits:
    return TextSplits("t", array(text), array(b""), array(text[:50]), "0", "")


def test_every_epoch_has_other_names_and_batches_of_the_shape_that_was_asked_for() -> None:
    options = RnnOptions(epochs=1, batch=4, steps=16, rename_speakers=1.0)
    learner = RnnLearner(splits(PLAY * 8), RnnConfig(width=8, embedding=4), options)

    class Alone:
        world_size, global_rank, device = 1, 0, "cpu"

    learner.fabric = Alone()  # type: ignore[assignment]
    epochs = [list(learner.batches(epoch, 0)) for epoch in (0, 1)]
    assert {tuple(batch.shape) for epoch in epochs for batch in epoch} == {(17, 4)}
    assert [len(epoch) for epoch in epochs] == [learner.steps_per_epoch()] * 2


def test_a_text_that_is_no_play_is_refused_and_so_is_a_share_out_of_range() -> None:
    with pytest.raises(InputError, match="for plays"):
        RnnLearner(splits(b"nobody speaks here, line after line\n" * 20), RnnConfig(), RnnOptions(rename_speakers=0.5))
    with pytest.raises(InputError, match="0 … 1"):
        RnnOptions(rename_speakers=1.5)
