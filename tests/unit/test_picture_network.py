"""What is exported is what `cynosure predict` does, before any exporter has touched it."""

import numpy as np
import pytest
import torch
from torch import nn

from cynosure.data.loading import collate
from cynosure_tasks.enhancement import Enhancement
from cynosure_tasks.picture_network import mean_pooled
from cynosure_tasks.picture_transform import PictureTransform
from cynosure_tasks.retouching import Retouching
from cynosure_tasks.tiles import reduce_area
from cynosure_tasks.white_balance import WhiteBalance

SIZE = (24, 16)
SIZES = [(150, 200), (37, 101), SIZE, (7, 5), (1, 1), (1, 90)]


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 200, (height, width, 3), dtype=np.uint8)


def planes(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_reduced_as_for_training(size: tuple[int, int]) -> None:
    wanted = planes(reduce_area(photo(*size), SIZE))
    torch.testing.assert_close(mean_pooled(planes(photo(*size)), SIZE), wanted, rtol=0, atol=1e-5)


TASKS = [(Enhancement, {}), (Enhancement, {"strength": 0.5}), (WhiteBalance, {}), (Retouching, {})]


@pytest.mark.parametrize(("kind", "options"), TASKS)
@pytest.mark.parametrize("size", SIZES)
def test_the_network_does_what_predicting_does(
    size: tuple[int, int], kind: type[PictureTransform], options: dict[str, float]
) -> None:
    task, picture = kind(kind.Config(**options), SIZE), photo(*size)
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(3, task.channels, 3, padding=1), nn.Tanh()).requires_grad_(False)
    example = task.prepare({"degraded": picture}, np.random.default_rng(0), False)
    batch = collate(task.name, [example])
    wanted = task.restore(task.decode(base(batch.inputs["image"]), batch)[0], picture).values["rgb"]
    network = task.network(base)
    assert network is not None
    np.testing.assert_allclose(255 * network(planes(picture))[0].permute(1, 2, 0), wanted, atol=0.501)
    assert np.abs(wanted.astype(int) - picture).max() > 10, "the base changes nothing here"
