"""The YAML loader keeps places and avoids YAML's traps."""

from pathlib import Path

import pytest

from cynosure.config.yaml import Document, dump_yaml, load_yaml, merge, parse_yaml
from cynosure.errors import ConfigError, Problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), ("-2.5e-3", -2.5e-3), (".5", 0.5), ("1.", 1.0), ("3", 3), ("-7", -7),
        ("1_000", 1000), ("0x1F", 31), (".inf", float("inf")), ("true", True), ("False", False), ("~", None),
        ("", None), ("null", None), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("'1e-4'", "1e-4"), ("1.2.3", "1.2.3"), ("e5", "e5"), ("-", [None]), ("[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text, value):
    got = parse_yaml(text, "f").data
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "value",
    ["08", "00007", "1e3", "5e10", "0_8", "0x1F", "1:30", "no", "yes", "on", "null", "~", "", ".5", ".inf", "<<", "-",
     "a: b", "2020-01-01", "é", "a\x85b", "a\u2028b",
     8, 1e-5, 1e22, 0.5, float("inf"), True, None, [1, "1"], {"08": "08"}],
)  # fmt: skip
def test_what_is_written_is_read_back_as_it_was(value):
    """A folder of classes called 00007, 00008 must not come back as numbers when its model is loaded."""
    got = parse_yaml(dump_yaml({"key": value}), "f").data["key"]
    assert got == value and type(got) is type(value)


def test_every_key_has_its_place():
    document = parse_yaml("a: 1\nb:\n  c: [x, {d: 2}]\n", "f.yaml")
    assert document.places[("b", "c")] == "f.yaml:3:3"
    assert document.places[("b", "c", 1, "d")] == "f.yaml:3:11"
    assert document.place(("b", "nothing", "here")) == "f.yaml:2:1", "an absent key stands where its parent does"


def test_anchors_and_merge_keys():
    document = parse_yaml("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, p: 3}\nd: {<<: [*x, {r: 4}]}\n", "f")
    assert document.data == {
        "a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"p": 3, "q": 2}, "d": {"p": 1, "q": 2, "r": 4},
    }  # fmt: skip
    assert document.places[("c", "p")] == "f:3:13"


def test_all_duplicate_keys_are_reported():
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 2\n", "f.yaml")
    assert str(caught.value).splitlines() == [
        "f.yaml:2:11 b.c: is given twice, first in line 2; keep one",
        "f.yaml:3:1 a: is given twice, first in line 1; keep one",
    ]


def test_problems_can_be_collected_and_the_rest_is_read():
    problems: list[Problem] = []
    assert parse_yaml("a: 1\na: 2\nb: 3\n", "f", problems).data == {"a": 1, "b": 3}
    assert [str(each) for each in problems] == ["f:2:1 a: is given twice, first in line 1; keep one"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "f:1:6 is not valid YAML"),
        ("a:\n\t- b", "f:2:1 is not valid YAML"),
        ("a: !!python/name:os.system x", "f:1:4 a: the tag .* is not allowed"),
        ("a: &x [*x]", "f:1:4 a.0: contains itself"),
        ("? [a]\n: b", "a key must be a word"),
        ("a: {<<: 3}", "'<<' merges mappings only"),
        ('x: "\x00"', "f is not valid YAML"),
    ],
)
def test_bad_yaml_is_one_clear_problem(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "f")


def test_unreadable_files(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not a text file"):
        load_yaml(tmp_path / "binary")


def merged(base: str, over: str) -> Document:
    return merge(parse_yaml(base, "base"), parse_yaml(over, "over"))


def test_merge_goes_key_by_key_and_keeps_places():
    document = merged("a: {x: 1, y: 2}\nb: [1, 2]\nc: 1", "a: {y: 3, z: 4}\nb: [5]")
    assert document.data == {"a": {"x": 1, "y": 3, "z": 4}, "b": [5], "c": 1}
    assert document.places[("a", "x")] == "base:1:5" and document.places[("a", "y")] == "over:1:5"
    assert document.places[("b", 0)] == "over:2:5" and ("b", 1) not in document.places
    assert document.places[("c",)] == "base:3:1"


def test_merge_replaces_a_component_whose_name_changes():
    assert merged("p: {name: a, x: 1}", "p: {name: b, y: 2}").data == {"p": {"name": "b", "y": 2}}
    assert merged("p: {name: a, x: 1}", "p: {name: a, y: 2}").data == {"p": {"name": "a", "x": 1, "y": 2}}


def test_merge_gives_options_to_a_bare_name():
    """As --set does: `quantizer: fsq` below, only its levels above."""
    got = merged("model: {quantizer: fsq}", "model: {quantizer: {levels: [3, 3]}}").data
    assert got == {"model": {"quantizer": {"name": "fsq", "levels": [3, 3]}}}
    other = merged("model: {quantizer: fsq}", "model: {quantizer: {name: vq, dim: 4}}").data
    assert other == {"model": {"quantizer": {"name": "vq", "dim": 4}}}


def test_merge_replaces_values_of_another_form():
    assert merged("a: {x: 1}\nb: 1", "a: 3\nb: {y: 2}").data == {"a": 3, "b": {"y": 2}}
