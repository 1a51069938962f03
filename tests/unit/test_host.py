"""The host loads plugins one at a time; a broken one is reported in full and breaks nothing else."""

import inspect
import os
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cynosure.core.records import Example, Prediction
from cynosure.errors import CynosureError, PluginError
from cynosure.host import Host, load_host
from cynosure.registry import PluginEntry, Registry

GOOD = """
    from pydantic import BaseModel
    from cynosure import hookimpl

    class Part:
        class Config(BaseModel):
            pass

    @hookimpl
    def cynosure_register(register):
        register.metric("{name}", Part)
"""


@pytest.fixture
def load(tmp_path: Path):
    """Loads one-file plugins, given as name -> source, in that order."""

    def load_plugins(sources: dict[str, str], entry: dict | None = None, **settings) -> Host:
        plugins = {}
        for name, source in sources.items():
            file = tmp_path / f"{name}.py"
            file.write_text(textwrap.dedent(source).replace("{name}", name))
            plugins[name] = PluginEntry(path=file, **(entry or {}))
        return load_host(Registry(plugins), **settings)

    return load_plugins


def only_failure(host: Host) -> str:
    assert len(host.failures) == 1, host.failures
    return host.failures[0].error


def test_plugin_is_loaded_with_its_components_and_hooks(load):
    host = load({"good": GOOD})
    assert host.failures == []
    assert host.components.owner("metric", "good") == "good"
    [plugin] = host.plugins
    assert (plugin.name, plugin.hooks) == ("good", ("cynosure_register",))


def test_broken_import_leaves_the_others_alone(load):
    host = load({"first": GOOD, "broken": "import no_such_module", "last": GOOD})
    assert host.components.names("metric") == ["first", "last"]
    [failure] = host.failures
    assert (failure.name, failure.stage) == ("broken", "import")
    assert "No module named 'no_such_module'" in failure.error and "Traceback" in failure.traceback_text


@pytest.mark.parametrize("source", ["def broken(:", "raise SystemExit(3)", "1 / 0"])
def test_whatever_happens_at_import_is_caught(load, source):
    host = load({"broken": source, "good": GOOD})
    assert [failure.name for failure in host.failures] == ["broken"] and host.components.names("metric") == ["good"]


def test_taken_name_names_both_owners_and_rolls_back(load):
    greedy = GOOD + '        register.metric("first", Part)\n'
    host = load({"first": GOOD, "greedy": greedy, "last": GOOD})
    assert "'first' of plugin 'greedy' is taken by plugin 'first'" in only_failure(host)
    assert host.components.names("metric") == ["first", "last"], "nothing of 'greedy' may stay"


def test_error_while_registering_rolls_back(load):
    host = load({"late": GOOD + "        raise RuntimeError('no weights')\n"})
    assert host.failures[0].stage == "register" and "RuntimeError: no weights" in only_failure(host)
    assert host.components.names("metric") == []


def test_unknown_hook_is_refused_with_a_suggestion(load):
    host = load({"typo": "from cynosure import hookimpl\n@hookimpl\ndef cynosure_rendr(prediction): ..."})
    assert "no hook cynosure_rendr, did you mean 'cynosure_render'?" in only_failure(host)


def test_undecorated_hook_is_noticed(load):
    assert "cynosure_render is not decorated, forgot @hookimpl?" in only_failure(
        load({"plain": "def cynosure_render(prediction): ..."})
    )


def test_undecorated_misspelt_hook_is_noticed(load):
    text = only_failure(load({"plain": "def cynosure_regster(register): ..."}))
    assert "forgot @hookimpl?" in text and "did you mean 'cynosure_register'" in text


def test_wrong_argument_is_refused_with_a_suggestion(load):
    host = load({"typo": "from cynosure import hookimpl\n@hookimpl\ndef cynosure_render(predicton): ..."})
    assert "cynosure_render has no argument predicton, did you mean 'prediction'?" in only_failure(host)


@pytest.mark.parametrize("star", ["*args", "**kwargs"])
def test_star_arguments_are_refused(load, star):
    host = load({"star": f"from cynosure import hookimpl\n@hookimpl\ndef cynosure_render({star}): ..."})
    assert "name the arguments it wants of (prediction)" in only_failure(host)


