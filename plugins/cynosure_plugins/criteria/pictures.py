"""What criteria ask of the pictures they judge."""

from __future__ import annotations

from cynosure.core.records import Shapes


def require_pictures(shapes: Shapes, criterion: str, smallest: int) -> None:
    """Raises ValueError, naming the criterion, unless every task's raw output is RGB of at least `smallest` pixels."""
    if others := {task: channels for task, channels in shapes.channels.items() if channels != 3}:
        listed = ", ".join(f"{task} has {channels}" for task, channels in others.items())
        raise ValueError(
            f"criterion {criterion} judges RGB pictures, 3 channels, but task {listed}: take it out of model.criteria,"
            " or train such tasks in a run of their own"
        )
    if min(shapes.image_size) < smallest:
        raise ValueError(
            f"criterion {criterion} needs pictures of {smallest} pixels or more, image size is {shapes.image_size}"
        )
