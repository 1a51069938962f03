"""Checkpoints of PyTorch and Flax are read as numbers: whatever else is in them, nothing of it runs."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cynosure.errors import CheckpointError
from cynosure.host import load_host
from cynosure.run.convert import convert
from cynosure_plugins.importers import vqgan
from cynosure_plugins.importers.maskgit import to_msgpack
from cynosure_plugins.importers.msgpack_file import BFLOAT16, CHUNKED, NDARRAY, Msgpack
from cynosure_plugins.importers.torch_file import TorchFile

STATE = {
    "weight": torch.arange(12.0).view(3, 4),
    "turned": torch.arange(30.0).view(5, 6).t(),
    "part": torch.arange(10.0)[4:7],
    "bfloat16": torch.randn(4).bfloat16(),
    "half": torch.randn(2).half(),
    "double": torch.randn(2, 2, dtype=torch.float64),
    "count": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "parameter": torch.nn.Parameter(torch.randn(2)),
    "empty": torch.zeros(0, 3),
}
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path, how: Callable[..., Any] = os.mkdir) -> None:
        self.folder, self.how = str(folder), how

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return self.how, (self.folder,)


def write(file: Path, content: Any, zipped: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def wrong(file: Path, kind: Callable[[Path], Any] = TorchFile) -> str:
    with pytest.raises(CheckpointError) as caught:
        kind(file)
    return str(caught.value)


@FORMATS
def test_every_kind_of_tensor_is_read(zipped: bool, tmp_path: Path) -> None:
    found = TorchFile(write(tmp_path / "a", {"state_dict": STATE}, zipped))
    assert found.shapes == {name: tuple(value.shape) for name, value in STATE.items()}
    for name, value in STATE.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], value.detach().float()), f"{name} is another tensor"


@FORMATS
def test_code_in_a_checkpoint_does_not_run(zipped: bool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    traps = [Trap(sprung), Trap(sprung, os.makedirs), {"callbacks": {str: Trap(sprung)}}]
    state = {"a": torch.ones(2), "b": Trap(sprung)}
    found = TorchFile(write(tmp_path / "a", {"state_dict": state, "hooks": traps, Trap(sprung): 1}, zipped))
    assert list(found.shapes) == ["a"] and found["a"].tolist() == [1, 1]
    assert not sprung.exists(), "reading the file ran code that is in it"
    with pytest.raises(Exception, match="mkdir"):  # the trap is one
        torch.load(tmp_path / "a", weights_only=True)


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch sprung'\ntR.",
        b"cbuiltins\ngetattr\n(cos\npath\nS'sys'\ntR(S'touch sprung'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch sprung\x85R.",
        b"(S'touch sprung'\nios\nsystem\n.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(ctorch\nFloatStorage\nK\x00)))tR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'_make'\ncos\nsystem\nsb(S'touch sprung'\ntR.",
        b"ccollections\nOrderedDict\n}S'__setitem__'\ncos\nsystem\nsb.",
        b"ctorch.serialization\nload\n(S'sprung'\ntR.",
    ],
    ids=["reduce", "getattr", "stack global", "inst", "odd tensor", "changed helper", "changed class", "torch.load"],
)
def test_hostile_pickles_do_nothing(code: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way that a pickle has to call something, or to change what reads it."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("a", "w") as archive:
        archive.writestr("archive/data.pkl", code)
    assert wrong(Path("a"))
    assert not Path("sprung").exists(), "reading the file ran code that is in it"
    assert TorchFile(write(Path("b"), STATE)).shapes, "a file changed how the next one is read"


def test_lightning_checkpoints_need_none_of_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks and configurations of packages that are not installed, which `torch.load` refuses."""
    module = types.ModuleType("pytorch_lightning_of_old")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class ModelCheckpoint(dict[str, Any]):
        pass

    class AttributeDict(list[Any]):
        pass

    for kind in (ModelCheckpoint, AttributeDict):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    file, _ = vqgan._write_tiny(tmp_path)
    content = torch.load(file, weights_only=True)
    extra = {"callbacks": {ModelCheckpoint: ModelCheckpoint(best=1)}, "hyper_parameters": AttributeDict([1, 2])}
    write(tmp_path / "full.ckpt", {**extra, **content, "lr_schedulers": [extra]})
    monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "full.ckpt", weights_only=True)
    host, told = load_host(), tmp_path / "last.yaml"
    for name, checkpoint in (("a", file), ("b", tmp_path / "full.ckpt")):
        convert("vqgan", [checkpoint, told], tmp_path / name, host)
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b