@pytest.mark.parametrize("kind", ["wrapper", "hookwrapper"])
def test_wrapper_without_yield_is_refused(load, kind):
    source = f"from cynosure import hookimpl\n@hookimpl({kind}=True)\ndef cynosure_render(prediction): ..."
    assert "has no yield" in only_failure(load({"wrap": source, "good": GOOD}))


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("async def cynosure_step_end(run): ...", "cynosure_step_end is 'async' and nothing would await it"),
        ("async def cynosure_step_end(run): yield", "cynosure_step_end is 'async' and nothing would await it"),
        ("def cynosure_step_end(run): yield", "has a yield but is no wrapper, write @hookimpl(wrapper=True)"),
        ("def cynosure_register(register): yield register.metric('a', Part)", "has a yield but is no wrapper"),
    ],
)
def test_hook_that_would_never_run_is_refused(load, function, problem):
    assert problem in only_failure(load({"idle": f"from cynosure import hookimpl\n@hookimpl\n{function}"}))


def test_register_is_no_wrapper(load):
    source = "from cynosure import hookimpl\n@hookimpl(wrapper=True)\ndef cynosure_register(register): yield"
    assert "has nothing to wrap" in only_failure(load({"wrap": source}))


def test_what_pluggy_refuses_leaves_the_others_alone(load):
    both = "from cynosure import hookimpl\n@hookimpl(wrapper=True, hookwrapper=True)\ndef cynosure_render(): yield"
    host = load({"first": GOOD, "both": both, "last": GOOD})
    assert "mutually exclusive" in only_failure(host) and [p.name for p in host.plugins] == ["first", "last"]


def test_formats_without_endings_are_refused(load):
    source = "from cynosure import hookimpl\nFORMATS = ['onnx']\n@hookimpl\ndef cynosure_export(path): ..."
    assert "FORMATS must map names of formats to endings" in only_failure(load({"formats": source}))


def test_module_that_is_loaded_already_is_refused():
    entry = PluginEntry(module="cynosure_plugins.callbacks.starvation")
    host = load_host(Registry({"starvation": entry, "mine": entry}))
    assert "same module as plugin 'starvation'" in only_failure(host) and len(host.plugins) == 1


def test_wrong_hook_api_is_refused(load):
    assert "HOOK_API is 99 but this cynosure has 1" in only_failure(load({"new": "HOOK_API = 99\n"}))


def test_module_without_hooks_is_refused(load):
    assert "implements no hook" in only_failure(load({"empty": ""}))


def test_all_problems_of_a_plugin_come_together(load):
    source = """
        from cynosure import hookimpl
        HOOK_API = 2

        @hookimpl
        def cynosure_register(register):
            register.metric("a", object)
            register.task("b", object)

        @hookimpl
        def cynosure_rendr(prediction): ...

        @hookimpl
        def cynosure_step_end(ran): ...

        def cynosure_export(model): ...
    """
    text = only_failure(load({"mess": source}))
    wanted = ["HOOK_API is 2", "no hook cynosure_rendr", "no argument ran", "cynosure_export is not decorated"]
    for problem in [*wanted, "metric 'a'", "task 'b'"]:
        assert problem in text, f"'{problem}' is not reported with the others"


def test_strict_raises_with_every_failure(load):
    with pytest.raises(PluginError, match=r"(?s)plugin 'one' failed.*plugin 'two' failed"):
        load({"one": "1/0", "two": "import nothing_here", "good": GOOD}, strict=True)


def test_only_loads_the_named_plugins(load):
    host = load({"one": GOOD, "two": GOOD, "broken": "1/0"}, only=["two"])
    assert host.components.names("metric") == ["two"] and host.failures == []


def test_only_with_an_unknown_name_is_an_error(load):
    with pytest.raises(CynosureError, match="no plugin is named 'tow', did you mean 'two'"):
        load({"two": GOOD}, only=["tow"])


def test_disabled_plugin_is_not_imported(load):
    host = load({"off": "raise RuntimeError('imported')"}, entry={"enabled": False})
    assert host.plugins == [] and host.failures == []


def test_plugin_gets_its_options(load):
    source = GOOD + "        assert register.options == {'speed': 3} and register.plugin == 'tuned'\n"
    assert load({"tuned": source}, entry={"options": {"speed": 3}}).failures == []


