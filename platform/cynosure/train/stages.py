"""What each stage trains on: rows for `codes`, rows with the oracle's codes for `prior`, sampled codes for `refit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cynosure.core.records import Batch, Codes, SampleSettings
from cynosure.data.loading import TaskData
from cynosure.errors import CynosureError
from cynosure.train.codecache import compute_codes, oracle_codes

if TYPE_CHECKING:
    from cynosure.train.loop import Run

CACHE = "cache"


def stage_data(run: Run) -> dict[str, TaskData]:
    """Training rows by task for the present stage."""
    recipe = run.recipe
    chosen = run.settings.tasks if run.stage == "refit" and run.settings.tasks else list(recipe.tasks)
    data = {}
    for key in chosen:
        task, options = run.model.tasks[key], recipe.tasks[key]
        data[key] = TaskData(task, run.session.rows(key, "train"), options.batch_size, recipe.seed)
        size = 0 if data[key].streams else len(data[key])
        if size and size < options.batch_size:
            run.progress.say(f"task {key}: batch_size {options.batch_size} repeats rows, there are only {size}.")
    return data


def prepare_stage(run: Run, data: dict[str, TaskData]) -> None:
    """Compute what the stage needs before its first step."""
    if run.stage == "codes" or run.model.tokenizer is None:
        return
    if run.stage == "prior" and run.settings.warm_start and run.step == 0:
        warm_start(run)
    views = run.recipe.train.prior.views
    run.model.set_stage(None)
    for key, task_data in data.items():
        if task_data.streams or not views:
            if run.stage == "refit":
                raise CynosureError(f"stage refit needs cached codes: set train.prior.views to 1 or more for task {key}.")
            continue
        task_data.views = views
        if run.stage == "refit":
            _add_sampled(run, task_data)
        accelerator = run.accelerator
        task_data.codes = oracle_codes(
            run.model,
            task_data,
            run.directory / CACHE,
            accelerator.device,
            run.progress,
            accelerator.process_index,
            accelerator.num_processes,
        )


def warm_start(run: Run) -> None:
    """Copy into the prior's encoder every weight that the base has under the same name and shape."""
    encoder = getattr(run.model.prior, "encoder", None)
    if encoder is None:
        return
    own, learnt = encoder.state_dict(), run.model.base.state_dict()
    shared = {k: learnt[k] for k in own if k in learnt and learnt[k].shape == own[k].shape}
    encoder.load_state_dict({**own, **shared})
    if shared:
        run.progress.say(f"the prior's encoder starts from {len(shared)} of {len(own)} arrays of the base.")


def _add_sampled(run: Run, data: TaskData) -> None:
    """Pick rows and write the prior's codes for them; a few rows serve, since f only has to learn the prior's habits."""
    settings, model = run.settings, run.model
    assert model.tokenizer is not None and model.prior is not None
    count = min(settings.examples, len(data.rows))
    data.picks = np.sort(np.random.default_rng((run.recipe.seed, 11)).permutation(len(data.rows))[:count])
    sampling = SampleSettings(temperature=settings.temperature)

    def write(batch: Batch) -> Codes:
        codes = model.codes(batch, "prior", sampling, batch.keys)
        assert codes is not None
        return codes

    accelerator = run.accelerator
    data.sampled = compute_codes(
        data,
        model.tokenizer.spec,
        write,
        accelerator.device,
        run.progress,
        f"sampling {data.task.name}",
        accelerator.process_index,
        accelerator.num_processes,
    )
    data.sampled_share = settings.sampled
