"""Components: registered under a name with an owner, built from validated options."""

from abc import ABC, abstractmethod

import pytest
from pydantic import BaseModel, ConfigDict

from cynosure.components import KINDS, Components, Register
from cynosure.errors import ConfigError, CynosureError, PluginError


class Metric:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        strength: float = 1.0
        rounds: int = 3

    def __init__(self, config, *args, **kwargs):
        self.config, self.args, self.kwargs = config, args, kwargs


class Abstract(Metric, ABC):
    @abstractmethod
    def draw(self): ...


def components_with(*names: str, kind: str = "metric") -> Components:
    components = Components()
    for name in names:
        components.add(kind, name, Metric, "author")
    return components


def test_registered_class_is_found_with_its_owner():
    components = components_with("psnr")
    assert components.get("metric", "psnr") is Metric
    assert components.owner("metric", "psnr") == "author"
    assert components.names("metric") == ["psnr"] and list(components.items("metric")) == [("psnr", Metric)]


def test_every_kind_can_be_registered():
    components = Components()
    register = Register(components, "author")
    for kind in KINDS:
        getattr(register, kind)("one", Metric)
    register.commit()
    assert all(components.names(kind) == ["one"] for kind in KINDS)


def test_unknown_name_suggests_and_lists():
    with pytest.raises(CynosureError, match=r"no metric is named 'psnrr', did you mean 'psnr'.*there is psnr, ssim"):
        components_with("ssim", "psnr").get("metric", "psnrr")


def test_unknown_name_mentions_plugins_that_failed():
    components = components_with()
    components.failed = ["broken"]
    with pytest.raises(CynosureError, match="plugins that failed to load: broken"):
        components.get("metric", "psnr")


def test_unknown_kind_is_an_error():
    with pytest.raises(CynosureError, match="did you mean 'metric'"):
        components_with().names("metrics")


def test_build_takes_a_name_or_a_mapping_and_passes_arguments_on():
    components = components_with("psnr")
    assert components.build("metric", "psnr").config.strength == 1.0
    built = components.build("metric", {"name": "psnr", "strength": 2}, "shapes", extra=1)
    assert (built.config.strength, built.args, built.kwargs) == (2.0, ("shapes",), {"extra": 1})


def test_build_reports_every_wrong_option_at_once():
    with pytest.raises(ConfigError) as caught:
        components_with("psnr").build("metric", {"name": "psnr", "strenght": 2, "rounds": "many"})
    text = str(caught.value)
    assert "metric 'psnr'.strenght: unknown key, did you mean 'strength'?" in text
    assert "metric 'psnr'.rounds: should be a valid integer" in text


def test_build_leaves_parts_that_are_built_apart():
    components = components_with("oracle", kind="tokenizer")
    built = components.build("tokenizer", {"name": "oracle", "rounds": 5, "quantizer": {"name": "vq"}})
    assert built.config.rounds == 5


def test_build_without_a_name_lists_the_names():
    with pytest.raises(CynosureError, match=r"'name'.*psnr"):
        components_with("psnr").build("metric", {"strength": 1})


def test_taken_name_names_both_owners_and_changes_nothing():
    components = components_with("psnr")
    register = Register(components, "other")
    register.metric("fine", Metric)
    register.metric("psnr", Metric)
    with pytest.raises(PluginError, match="'psnr' of plugin 'other' is taken by plugin 'author'"):
        register.commit()
    assert components.names("metric") == ["psnr"], "a plugin registers all of its components or none"


def test_name_registered_twice_by_one_plugin_is_an_error():
    register = Register(Components(), "author")
    register.metric("psnr", Metric)
    register.metric("psnr", Metric)
    with pytest.raises(PluginError, match="registered twice"):
        register.commit()


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Abstract, "Abstract lacks draw"),
        (object, "give object a nested 'class Config"),
        (Metric.Config(), "not an inst"),
    ],
)
def test_class_that_cannot_be_a_component_is_refused(cls, message):
    register = Register(Components(), "author")
    register.metric("bad", cls)
    with pytest.raises(PluginError, match=message):
        register.commit()
