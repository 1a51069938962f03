"""Error messages say what is wrong, where, and what was probably meant."""

from cynosure.errors import ConfigError, CynosureError, Problem, did_you_mean, unknown


def test_close_name_is_suggested():
    assert did_you_mean("dept", ["depth", "panoptic"]) == ", did you mean 'depth'?"


def test_nothing_is_suggested_when_nothing_is_close():
    assert did_you_mean("xyz", ["depth", "panoptic"]) == ""
    assert did_you_mean("depth", []) == ""


def test_unknown_name_lists_what_exists():
    assert unknown("task", "segment", ["panoptic", "depth"]) == "no task is named 'segment'; there is depth, panoptic"
    assert unknown("task", "dept", ["depth"]) == "no task is named 'dept', did you mean 'depth'? (there is depth)"
    assert unknown("task", "depth", []) == "no task is named 'depth'; there is none"


def test_config_error_prints_every_problem_on_its_own_line():
    error = ConfigError([Problem("a.yaml:3:5", "train.lr", "is missing"), Problem("", "", "is empty")])
    assert str(error) == "a.yaml:3:5 train.lr: is missing\nis empty"
    assert isinstance(error, CynosureError) and error.exit_code == 2
