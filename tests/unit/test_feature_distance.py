"""Distances by the features of a network: which files are networks, what the numbers are called, what they compare."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cynosure.compat import import_timm
from cynosure.core.records import Prediction
from cynosure.errors import CheckpointError, CynosureError, DataError
from cynosure_plugins.metrics.distances import kernel_distance
from cynosure_plugins.metrics.feature_distance import FeatureDistance
from cynosure_plugins.metrics.feature_networks import FeatureNetwork, fid_inception, load_network
from cynosure_plugins.metrics.feature_reference import Reference
from cynosure_tasks.colorization import Colorization

TASK = Colorization(Colorization.Config(), (16, 16))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights of a small timm model, its classifier among them."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("networks") / "resnet.safetensors"
    save_file(import_timm().create_model("resnet10t", pretrained=False).state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """TorchScript that gives the mean of every channel, so that distances can be worked out by hand."""

    class Means(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().mean(dim=[2, 3])

    file = tmp_path_factory.mktemp("networks") / "Mean Colours.pt"
    torch.jit.script(Means()).save(str(file))
    return str(file)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of FID's Inception."""
    from torchvision.models.inception import Inception3

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("networks") / "pt_inception.pth"
    torch.save(Inception3(num_classes=1008, aux_logits=False, init_weights=False).state_dict(), file)
    return file


def flat(*levels: int, size: int = 8) -> list[Prediction]:
    return [Prediction(TASK, {"rgb": np.full((size, size, 3), level, dtype=np.uint8)}) for level in levels]


def noise(seed: int, count: int = 6) -> list[Prediction]:
    pictures = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return [Prediction(TASK, {"rgb": picture}) for picture in pictures]


def metric(network: str, **options) -> FeatureDistance:
    return FeatureDistance(FeatureDistance.Config(network=network, **options))


def values(measured: FeatureDistance) -> dict[str, float]:
    return {name: float(value) for name, value in measured.compute().items()}


def test_distances_of_mean_colours_by_hand(colours: str) -> None:
    """Levels 0, 4 and 10, 18: means 2 and 14, standard deviations sqrt(8) and sqrt(32), alike in all channels, which
    is one direction of length sqrt(3): 3 * (12^2 + (sqrt(8) - sqrt(32))^2)."""
    measured = metric(colours, trust_code=True, subsets=1)
    measured.update(flat(0, 4), flat(10, 18))
    found = values(measured)
    assert set(found) == {"fd_mean_colours", "kd_mean_colours", "kd_mean_colours_std"}, "never called fid"
    assert found["fd_mean_colours"] == pytest.approx(3 * (144 + 8), rel=1e-6)
    x, y = (np.repeat(np.array(levels)[:, None], 3, axis=1).astype(float) for levels in ((0, 4), (10, 18)))
    assert found["kd_mean_colours"] == pytest.approx(kernel_distance(x, y), rel=1e-5)


def test_answers_equal_to_the_truth_have_distance_zero(resnet: str) -> None:
    measured = metric(resnet, model="resnet10t", subsets=0)
    measured.update(noise(0), noise(0))
    assert values(measured) == {"fd_resnet10t": pytest.approx(0, abs=1e-4)}
    measured.reset()
    measured.update(noise(0), flat(0, 50, 100, 150, 200, 250, size=16))
    assert values(measured)["fd_resnet10t"] > 1e-3


def test_nothing_measured_is_nan_and_one_picture_too(resnet: str) -> None:
    measured = metric(resnet, model="resnet10t", subsets=2)
    assert all(math.isnan(value) for value in values(measured).values()) and len(values(measured)) == 3
    measured.update(noise(0, 1), noise(1, 1))
    assert all(math.isnan(value) for value in values(measured).values())


def test_too_few_pictures_for_a_covariance_are_said_once(resnet: str, caplog: pytest.LogCaptureFixture) -> None:
    measured = metric(resnet, model="resnet10t", subsets=0)
    measured.update(noise(0, 5), noise(1, 5))
    with caplog.at_level(logging.WARNING, "cynosure.run"):
        measured.compute(), measured.compute()
    assert len(caplog.records) == 1 and "5 pictures" in caplog.text and "more than 512" in caplog.text


def test_only_fids_own_inception_gives_a_number_called_fid(inception: Path) -> None:
    network = load_network(str(inception))
    assert network.is_fids
    features = network.features([noise(0, 1)[0].values["rgb"]])
    assert features.shape == (1, 2048) and np.isfinite(features).all()
    measured = metric(str(inception), subsets=1)
    assert set(values(measured)) == {"fid", "kid", "kid_std"}


def test_fids_inception_pools_its_own_way(inception: Path) -> None:
    """Averages leave padding out: of constant inputs they are constant up to the border. The last one is a maximum."""
    net = fid_inception(torch.load(inception, weights_only=True), inception).eval()
    seen = {}
    for name in ("Mixed_5b", "Mixed_7b", "Mixed_7c"):
        block = getattr(net, name)
        block.branch_pool.conv.register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    with torch.no_grad():
        net.Mixed_5b(torch.ones(1, 192, 5, 5))
        net.Mixed_7b(torch.ones(1, 1280, 5, 5))
        peak = torch.zeros(1, 2048, 5, 5)
        peak[0, 0, 2, 2] = 1
        net.Mixed_7c(peak)
    assert torch.equal(seen["Mixed_5b"], torch.ones(1, 192, 5, 5)), "padding must not count"
    assert torch.equal(seen["Mixed_7b"], torch.ones(1, 1280, 5, 5))
    assert torch.equal(seen["Mixed_7c"][0, 0, 1:4, 1:4], torch.ones(3, 3)), "a maximum, not an average"


