"""Every hook of Cynosure, grouped by moment. A plugin is a module with functions of these names under `@hookimpl`.

An implementation names the arguments it wants, by their names here, and may leave out the rest. Implementations run
in registry order. "First result" hooks stop at the first answer that is not None; put `@hookimpl(trylast=True)` on an
answer that others should be able to replace, and use `@hookimpl(wrapper=True)` to act before and after all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import numpy as np
    import torch
    import typer

    from cynosure.components import Register
    from cynosure.config.recipe import Recipe
    from cynosure.core.contracts import Task
    from cynosure.core.guided import GuidedModel
    from cynosure.core.records import Batch, Example, Prediction, StepOutput
    from cynosure.data.loading import TaskData
    from cynosure.data.mixing import Mixture

HOOK_API = 1
"""Version of the hooks below, whose arguments are only ever added. A plugin may declare the number it needs."""

hookspec = pluggy.HookspecMarker("cynosure")
hookimpl = pluggy.HookimplMarker("cynosure")


# --- when plugins load -------------------------------------------------------------------------------------------


@hookspec
def cynosure_register(register: Register) -> None:
    """Fires once when the plugin loads, for this plugin alone; registers its components.

    register: one method per kind, `register.task("depth", DepthTask)`; `register.options` holds the plugin's options
        from registry.yaml.
    Return nothing. If this raises, none of the plugin's registrations count.
    """


@hookspec
def cynosure_commands(app: typer.Typer) -> None:
    """Fires when the `cynosure` command starts; adds commands. Keep heavy imports inside the command functions.

    app: the typer application; use `@app.command()` or `app.add_typer(...)`.
    Return nothing.
    """


# --- when a run is put together ----------------------------------------------------------------------------------


@hookspec(firstresult=True)
def cynosure_build_model(recipe: Recipe) -> GuidedModel | None:
    """Fires when a run needs a new model, before the recipe's parts are built. First result.

    recipe: the validated recipe.
    Return a GuidedModel to use it, or None to have the model built from the recipe's parts.
    """


@hookspec(firstresult=True)
def cynosure_build_optimizer(run: Any) -> torch.optim.Optimizer | None:
    """Fires at the start of every training stage. First result.

    run: the run; `run.settings` are the stage's settings (`optimizer` names the wanted one), parameters of `run.model`
        that this stage trains have `requires_grad` set.
    Return an optimizer, or None when it is not the one that the settings name.
    """


@hookspec
def cynosure_transforms(task: Task, split: str) -> Callable[[Example, np.random.Generator], Example] | None:
    """Fires once per task and split when its data are opened.

    task: the task whose examples are being prepared.
    split: 'train', 'validation' or 'test'.
    Return a function (example, rng) -> example, or None. All functions run in registry order, after Task.prepare.
    """


# --- while a run trains ------------------------------------------------------------------------------------------


@hookspec
def cynosure_train_start(run: Any) -> None:
    """Fires once when training starts (or goes on), after the model and data exist and before the first stage.

    run: the training run (its model, recipe, stage, step and folder).
    Return nothing.
    """


@hookspec
def cynosure_stage_start(run: Any, data: Mapping[str, TaskData], mixture: Mixture) -> None:
    """Fires when a stage starts (or goes on), before its first step.

    run: the training run; `run.warn(text)` tells the user a sentence and keeps it in the log.
    data: the rows that each task trains on in this stage, its batch size and the kept codes.
    mixture: the order of the tasks; `mixture.shares` are their shares of the micro-batches.
    Return nothing.
    """


@hookspec(firstresult=True)
def cynosure_training_step(run: Any, batch: Batch) -> StepOutput | None:
    """Fires for every micro-batch; what it returns is differentiated. First result.

    run: the training run.
    batch: one micro-batch of one task, on the run's device.
    Return a StepOutput, or None to leave it to the next plugin. The built-in plugin `defaults` answers last, with
        `run.forward(batch)`: the task's loss, those of the tokenizer and of all criteria. Start from it, or wrap it,
        so that processes share their gradients.
    """


@hookspec
def cynosure_step_end(run: Any, logs: Mapping[str, float]) -> None:
    """Fires whenever training statistics are logged (every `train.log_every` optimizer steps).

    run: the training run.
    logs: averages since the last time, by name: loss, learning rate, code usage, examples per second.
    Return nothing.
    """


@hookspec
def cynosure_evaluated(
    run: Any, task: Task, metrics: Mapping[str, Mapping[str, float]], samples: Sequence[Prediction]
) -> None:
    """Fires after each evaluation of one task, during training or by `cynosure eval`.

    run: the training run, or the loaded model when evaluating alone.
    task: the evaluated task.
    metrics: where the codes came from (prior, oracle, random, none, baseline) -> metric name -> value.
    samples: a few predictions to look at.
    Return nothing.
    """


@hookspec
def cynosure_checkpoint_saved(run: Any, path: Path) -> None:
    """Fires on the main process after a checkpoint is completely written.

    run: the training run.
    path: the folder of the checkpoint.
    Return nothing.
    """


@hookspec
def cynosure_train_end(run: Any, error: BaseException | None) -> None:
    """Fires once when training ends, well or not.

    run: the training run.
    error: what stopped training, or None when it finished.
    Return nothing.
    """


# --- when a model is used ----------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def cynosure_predict(model: Any, request: Any) -> list[Prediction] | None:
    """Fires for every prediction request. First result; the built-in answer comes last.

    model: the loaded model, as from `cynosure.load`.
    request: the inputs, the task and the sampling settings.
    Return predictions, one per input, or None. Wrappers change the request before, or the predictions after.
    """


@hookspec(firstresult=True)
def cynosure_render(prediction: Prediction) -> np.ndarray | None:
    """Fires when a prediction is shown or saved as a picture. First result; the task's own drawing comes last.

    prediction: one answer, with its task.
    Return a picture uint8 [H, W, 3], or None.
    """


@hookspec(firstresult=True)
def cynosure_export(model: Any, format: str, path: Path, task: str | None, style: Sequence[int] | None) -> Path | None:
    """Fires when a model is to be written in another program's format, by `cynosure export`. First result.

    model: the loaded model.
    format: the name of the wanted format, for example 'onnx'.
    path: where to write.
    task: the name of the task to write, or None where the model has one.
    style: the codes to write it with, L D numbers, or None for a model without codes.
    Return the file or folder written, or None for a format that this plugin does not write.
    """
