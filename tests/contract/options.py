"""Tiny options for every built-in component: (kind, name) -> cases. A new component needs an entry here.

Options are what a recipe would say; `skip` maps a check that does not apply to the reason why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_data

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """Options of a component, or a function that writes its data into a folder and gives the options."""

    options: Options | Callable[[Path], Options] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)


VQ = {"name": "vq", "vocab_size": 16, "dim": 8}
PLAIN_VQ = {"vocab_size": 16, "dim": 8}
GUMBEL = {"quantizing_twice_changes_nothing": "codes are chosen by a linear layer, not by distance"}
FSQ = {"quantizing_twice_changes_nothing": "the bound moves a value that is already one of the levels"}
MULTISCALE = {"quantizing_twice_changes_nothing": "greedy residual codes of a sum need not be its parts"}
RESTARTS = {"ranks_learn_what_one_learns_from_all": "codewords restart as vectors of the first rank"}
TRANSFORMER = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
UNCONDITIONAL = {**TRANSFORMER, "encoder": None}
TRUNK = {**TRANSFORMER, "stem": (4, 8)}
VIT = {**TRANSFORMER, "patch": 8}
ORACLE = {**TRANSFORMER, "patch": 8, "code_grid": (2, 2), "quantizer": VQ}
VIT_ENCODER = {"name": "vit", **VIT}
LATENT = {"name": "latent", "sizes": (6, 4, 5)}
QLAE = {"widths": (4, 8), "convolutions": 2, "dense": (12, 10)}
VQGAN = {"channels": 32, "multipliers": (1, 1, 1), "blocks": 1, "attention": (2,), "z_channels": 4}
CODES = {"field": "image", "channels": 3, "dim": 8, "tokenizer": VQGAN, "quantizer": PLAIN_VQ, "weights": None}
VIT_VQGAN = {**TRANSFORMER, "patch": 8}
NO_REFERENCE = {"minimising_the_loss_leads_to_the_truth": "its losses ask for a good exposure, not for the truth"}
MASKGIT = {"channels": 32, "multipliers": (1, 2, 1, 1), "blocks": 1}

CASES: dict[tuple[str, str], list[Case]] = {
    ("quantizer", "vq"): [
        Case({"vocab_size": 16, "dim": 8}),
        Case({"vocab_size": 16, "dim": 8, "update": "ema", "normalize": False, "commitment": 0.25}),
        Case({"vocab_size": 16, "dim": 8, "update": "gradient"}),
        Case({"vocab_size": 16, "dim": 8, "update": "simvq", "gradient": "rotation", "commitment": 0.25}),
        Case({"vocab_size": 16, "dim": 8, "update": "gradient", "commitment": 0.25, "legacy_beta": True}),
        Case({"vocab_size": 16, "dim": 8, "update": "gradient", "entropy": 0.1, "entropy_temperature": 1.0}),
        Case({"vocab_size": 16, "dim": 8, "entropy": 0.1, "entropy_temperature": 1.0, "entropy_targets": "argmax"}),
        Case({"vocab_size": 16, "dim": 8, "update": "ema", "replace": "restart", "min_count": 2.0}),
        Case({"vocab_size": 40, "dim": 8, "warmup_steps": 2}),
        Case(
            {"vocab_size": 16, "dim": 8, "update": "gradient", "code_dim": 4, "normalize_inputs": True},
            skip={"quantizing_twice_changes_nothing": "the maps to and from a narrow code are not inverse"},
        ),
    ],
    ("quantizer", "gumbel"): [
        Case({"vocab_size": 16, "dim": 8}, skip=GUMBEL),
        Case({"vocab_size": 16, "dim": 8, "straight_through": False, "final_temperature": 0.1}, skip=GUMBEL),
    ],
    ("quantizer", "rq"): [
        Case({"vocab_size": 16, "dim": 8, "depth": 3}),
        Case({"vocab_size": 16, "dim": 8, "depth": 3, "shared": False, "update": "gradient"}, skip=RESTARTS),
        Case({"vocab_size": 16, "dim": 8, "depth": 3, "update": "totals", "replace": "split"}),
        Case(
            {"vocab_size": 16, "dim": 8, "depth": 3, "immediate": True, "depth_dropout": 0.5},
            skip={
                "micro_batches_teach_what_one_batch_teaches": "every batch meets the codebook that the last one left"
            },
        ),
    ],
    ("quantizer", "fsq"): [
        Case({"levels": (8, 5, 5, 5)}, skip=FSQ),
        Case({"levels": (8, 8, 5, 4, 2), "groups": 2}),
    ],
    ("quantizer", "lfq"): [Case({"bits": 10}), Case({"bits": 18, "groups": 2, "joint_bits": 9})],
    ("quantizer", "bsq"): [Case({"bits": 10}), Case({"bits": 36, "groups": 5, "commitment": 0.25})],
    ("quantizer", "multiscale"): [
        Case({"vocab_size": 16, "dim": 8, "scales": (1, 2, 3)}, skip=MULTISCALE),
        Case(
            {"vocab_size": 16, "dim": 8, "scales": (1, 2, 4), "update": "ema", "replace": "restart"},
            skip={**MULTISCALE, **RESTARTS},
        ),
    ],
    ("quantizer", "latent"): [
        Case({"sizes": (6, 4, 5)}),
        Case({"sizes": (6, 4, 5), "spread": True}),
        Case({"sizes": (6, 6, 6), "shared": True, "spread": True}),
        Case({"sizes": (6, 4, 5), "codebook": "frozen"}),
        Case({"sizes": (6, 4, 5), "codebook": "tanh", "multi_information": 1e-3}),
    ],
    ("tokenizer", "vit_oracle"): [
        Case(ORACLE),
        Case({**ORACLE, "quantizer": {"name": "rq", "vocab_size": 16, "dim": 8, "depth": 3}}),
        Case({**ORACLE, "quantizer": {"name": "fsq", "levels": (8, 5, 5), "groups": 2}}),
        Case({**ORACLE, "quantizer": {"name": "multiscale", "vocab_size": 16, "dim": 8, "scales": (1, 2)}}),
        Case({**ORACLE, "quantizer": LATENT}),
    ],
    ("tokenizer", "qlae"): [
        Case({**QLAE, "quantizer": LATENT}),
        Case({**QLAE, "quantizer": {**LATENT, "spread": True}}),
        Case({**QLAE, "positions": 4, "quantizer": {**LATENT, "spread": True}}),
        Case({**QLAE, "positions": 4, "quantizer": VQ}),
    ],
    ("tokenizer", "vqgan"): [
        Case({**VQGAN, "quantizer": VQ}),
        Case({**VQGAN, "fold": 2, "quantizer": {"name": "rq", "vocab_size": 16, "dim": 8, "depth": 3}}),
        Case({**VQGAN, "quantizer": {"name": "gumbel", "vocab_size": 16, "dim": 8}}),
        Case({**VQGAN, "quantizer": {"name": "multiscale", "vocab_size": 16, "dim": 8, "scales": (1, 2, 8)}}),
    ],
    ("tokenizer", "maskgit"): [
        Case({**MASKGIT, "quantizer": VQ}),
        Case({**MASKGIT, "groups": 32, "shortcut": "input", "quantizer": VQ}),
        Case({**MASKGIT, "quantizer": {"name": "fsq", "levels": (8, 5, 5), "groups": 2}}),
        Case({**MASKGIT, "quantizer": {"name": "multiscale", "vocab_size": 16, "dim": 8, "scales": (1, 2, 4)}}),
    ],
    ("tokenizer", "vit_vqgan"): [
        Case({**VIT_VQGAN, "quantizer": VQ}),
        Case({**VIT_VQGAN, "quantizer": {**VQ, "update": "gradient", "code_dim": 4, "normalize_inputs": True}}),
        Case({**VIT_VQGAN, "quantizer": {"name": "rq", "vocab_size": 16, "dim": 8, "depth": 3}}),
        Case({**VIT_VQGAN, "quantizer": {"name": "bsq", "bits": 10}}),
        Case({**VIT_VQGAN, "quantizer": {"name": "multiscale", "vocab_size": 16, "dim": 8, "scales": (1, 2, 4)}}),
        Case({**VIT_VQGAN, "quantizer": LATENT}),
    ],
    ("base", "vit_vqgan"): [Case(VIT_VQGAN), Case({**VIT_VQGAN, "patch": 16, "dim": 8})],
    ("base", "vqgan"): [Case(VQGAN), Case({**VQGAN, "multipliers": (1, 1, 1, 2), "fold": 2})],
    ("base", "maskgit"): [Case(MASKGIT), Case({**MASKGIT, "groups": 1, "shortcut": "input"})],
    ("base", "vit"): [Case(VIT)],
    ("base", "qlae"): [Case({"widths": (8, 4), "convolutions": 2, "dense": (12, 10), "curvature": 0.1})],
    ("base", "hybrid"): [Case(TRUNK)],
    ("base", "star"): [
        Case({"variant": "half", "heads": 1}),
        Case({"variant": "sin", "heads": 1}),
    ],
    ("base", "star_v2"): [Case({"grid": 8}), Case({"dim": 8, "grid": 4, "depth": 2})],
    ("base", "zero_dce"): [Case({"dim": 8}), Case({"dim": 8, "pool": True})],
    ("base", "zero_dce_pp"): [Case({"dim": 8}), Case({"dim": 8, "scale": 4})],
    ("encoder", "vit"): [Case(VIT)],
    ("encoder", "hybrid"): [Case(TRUNK)],
    ("encoder", "timm"): [
        Case({"model": "vit_tiny_patch16_224"}),
        Case({"model": "resnet10t"}),
        Case({"model": "resnet10t", "frozen": True}),
    ],
    ("encoder", "text"): [Case({**TRANSFORMER, "length": 16})],
    ("encoder", "words"): [Case({**TRANSFORMER, "length": 16}), Case({**TRANSFORMER, "length": 4, "rows": 8})],
    ("encoder", "bpe"): [
        Case(lambda folder: {**TRANSFORMER, "length": 16, **tiny_data.vocabulary(folder)}),
        Case(lambda folder: {**tiny_data.vocabulary(folder), "dim": 8, "depth": 0, "length": 16, "dropout": 0.5}),
    ],
    ("encoder", "label"): [Case({"classes": 10, "dim": 8})],
    ("encoder", "codes"): [Case(CODES), Case({**CODES, "quantizer": {**PLAIN_VQ, "update": "ema"}})],
    ("prior", "autoregressive"): [
        Case(UNCONDITIONAL),
        Case({**TRANSFORMER, "encoder": VIT_ENCODER}),
        Case(
            {**TRANSFORMER, "encoder": VIT_ENCODER, "start_code": True},
            skip={"greedy_samples_follow_the_logits": "its logits are those of the codes + 1"},
        ),
        Case({**TRANSFORMER, "encoder": VIT_ENCODER, "task_tokens": False}),
        Case({**TRANSFORMER, "encoder": VIT_ENCODER, "condition_dropout": 0.5}),
    ],
    ("prior", "gpt"): [
        Case(UNCONDITIONAL),
        Case({**TRANSFORMER, "encoder": VIT_ENCODER, "two_way_prefix": True, "condition_dropout": 0.5}),
        Case({**TRANSFORMER, "encoder": {"name": "label", "classes": 10, "dim": 8}, "task_tokens": False, "keep": 0.9}),
    ],
    ("prior", "masked"): [
        Case({**UNCONDITIONAL, "task_tokens": False}),
        Case({**TRANSFORMER, "encoder": VIT_ENCODER, "schedule": "pow2", "condition_dropout": 0.5}),
        Case({**TRANSFORMER, "classes": 10, "condition_dropout": 0.5, "steps": 3}),
    ],
    ("prior", "rq_transformer"): [
        Case({**UNCONDITIONAL, "head_depth": 1}),
        Case({**TRANSFORMER, "head_depth": 2, "encoder": VIT_ENCODER, "embedding": "shared"}),
        Case({**TRANSFORMER, "head_depth": 1, "encoder": {**VIT_ENCODER, "dim": 24}, "condition_dropout": 0.5}),
        Case(
            {
                **TRANSFORMER,
                "head_depth": 1,
                "embedding": "separate",
                "cumulative": False,
                "classifiers": "separate",
                "task_tokens": False,
                "encoder": VIT_ENCODER,
            }
        ),
    ],
    ("prior", "next_scale"): [
        Case(UNCONDITIONAL),
        Case({**TRANSFORMER, "depth": 2, "encoder": VIT_ENCODER, "drop_path": 0.1}),
        Case({**TRANSFORMER, "encoder": {**VIT_ENCODER, "dim": 24}, "condition_dropout": 0.5, "task_tokens": False}),
        Case({**TRANSFORMER, "encoder": {"name": "label", "classes": 10, "dim": 8}, "condition_dropout": 0.5}),
    ],
    ("criterion", "lpips"): [Case({"network": "random"})],
    ("criterion", "adversarial"): [
        Case({"channels": 8, "layers": 2}),
        Case({"channels": 8, "layers": 2, "norm": "act", "loss": "nonsaturating", "adaptive": False, "lecam": 0.1}),
        Case({"channels": 8, "layers": 2, "loss": "vanilla", "lead": 2, "ramp": 2}),
    ],
    ("task", "panoptic"): [Case({"max_instances": 8}), Case({"max_instances": 8, "stuff": "class"})],
    ("task", "depth"): [Case({"bins": 16}), Case({"encoding": "log"})],
    ("task", "colorization"): [Case(), Case({"encoding": "residual"})],
    ("task", "generation"): [
        Case(),
        Case({"condition": "label", "l1": 1.0, "augment": "crop"}),
        Case({"condition": "depth", "augment": "crop"}),
        Case({"condition": "segmentation"}),
    ],
    ("task", "maps"): [Case(), Case({"kind": "segmentation", "augment": "crop"})],
    ("task", "text_to_image"): [Case({"l1": 1.0, "l2": 0.0})],
    ("task", "enhancement"): [
        Case(),
        Case({"shared": True, "l1": 0.0, "l2": 1.0, "cosine": 1.0, "color": 0.1, "augment": "crop"}),
        Case({"reference": "zero"}, skip=NO_REFERENCE),
        Case({"reference": "zero", "formulas": "published", "shared": True}, skip=NO_REFERENCE),
    ],
    ("task", "white_balance"): [Case(), Case({"transform": "polynomial", "l1": 0.0, "l2": 1.0, "augment": "crop"})],
    ("task", "retouching"): [Case(), Case({"shared": True, "order": 1, "cosine": 1.0, "augment": "crop"})],
    ("dataset", "scenes"): [Case({"size": 32, "train": 6, "validation": 4, "test": 4})],
    ("dataset", "scene_factors"): [Case({"size": 16, "train": 6, "validation": 4, "test": 4})],
    ("dataset", "images"): [Case(tiny_data.pictures)],
    ("dataset", "coco_panoptic"): [Case(tiny_data.coco)],
    ("dataset", "pairs"): [Case(tiny_data.pairs), Case(tiny_data.listed_pairs)],
    ("dataset", "degraded"): [Case(tiny_data.photographs), Case(tiny_data.looks)],
    ("metric", "panoptic_quality"): [Case()],
    ("metric", "depth_error"): [Case()],
    ("metric", "color_error"): [Case()],
    ("metric", "psnr"): [Case()],
    ("metric", "ssim"): [Case()],
    ("metric", "delta_e2000"): [Case()],
    ("metric", "angular_error"): [Case()],
    ("metric", "feature_distance"): [Case(tiny_data.colours_by_network)],
    ("protocol", "coco_panoptic"): [Case(), Case({"min_fraction": 0.01, "merge_stuff": True, "format": "two_channel"})],
    ("protocol", "nyu_depth"): [Case(), Case({"crop": "eigen"})],
    ("protocol", "colorization_fid"): [Case(tiny_data.network)],
    ("importer", "uvim"): [Case()],
}
