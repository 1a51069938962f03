"""Every command and every Python example of the documentation runs, on models too small to be good."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cynosure.cli.app import create_app, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/writing-a-task.md", "docs/recipes.md", "docs/codes.md", "docs/evaluation.md"]
PAGES += ["docs/editing.md", "docs/checkpoints.md", "docs/generation.md", "docs/export.md"]
PAGES += ["docs/enhancement.md"]
SMALL = [
    "--set=data.scenes.train=64",
    "--set=data.scenes.validation=16",
    "--set=data.scenes.test=16",
    "--set=train.codes.steps=2",
    "--set=train.prior.steps=2",
    "--set=train.refit.steps=1",
    "--set=train.refit.examples=16",
]


def commands(page: str) -> list[list[str]]:
    """The commands of a page, split into words, without comments and redirections; `a && b` are two."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").replace("&&", "\n").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [w[: w.index(">")] if ">" in w else w for w in words if w]


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run(arguments: list[str]) -> None:
    """`cynosure` in this process; the command ends with SystemExit, 0 when all is well."""
    try:
        main(arguments)
    except SystemExit as stopped:
        assert stopped.code in (0, None), f"cynosure {shlex.join(arguments)} failed with {stopped.code}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a reader would have it: photographs, a depth map, and a demo run."""
    from cynosure.data.pictures import sample_photographs

    folder = tmp_path_factory.mktemp("reader")
    (folder / "folder").mkdir()
    for place, (_, picture) in zip(("photo.jpg", "folder/cat.jpg"), sample_photographs(), strict=False):
        Image.fromarray(picture).resize((160, 120)).save(folder / place)
    mask = Image.new("L", (160, 120))
    mask.paste(255, (40, 30, 120, 90))
    mask.save(folder / "mask.png")
    Image.linear_gradient("L").save(folder / "depth.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CYNOSURE_CACHE", str(folder / "cache"))
        run(["train", "unified/tiny", "-o", "runs/demo", *SMALL])
        run(["train", "enhancement/tiny", "-o", "runs/enhancement", *SMALL])
        yield folder


def write_checkpoints(folder: Path) -> None:
    """Tiny ones under the names of the released ones."""
    from cynosure_plugins.importers import maskgit, rqvae, star, vqgan

    for part in ("stage1", "stage2", "cc3m/stage1", "cc3m/stage2"):
        (folder / part).mkdir(parents=True)
    texts = [*rqvae._write_first(folder), *rqvae._write_text(folder)]
    stages = [f"stage{n}/{name}" for n in (1, 2) for name in ("model.pt", "config.yaml")]
    for file, name in zip(texts, stages, strict=False):  # the vocabulary already has its name
        file.rename(folder / "cc3m" / name)
    written = [*vqgan._write_tiny(folder), *rqvae._write_first(folder), *rqvae._write_second(folder)]
    for file, name in zip(written, ["last.ckpt", "project.yaml", *stages], strict=True):
        file.rename(folder / name)
    (folder / "drin").mkdir()
    for file, name in zip(vqgan._write_tiny(folder / "drin", "depth"), ("last.ckpt", "project.yaml"), strict=True):
        file.rename(folder / "drin" / name)
    maskgit._write_tiny(folder)
    star._write_tiny(folder)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_works(
    page: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("photo.jpg", "mask.png", "depth.png", "folder", "runs"):
        (tmp_path / name).symlink_to(workspace / name)
    (tmp_path / "runs").unlink()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(workspace / "runs" / "demo")
    for file in (ROOT / "tests" / "golden" / "uvim").glob("*_params.npz"):  # tiny, under the names of the released ones
        (tmp_path / file.name.replace("stage1", "stageI").replace("stage2", "stageII")).symlink_to(file)
    write_checkpoints(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    assert found, f"{page} has no shell block"
    for words in found:
        if words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), f"the Makefile has no target {words[1]}"
        elif words[0] == "mkdir":
            Path(words[1]).mkdir()
        elif words[0] == "cd":
            os.chdir(words[1])  # monkeypatch goes back when the test ends
        else:
            assert words[0] == "cynosure", f"{page} shows a command that no test runs: {shlex.join(words)}"
            run([*words[1:], *(SMALL if words[1] == "train" and "--dry-run" not in words else [])])


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)])
def test_every_python_example_of_the_page_works(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    for source in examples(page):
        exec(compile(source, page, "exec"), {})


@pytest.mark.parametrize("page", [*PAGES, "docs/hooks.md", "platform/cynosure/hookspecs.py"])
def test_commands_in_the_text_exist(page: str) -> None:
    import typer

    known = typer.main.get_command(create_app()).commands
    for name in re.findall(r"cynosure ([a-z]+)\b", " ".join(re.findall(r"`([^`\n]+)`", (ROOT / page).read_text()))):
        assert name in known, f"{page} shows `cynosure {name}`, which does not exist"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}, which does not exist"


@pytest.mark.parametrize("page", PAGES)
def test_uses_are_short(page: str) -> None:
    """A use that needs more than fifteen lines is a use that nobody tries."""
    for block in re.findall(r"```(?:sh|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        assert len(block.splitlines()) <= 15