@pytest.mark.parametrize(
    ("stated", "wanted", "problem"),
    [("2.1", ">=2,<3", ""), ("2.1", "2.1", ""), ("2.1", ">=3", "version >=3 is required but 2.1"),
     ("", ">=3", "does not state its __version__"), ("2.1", "new", "is not a version")],
)  # fmt: skip
def test_required_version_is_checked(load, stated, wanted, problem):
    host = load(
        {"versioned": GOOD + (f"\n    __version__ = '{stated}'\n" if stated else "")}, entry={"version": wanted}
    )
    assert (problem in only_failure(host)) if problem else (host.versions() == {"versioned": "2.1"})


RECORD = """
    from pathlib import Path
    from cynosure import hookimpl

    @hookimpl
    def cynosure_train_start(run):
        run.append("{name}")

    @hookimpl
    def cynosure_export(model):
        model.append("{name}")
        return Path("{name}") if "{name}" in model[0] else None
"""


def test_hooks_run_in_registry_order(load):
    run: list[str] = []
    load({"first": RECORD, "second": RECORD, "third": RECORD}).train_start(run)
    assert run == ["first", "second", "third"]


def test_first_result_stops_the_others(load):
    asked = ["second"]
    found = load({"first": RECORD, "second": RECORD, "third": RECORD}).export(asked, "txt", None, None)
    assert found == Path("second")
    assert asked == ["second", "first", "second"], "a plugin after the first answer was asked too"


def test_no_answer_gives_none(load):
    assert load({"first": RECORD}).export(["nobody"], "txt", None, None) is None


def test_error_in_a_hook_names_the_plugin(load):
    source = "from cynosure import hookimpl\n@hookimpl\ndef cynosure_train_start(run): run.no_such"
    with pytest.raises(AttributeError) as caught:
        load({"good": GOOD, "buggy": source}).train_start([])
    assert caught.value.__notes__ == ["raised in cynosure_train_start of plugin 'buggy'"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("request.rows[:1]", "cynosure_predict of plugin 'wrong' gave 1 answers for 2 rows"),
        ("(row for row in request.rows * 2)", "cynosure_predict of plugin 'wrong' gave 4 answers for 2 rows"),
        ("7", "cynosure_predict of plugin 'wrong' returned int: return a list with"),
        ("[request.rows[0], 'second']", "cynosure_predict of plugin 'wrong' returned str: return a list with"),
    ],
)
def test_other_answers_than_a_prediction_for_each_row_name_the_plugin(load, answer, message):
    source = f"from cynosure import hookimpl\n@hookimpl\ndef cynosure_predict(request): return {answer}"
    with pytest.raises(PluginError, match=re.escape(message)):
        load({"wrong": source}).predict(None, SimpleNamespace(rows=[Prediction(None, {}), Prediction(None, {})]))


def test_predictions_come_as_a_list(load):
    source = "from cynosure import hookimpl\n@hookimpl\ndef cynosure_predict(request): return iter(request.rows)"
    rows = Prediction(None, {}), Prediction(None, {})
    assert load({"lazy": source}).predict(None, SimpleNamespace(rows=rows)) == [*rows]


def test_error_in_code_that_is_no_hook_names_the_plugin_without_the_hook(load):
    deep = "from cynosure import hookimpl\n@hookimpl\ndef cynosure_step_end(run): ...\ndef work(run): run.no_such"
    caller = "from cynosure import hookimpl\n@hookimpl\ndef cynosure_train_start(run): run()"
    host = load({"deep": deep, "caller": caller})
    with pytest.raises(AttributeError) as caught:
        host.train_start(lambda: host.plugins[0].module.work(None))
    assert caught.value.__notes__ == ["raised in the code of plugin 'deep'"]


