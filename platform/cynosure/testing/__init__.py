"""The conformance kit: checks that every component of a kind passes, built in or not.

    from cynosure.host import load_host
    from cynosure.testing import check_component

    def test_my_quantizer():
        for result in check_component(load_host(), "quantizer", "mine", {"vocab_size": 16, "dim": 8}):
            assert result.ok, f"{result.check}: {result.message}"

`options` are what a recipe would say, parts included (`{"quantizer": {"name": "vq", ...}}` for a tokenizer, `"encoder"`
for a prior, which gets one that reads the picture where they say nothing of it, and none for None); keep them tiny.
Without them, options by the usual names (dim, depth, heads, vocab_size, ...) get small values. A component that wants
others carries them, for `cynosure plugins check` and for everybody else:

    class Mine(Quantizer):
        TESTING: ClassVar = {"options": {"vocab_size": 16, "dim": 8}, "skip": {"parameters_learn": "has none"}}

A task that reads columns of its own adds them to the synthetic rows, by a seed and the picture's size (H, W):
`TESTING = {"row": lambda seed, size: {"keypoints": [[seed, 3], [5, 8]]}}`.

Parts are built for pictures of 32 x 32 pixels, codes of 4 positions on a 2 x 2 grid, and two tasks of 3 and 5 channels.
"""

from cynosure.testing.checks import CHECKS, CheckResult, Subject, check, check_component

__all__ = ["CHECKS", "CheckResult", "Subject", "check", "check_component"]