def test_files_that_are_no_network_say_what_is_wrong(resnet: str, colours: str, tmp_path: Path) -> None:
    with pytest.raises(CynosureError, match="Set `network`"):
        metric("")
    with pytest.raises(CheckpointError, match="there is no network file"):
        load_network(str(tmp_path / "none.safetensors"))
    with pytest.raises(CheckpointError, match="not FID's Inception"):
        load_network(resnet)
    with pytest.raises(CheckpointError, match="trust_code"):
        load_network(colours)
    with pytest.raises(CynosureError, match="did you mean 'resnet10t'"):
        load_network(resnet, "resnet10tt")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_network(resnet, "resnet14t")
    (tmp_path / "broken.pth").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        load_network(str(tmp_path / "broken.pth"))


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"fc.weight": Attack()}, tmp_path / "attack.pth")
    with pytest.raises(CheckpointError):
        load_network(str(tmp_path / "attack.pth"))
    assert not (tmp_path / "ran").exists()


def test_the_classifier_may_be_missing_but_nothing_else(resnet: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(resnet)
    headless = {k: v for k, v in weights.items() if not k.startswith("fc.")}
    save_file(headless, tmp_path / "headless.safetensors")
    picture = [noise(0, 1)[0].values["rgb"]]
    with_head, without = (load_network(str(f), "resnet10t") for f in (resnet, tmp_path / "headless.safetensors"))
    np.testing.assert_array_equal(with_head.features(picture), without.features(picture))
    headless.pop("conv1.0.weight")
    save_file(headless, tmp_path / "partial.safetensors")
    with pytest.raises(CheckpointError, match=r"conv1\.0\.weight"):
        load_network(str(tmp_path / "partial.safetensors"), "resnet10t")


def test_a_folder_or_a_file_of_statistics_can_be_the_reference(
    colours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYNOSURE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for level in (10, 18):
        Image.fromarray(np.full((6, 9, 3), level, dtype=np.uint8)).save(folder / f"{level}.png")
    by_truth = metric(colours, trust_code=True, subsets=1)
    by_folder = metric(colours, trust_code=True, subsets=1, reference=str(folder), size=4)
    for measured in (by_truth, by_folder):
        measured.update(flat(0, 4), flat(10, 18) if measured is by_truth else flat(99, 99))
    assert values(by_folder) == pytest.approx(values(by_truth)), "the truth of the rows plays no part beside a folder"

    network = load_network(colours, None, True)
    features = np.array([[10.0] * 3, [18.0] * 3], dtype=np.float32)
    Reference.of(features).save(tmp_path / "ours.npz", network)
    np.savez(tmp_path / "theirs.npz", mu=np.full(3, 14.0), sigma=np.full((3, 3), 32.0))
    for name, kernel in (("ours", True), ("theirs", False)):
        measured = metric(colours, trust_code=True, subsets=1, reference=str(tmp_path / f"{name}.npz"))
        measured.update(flat(0, 4), flat(99, 99))
        assert values(measured)["fd_mean_colours"] == pytest.approx(3 * 152, rel=1e-6)
        assert ("kd_mean_colours" in values(measured)) == kernel, "statistics without features give no kernel distance"


def test_a_reference_that_does_not_belong_is_refused(colours: str, resnet: str, tmp_path: Path) -> None:
    Reference.of(np.eye(3, dtype=np.float32)).save(tmp_path / "other.npz", load_network(resnet, "resnet10t"))
    np.savez(tmp_path / "wide.npz", mu=np.zeros(7), sigma=np.eye(7))
    np.savez(tmp_path / "empty.npz", other=np.zeros(7))
    cases = {"other": "another network", "wide": "7 features", "empty": "lacks mu", "none": "does not exist"}
    for name, message in cases.items():
        measured = metric(colours, trust_code=True, reference=str(tmp_path / f"{name}.npz"))
        measured.update(flat(0, 4), flat(1, 2))
        with pytest.raises(DataError, match=message):
            measured.compute()


def test_processes_that_share_the_rows_find_what_one_finds(colours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"trust_code": True, "subsets": 3, "subset_size": 3}
    pairs = [(noise(seed, 1), noise(seed + 100, 1)) for seed in range(7)]
    whole, ranks = metric(colours, **options), [metric(colours, **options) for _ in range(2)]
    for i, pair in enumerate(pairs):
        whole.update(*pair)
        ranks[i % 2].update(*pair)
    expected = values(whole)
    asked = iter([[rank._answers for rank in ranks], [rank._truths for rank in ranks]])
    monkeypatch.setattr("cynosure_plugins.metrics.feature_distance.gathered", lambda _: next(asked))
    assert values(ranks[0]) == pytest.approx(expected), "the subsets, too, must be of the same pictures"


def test_the_truth_is_looked_at_once_for_all_columns(resnet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = FeatureNetwork.features
    monkeypatch.setattr(FeatureNetwork, "features", lambda self, some: calls.append(1) or original(self, some))
    truths = noise(0)
    for _ in range(3):
        metric(resnet, model="resnet10t").update(noise(1), truths)
    assert len(calls) == 3 + 1
