"""The answers that Cynosure itself gives to hooks, after those of all other plugins; wrappers act around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cynosure.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np

    from cynosure.core.records import Batch, Prediction, StepOutput


@hookimpl(trylast=True)
def cynosure_training_step(run: Any, batch: Batch) -> StepOutput:
    output: StepOutput = run.forward(batch)
    return output


@hookimpl(trylast=True)
def cynosure_predict(model: Any, request: Any) -> list[Prediction]:
    return model.answer(request)


@hookimpl(trylast=True)
def cynosure_render(prediction: Prediction) -> np.ndarray:
    return prediction.image()
