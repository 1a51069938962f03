"""Resizing: one geometry for pictures and labels, of the whole or of a part."""

import numpy as np

from cynosure.data.augment import resize_image, resize_nearest

SIZE = (4, 6)


def test_a_part_is_resized_as_if_it_had_been_cut_out():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    part = image[2:10, 4:16]
    box = (4.0, 2.0, 16.0, 10.0)
    np.testing.assert_array_equal(resize_nearest(image, SIZE, box), resize_nearest(part, SIZE))
    inside = np.s_[1:-1, 1:-1]  # at the borders the filter of the part sees what lies around it
    difference = np.abs(resize_image(image, SIZE, box=box).astype(int) - resize_image(part, SIZE))
    assert difference[inside].max() <= 1


def test_the_whole_at_its_own_size_is_not_copied():
    image = np.zeros((*SIZE, 3), np.uint8)
    whole = (0, 0, SIZE[1], SIZE[0])
    assert resize_image(image, SIZE) is image and resize_image(image, SIZE, box=whole) is image
    assert resize_nearest(image, SIZE) is image and resize_nearest(image, SIZE, whole) is image


def test_a_part_of_the_wanted_size_is_cut_out():
    image = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    box = (0, 2, 6, 6)
    np.testing.assert_array_equal(resize_image(image, SIZE, box=box), image[2:6])
    np.testing.assert_array_equal(resize_nearest(image, SIZE, box), image[2:6])