@pytest.mark.parametrize(
    ("hook", "result", "message"),
    [
        ("training_step", "torch.zeros(())", "returned Tensor: return a StepOutput"),
        ("training_step", "None", "returned None: return a StepOutput"),
        ("build_optimizer", "torch.optim.SGD", "returned the class SGD: return an optimizer"),
        ("build_model", "'hybrid'", "returned str: return a GuidedModel"),
        ("render", "torch.zeros(4, 4, 3).numpy()", "returned float32 [4, 4, 3]: return a picture uint8 [H, W, 3]"),
        ("render", "torch.zeros(4, 4, 3).byte()", "returned Tensor: return a picture uint8 [H, W, 3]"),
        ("export", "'model.onnx'", "returned str: return the pathlib.Path that it wrote"),
        ("transforms", "[print]", "returned list: return one function (example, rng) -> example"),
    ],
)
def test_wrong_result_of_a_hook_names_the_plugin(load, hook, result, message):
    source = f"import torch\nfrom cynosure import hookimpl\n@hookimpl\ndef cynosure_{hook}(): return {result}"
    arguments = len(inspect.signature(getattr(Host, hook)).parameters) - 1
    with pytest.raises(PluginError, match=re.escape(f"cynosure_{hook} of plugin 'wrong' {message}")):
        getattr(load({"wrong": source}), hook)(*[None] * arguments)


@pytest.mark.parametrize(
    ("hook", "arguments"),
    [
        ("training_step", (SimpleNamespace(forward=lambda batch: None), None)),
        ("predict", (SimpleNamespace(answer=lambda request: request.rows), SimpleNamespace(rows=[]))),
        ("render", (SimpleNamespace(image=lambda: np.zeros((1, 1, 3), np.uint8)),)),
    ],
)
def test_a_wrapper_that_forgets_its_result_is_named_and_not_the_built_in_plugin(tmp_path, hook, arguments):
    file = tmp_path / "forgetful.py"
    file.write_text(f"from cynosure import hookimpl\n@hookimpl(wrapper=True)\ndef cynosure_{hook}(): result = yield\n")
    plugins = {"defaults": PluginEntry(module="cynosure.defaults"), "forgetful": PluginEntry(path=file)}
    host = load_host(Registry(plugins, builtin=frozenset({"defaults"})), strict=True)
    with pytest.raises(PluginError, match="of plugin 'forgetful' returned None"):
        getattr(host, hook)(*arguments)


TRANSFORM = """
    from cynosure import hookimpl

    @hookimpl
    def cynosure_transforms(task, split):
        def change(example, rng):
            {body}
        return change
"""


def test_transforms_that_fail_name_their_plugin(load):
    sources = {"fine": "return example", "bad": "1 / 0", "forgetful": "example.inputs"}
    sources = {name: TRANSFORM.replace("{body}", body) for name, body in sources.items()}
    fine, bad, forgetful = load(sources).transforms(None, "train")
    example = Example({}, {})
    assert fine(example, None) is example
    with pytest.raises(ZeroDivisionError) as caught:
        bad(example, None)
    assert caught.value.__notes__ == ["raised in the function of cynosure_transforms of plugin 'bad'"]
    with pytest.raises(PluginError, match="the function of cynosure_transforms of plugin 'forgetful' returned None"):
        forgetful(example, None)


def test_trace_prints_call_order_and_result_until_stopped(load):
    host = load({"first": RECORD, "second": RECORD})
    lines: list[str] = []
    stop = host.trace(lines.append)
    host.export(["second"], "txt", None, None)
    stop()
    host.export(["second"], "txt", None, None)
    assert lines == [
        "hook cynosure_export(model=['second'], format='txt', path=None, task=None, style=None): first, second",
        f"hook cynosure_export -> {Path('second')!r}",
    ]


def test_changed_file_is_loaded_anew_and_an_unchanged_one_once(load, tmp_path):
    first = load({"good": GOOD}).components.get("metric", "good")
    entry = PluginEntry(path=tmp_path / "good.py")
    assert load_host(Registry({"good": entry})).components.get("metric", "good") is first, "classes must stay the same"
    (tmp_path / "good.py").write_text(
        (tmp_path / "good.py").read_text().replace("class Part", "class Part:\n  new = 1\nclass Part")
    )
    os.utime(tmp_path / "good.py", (1, 1))
    assert load_host(Registry({"good": entry})).components.get("metric", "good") is not first


def test_package_folder_can_be_a_path_plugin(tmp_path):
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text(textwrap.dedent(GOOD).replace("{name}", "mine"))
    assert load_host(Registry({"mine": PluginEntry(path=package)})).components.names("metric") == ["mine"]


def test_missing_file_is_reported(tmp_path):
    host = load_host(Registry({"gone": PluginEntry(path=tmp_path / "gone.py")}))
    assert "there is no file" in only_failure(host) and "correct 'path'" in only_failure(host)
