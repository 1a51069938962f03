"""The scenes generator: pure in (seed, index), maps that agree with each other and with the geometry, true captions."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cynosure.data.scenes import CLASSES, render, render_scenes
from cynosure.data.scenes.draws import Draws
from cynosure.data.scenes.layout import BOX, COLORS, CONE, CYLINDER, MATERIALS, SHAPES, SPHERE, Layout, sample_layout
from cynosure.data.scenes.trace import FAR, GROUND, SKY, meet, nearest, surfaces
from cynosure.data.scenes.view import center_rays, make_view
from cynosure.errors import DataError

MAPS = ("image", "panoptic", "depth", "degraded")


@pytest.fixture(scope="module")
def scenes():
    return render_scenes(5, np.arange(96), 64)


def assert_same(one, other, what):
    for name in MAPS:
        assert np.array_equal(one[name], other[name]), f"{name} depends on {what}"
    assert one["caption"] == other["caption"] and one["objects"] == other["objects"], f"words depend on {what}"


def picked(scenes, rows):
    return {name: value[rows] if name in MAPS else [value[row] for row in rows] for name, value in scenes.items()}


def test_a_scene_is_the_same_alone_and_in_any_batch(scenes, monkeypatch):
    for index in (0, 7, 41):
        assert_same(render_scenes(5, np.array([index]), 64), picked(scenes, [index]), "the size of the batch")
    order = np.random.default_rng(0).permutation(96)[:40]
    assert_same(render_scenes(5, order, 64), picked(scenes, order), "the other scenes of the batch")
    monkeypatch.setattr(render, "_PIXELS_AT_ONCE", 5 * 64 * 64)
    assert_same(render_scenes(5, np.arange(20), 64), picked(scenes, range(20)), "the chunk it is rendered in")


def test_seed_and_index_both_change_the_scene(scenes):
    other = render_scenes(6, np.arange(96), 64)
    assert not any(np.array_equal(a, b) for a, b in zip(scenes["image"], other["image"], strict=True))
    assert len({image.tobytes() for image in scenes["image"]}) == 96
    far = render_scenes(2**40, np.array([2**40]), 16)
    assert far["image"].std() > 0, "large seeds and indices must work"


def test_draws_are_uniform_normal_and_unrelated_between_scenes_and_streams():
    indices = np.arange(4096)
    uniform = Draws(0, indices, 1).uniform(0, 1, 8)
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.002
    normal = Draws(0, indices, 1).normal(8)
    assert abs(normal.mean()) < 0.02 and abs(normal.std() - 1) < 0.02
    counts = np.bincount(Draws(0, indices, 1).integers(5, 8).ravel(), minlength=5)
    assert len(counts) == 5 and counts.min() > 0.9 * counts.max()
    for other in (Draws(0, indices + 1, 1), Draws(1, indices, 1), Draws(0, indices, 2)):
        correlation = np.corrcoef(uniform.ravel(), other.uniform(0, 1, 8).ravel())[0, 1]
        assert abs(correlation) < 0.03, "neighbouring scenes, seeds or streams share their random numbers"


def test_panoptic_numbers_objects_from_left_to_right(scenes):
    assert [name for name, _ in CLASSES] == ["sky", "ground", *SHAPES]
    for panoptic, objects in zip(scenes["panoptic"], scenes["objects"], strict=True):
        kind, instance = panoptic[..., 0], panoptic[..., 1]
        assert kind.min() >= 1, "no pixel is void"
        assert np.array_equal(instance == 0, kind <= 2), "stuff has instance 0, things have one of their own"
        columns = [np.nonzero(instance == thing["instance"])[1].mean() for thing in objects]
        assert columns == sorted(columns), "instances count from left to right"
        assert [thing["instance"] for thing in objects] == list(range(1, instance.max() + 1))
        for thing in objects:
            mask = instance == thing["instance"]
            assert {CLASSES[c - 1][0] for c in np.unique(kind[mask])} == {thing["shape"]}
            assert thing["area"] == mask.sum() >= 12


def test_objects_too_small_to_count_leave_no_trace():
    layout = sample_layout(0, np.arange(200))
    scenes = render_scenes(0, np.arange(200), 64)
    drawn = layout.present.sum(axis=1)
    shown = np.array([len(objects) for objects in scenes["objects"]])
    scene = int(np.flatnonzero(shown < drawn)[0])
    view = make_view(layout, 64, 64)
    rays = center_rays(view)
    owner = nearest(view, rays, meet(view, rays))[1].reshape(200, -1)[scene]
    small = np.array([0 < (owner == slot + 1).sum() < 12 or not (owner == slot + 1).any() for slot in range(5)])
    one = np.array([scene])
    kept = sample_layout(0, one)
    kept = replace(kept, present=kept.present & ~small)
    _, surface, image = render._trace(kept, 64, 64)
    assert np.array_equal(image[0], scenes["image"][scene]), "a removed object still shows, or throws a shadow"
    assert (surface.owner > GROUND).sum() == sum(thing["area"] for thing in scenes["objects"][scene])


def test_depth_is_zero_exactly_where_the_sky_is(scenes):
    sky = scenes["panoptic"][..., 0] == 1
    assert np.array_equal(scenes["depth"] == 0, sky)
    ground = scenes["panoptic"][..., 0] == 2
    assert scenes["depth"][ground].max() <= FAR and scenes["depth"][~sky].min() > 0.5
    assert scenes["depth"][ground].max() > 0.99 * FAR, "the ground reaches to the far limit"


class Inside:
    """An independent, pointwise description of the solids: signed so that 1 is the surface and less is inside."""

    def __init__(self, layout: Layout, scene: int):
        self.layout, self.scene = layout, scene

    def level(self, slot: int, points: np.ndarray) -> np.ndarray:
        layout, scene = self.layout, self.scene
        offset = points - layout.center[scene, slot].astype(float)
        yaw = float(layout.yaw[scene, slot])
        turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        x, y, z = ((offset @ turn.T) / layout.half[scene, slot].astype(float)).T
        around = np.hypot(x, y)
        return {
            SPHERE: np.sqrt(x * x + y * y + z * z),
            BOX: np.maximum(np.maximum(abs(x), abs(y)), abs(z)),
            CYLINDER: np.maximum(around, abs(z)),
            CONE: np.maximum(around + (z + 1) / 2, -z),
        }[int(layout.shape[scene, slot])]


@pytest.fixture(scope="module")
def traced():
    layout = sample_layout(3, np.arange(12))
    view = make_view(layout, 48, 64)
    rays = center_rays(view)
    surface = surfaces(view, rays, *nearest(view, rays, meet(view, rays)))
    origin = np.repeat(np.stack([0 * layout.pitch, 0 * layout.pitch, layout.camera_height], axis=1), 48 * 64, axis=0)
    direction = np.stack([rays.x, rays.forward, rays.up], axis=1).astype(float)
    return layout, surface, origin.astype(float), direction


def test_every_ray_ends_on_the_surface_it_names(traced):
    layout, surface, origin, direction = traced
    for scene in range(layout.batch):
        pixels = np.arange(scene * 48 * 64, (scene + 1) * 48 * 64)
        owner, solid = surface.owner[pixels], Inside(layout, scene)
        end = origin[pixels] + direction[pixels] * np.where(owner == SKY, 0, surface.depth[pixels])[:, None]
        assert abs(end[owner == GROUND, 2]).max() < 1e-4, "ground points have height 0"
        for slot in np.flatnonzero(layout.present[scene]):
            level = solid.level(slot, end[owner == slot + 1])
            assert np.allclose(level, 1, atol=2e-3), (
                f"depth of a {SHAPES[layout.shape[scene, slot]]} is off its surface"
            )
            for share in np.linspace(0.05, 0.995, 40):
                reach = np.where(owner == SKY, FAR, surface.depth[pixels]) * share
                level = solid.level(slot, origin[pixels] + direction[pixels] * reach[:, None])
                assert level.min() > 0.97, "a ray passes through an object that is nearer than its end"


def test_shadows_are_where_the_way_to_the_sun_is_blocked(traced):
    layout, surface, origin, direction = traced
    ground = np.flatnonzero(surface.owner == GROUND)
    points = origin[ground] + direction[ground] * surface.depth[ground, None]
    scene = ground // (48 * 64)
    blocked = np.zeros(len(ground), bool)
    for index in range(layout.batch):
        mine = scene == index
        for slot in np.flatnonzero(layout.present[index]):
            for way in np.linspace(0.01, 3.5, 250):
                step = points[mine] + way * layout.light[index].astype(float)
                blocked[mine] |= Inside(layout, index).level(slot, step) < 1
    shadow = surface.shadow[ground]
    assert blocked.sum() > 200
    assert (shadow != blocked).sum() < 0.02 * blocked.sum(), "shadows differ from brute force marching to the sun"


def test_normals_point_out_of_the_solids(traced):
    layout, surface, origin, direction = traced
    things = surface.things.index
    normal = np.stack(surface.normal, axis=1).astype(float)
    assert np.allclose((normal**2).sum(axis=1), 1, atol=1e-4)
    assert ((normal * direction[things]).sum(axis=1) < 0.02).all(), "a visible surface faces away from the camera"
    end = origin[things] + direction[things] * surface.depth[things, None]
    for index in range(layout.batch):
        for slot in np.flatnonzero(layout.present[index]):
            mine = surface.target == index * layout.present.shape[1] + slot
            outside = Inside(layout, index).level(slot, end[mine] + 0.01 * normal[mine])
            assert (outside > 1).all(), f"normals of a {SHAPES[layout.shape[index, slot]]} point inwards"


def test_small_images_are_large_ones_averaged():
    small, large = render_scenes(9, np.arange(24), 64), render_scenes(9, np.arange(24), 256)
    averaged = large["image"].reshape(24, 64, 4, 64, 4, 3).mean(axis=(2, 4))
    difference = abs(small["image"] - averaged)
    aliased = abs(large["image"][:, 1::4, 1::4] - averaged)
    assert difference.mean() < 2.5 and difference.mean() < 0.6 * aliased.mean(), "edges are not anti-aliased"
    nearest_label = large["panoptic"][:, 2::4, 2::4, 0]
    assert (small["panoptic"][..., 0] == nearest_label).mean() > 0.97, "the scene changes with its resolution"


def test_captions_are_true(scenes):
    size, material = "(large |small )?", "(matte |shiny |striped )?"
    thing = rf"an? {size}{material}({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
    setting = r"(?: under a (?:blue|hazy) sky| at sunset| at dusk| on (?:checkered|striped|mottled) ground)?"
    sentence = re.compile(rf"{thing}(?: (left of|right of|in front of|behind) {thing})?{setting}")

    def fits(words, candidate):
        asked = dict(zip(("size", "material", "color", "shape"), words, strict=True))
        return all(value is None or candidate[key] == value.strip() for key, value in asked.items())

    seen = set()
    for number, (caption, objects) in enumerate(zip(scenes["caption"], scenes["objects"], strict=True)):
        match = sentence.fullmatch(caption)
        assert match, caption
        first, relation, second = match.groups()[:4], match.group(5), match.groups()[5:]
        seen.add(relation)
        depth, instance = scenes["depth"][number], scenes["panoptic"][number, ..., 1]
        distance = {thing["instance"]: depth[instance == thing["instance"]].min() for thing in objects}

        def holds(one, other, relation=relation, distance=distance):
            if relation in ("left of", "right of"):
                return (one["instance"] < other["instance"]) == (relation == "left of")
            return (distance[one["instance"]] < distance[other["instance"]]) == (relation == "in front of")

        pairs = [(a, b) for a in objects for b in objects if a is not b and fits(first, a) and fits(second, b)]
        assert any(holds(a, b) for a, b in pairs), f"{caption} is not what scene {number} shows: {objects}"
    assert seen == {"left of", "right of", "in front of", "behind"}


def test_scenes_vary_and_colours_follow_shapes():
    objects = [thing for scene in render_scenes(1, np.arange(256), 32)["objects"] for thing in scene]
    assert {thing["shape"] for thing in objects} == set(SHAPES)
    assert {thing["color"] for thing in objects} == set(COLORS) and len(COLORS) == 10
    assert {thing["material"] for thing in objects} == set(MATERIALS)
    assert {thing["size"] for thing in objects} == {"large", "small"}
    spheres = [thing["color"] in ("red", "orange") for thing in objects if thing["shape"] == "sphere"]
    assert 0.65 < np.mean(spheres) < 0.88, "colours are predictable from shapes, but not always"


def test_low_light_is_a_dark_noisy_copy(scenes):
    image, dark = scenes["image"].astype(float), scenes["degraded"].astype(float)
    assert (dark.mean(axis=(1, 2, 3)) < 0.4 * image.mean(axis=(1, 2, 3))).all()
    gain = dark.mean(axis=(1, 2)) / image.mean(axis=(1, 2))
    assert gain.min() > 0.04 and gain.std() > 0.02, "exposures vary"
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(image, dark, strict=True)]
    assert 0.5 < np.mean(correlations) < 0.999, "the content stays, noise is added"


def test_images_need_not_be_square():
    scenes = render_scenes(0, np.arange(3), (32, 48))
    assert scenes["image"].shape == scenes["degraded"].shape == (3, 32, 48, 3)
    assert scenes["panoptic"].shape == (3, 32, 48, 2) and scenes["panoptic"].dtype == np.int16
    assert scenes["depth"].shape == (3, 32, 48) and scenes["depth"].dtype == np.float32
    assert len(scenes["caption"]) == len(scenes["objects"]) == 3
    wide, square = render_scenes(0, np.arange(3), (32, 64)), render_scenes(0, np.arange(3), 64)
    same = wide["depth"] == square["depth"][:, 16:48]
    assert same.mean() > 0.98, (
        "pixels are square and the width has the field of view: a flat image is a strip of a square one"
    )


@pytest.mark.parametrize(
    ("indices", "size", "words"),
    [([0], 8, "at least 16"), ([-1], 64, "none of them negative"), ([], 64, "one index or more")],
)
def test_impossible_requests_say_what_to_do(indices, size, words):
    with pytest.raises(DataError, match=words):
        render_scenes(0, np.array(indices, int), size)


def test_importing_scenes_loads_neither_torch_nor_arrow():
    code = "import sys, cynosure.data.scenes; print([m for m in ('torch', 'datasets', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
