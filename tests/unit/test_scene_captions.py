"""Captions of the scenes read back: what they say of objects, and which sentences cannot be checked."""

import numpy as np
import pytest

from cynosure.data.scenes import render_scenes
from cynosure.data.scenes.captions import Described, NamedObject, parse_caption
from cynosure.data.scenes.layout import SHAPES
from cynosure.errors import DataError


def test_every_caption_says_what_its_scene_shows():
    scenes = render_scenes(3, np.arange(400), 32)
    described = [parse_caption(caption) for caption in scenes["caption"]]
    for caption, found, objects in zip(scenes["caption"], described, scenes["objects"], strict=True):
        for name in found.objects:
            said = {key: value for key, value in vars(name).items() if value is not None}
            assert any(said.items() <= thing.items() for thing in objects), f"'{caption}' gives {name}"
        assert len(found.objects) == sum(word in SHAPES for word in caption.split()), caption
    assert {len(found.objects) for found in described} >= {1, 2}
    assert {found.relation for found in described} == {None, "left of", "right of", "in front of", "behind"}


def test_a_caption_typed_by_a_user_is_read_too():
    red = NamedObject("sphere", "red")
    assert parse_caption("A red sphere  left of a small blue box.") == Described(
        (red, NamedObject("box", "blue", "small")), "left of"
    )
    assert parse_caption("shiny large green cone at sunset") == Described(
        (NamedObject("cone", "green", "large", "shiny"),)
    )
    assert parse_caption("an empty scene under a blue sky") == Described(())


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("a dog on striped ground", "'dog'"),
        ("a red sphere beside a blue box", "'beside'"),
        ("a sphere", "color and shape"),
        ("a sphere red", "color and shape"),
        ("a red blue box", "one too many"),
        ("a red box behind a red cone behind a blue box", "more than two"),
        ("", "color and shape"),
    ],
)
def test_other_sentences_are_refused_with_the_reason(caption, why):
    with pytest.raises(DataError, match=why):
        parse_caption(caption)