@FORMATS
def test_a_file_cut_anywhere_is_refused(zipped: bool, tmp_path: Path) -> None:
    whole = write(tmp_path / "a", {"state_dict": STATE}, zipped).read_bytes()
    for end in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "cut").write_bytes(whole[:end])
        assert "cannot be read" in wrong(tmp_path / "cut"), f"{end} of {len(whole)} bytes are taken for a checkpoint"


def test_damage_in_a_tensor_is_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "a", {"weight": torch.full((1000,), 7.0)})
    content = bytearray(file.read_bytes())
    content[content.index(np.float32(7).tobytes() * 100) + 50] ^= 255
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        TorchFile(file)["weight"]


def test_what_is_no_state_dict_is_said(tmp_path: Path) -> None:
    assert "no state dict" in wrong(write(tmp_path / "a", {"optimizer": {}, "step": 3}))
    assert "no state dict" in wrong(write(tmp_path / "a", [torch.ones(2)]))
    (tmp_path / "a").write_bytes(pickle.dumps({"weight": 1}))
    assert "some other pickle" in wrong(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"}.")
    assert "compressed" in wrong(tmp_path / "a")


def flat(value: Any) -> bytes:
    """MessagePack in its short forms, as other writers than ours have them."""
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(flat(x) for pair in value.items() for x in pair)
    if isinstance(value, str):
        return bytes([0xA0 | len(value)]) + value.encode()
    if isinstance(value, np.ndarray):
        shape = bytes([0x90 | value.ndim]) + bytes(value.shape)
        data = b"\x93" + shape + flat(value.dtype.name) + bytes([0xC4, value.nbytes]) + value.tobytes()
        return bytes([0xC7, len(data), NDARRAY]) + data
    return {None: b"\xc0", True: b"\xc3", -3: b"\xfd", 5: b"\x05", 300: b"\xcd\x01\x2c", 0.5: b"\xca\x3f\x00\x00\x00"}[
        value
    ]


def test_short_and_long_forms_of_messagepack_are_the_same(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.array([1, 2], np.int64)}}
    for form, more in ((flat, {"x": None, "y": True, "z": {"a": -3, "b": 300, "c": 0.5}}), (to_msgpack, {"x": 5})):
        (tmp_path / "a").write_bytes(form({**arrays, **more}))
        found = Msgpack(tmp_path / "a")
        assert found.shapes == {"a": (2, 3), "b/c": (2,)}
        assert np.array_equal(found["a"], arrays["a"]) and found["b/c"].tolist() == [1, 2]


@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_of_flax_is_read(name: str, tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0, 3.140625])
    data = to_msgpack([[3], name, values.bfloat16().view(torch.int16).numpy().tobytes()])
    array = struct.pack(">BIb", 0xC9, len(data), NDARRAY) + data
    (tmp_path / "a").write_bytes(b"\x81" + flat("a") + array)
    assert Msgpack(tmp_path / "a")["a"].tolist() == values.tolist()


def test_arrays_in_pieces_are_whole_again(tmp_path: Path) -> None:
    """Flax cuts arrays of more than a gigabyte."""
    whole = np.arange(12, dtype=np.float32)
    chunks = {str(i): whole[5 * i : 5 * i + 5] for i in range(3)}
    tree = {"a": {CHUNKED: 1, "shape": {"0": 3, "1": 4}, "chunks": chunks}}
    (tmp_path / "a").write_bytes(to_msgpack(tree))
    found = Msgpack(tmp_path / "a")
    assert found.shapes == {"a": (3, 4)} and np.array_equal(found["a"], whole.reshape(3, 4))
    chunks.pop("2")
    (tmp_path / "a").write_bytes(to_msgpack(tree))
    assert "do not make the whole" in wrong(tmp_path / "a", Msgpack)


def test_damaged_flax_checkpoints_are_refused(tmp_path: Path) -> None:
    whole = to_msgpack({"a": np.ones(20, np.float32), "b": {"c": np.ones((2, 2), np.float32)}})
    for content, said in [
        *((whole[:end], "ends too early") for end in range(len(whole))),
        (whole + b"\x01", "follows after its end"),
        (b"\x81\xa1a" * 200 + b"\x01", "nested too deeply"),
        (b"\xc1", "means nothing"),
        (to_msgpack({"a": np.ones(2, np.complex64)}), "no numbers"),
        (to_msgpack({"a": 1}), "holds no arrays"),
        (to_msgpack({"a": np.ones(3, np.float32)}).replace(b"float32", b"float64"), "an array of 12 bytes says"),
    ]:
        (tmp_path / "a").write_bytes(content)
        assert said in wrong(tmp_path / "a", Msgpack)
