"""Every hook reaches plugins through the host's method for it, with the arguments of its specification."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cynosure import hookspecs
from cynosure.core.records import Prediction
from cynosure.host import Host, load_host
from cynosure.registry import PluginEntry, Registry

HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("cynosure_")}
CALLED_WHILE_LOADING = {"cynosure_register"}
RESULTS = {
    "cynosure_build_model": "GuidedModel.__new__(GuidedModel)",
    "cynosure_build_optimizer": "torch.optim.SGD([torch.zeros(1)])",
    "cynosure_export": "Path('answer')",
    "cynosure_predict": "[Prediction(None, {})]",
    "cynosure_render": "torch.zeros(2, 3, 3).byte().numpy()",
    "cynosure_training_step": "StepOutput(torch.zeros(()), {})",
    "cynosure_transforms": "torch.relu",
}
"""What a hook gives whose results the host checks; others give 'answer'."""


class Value:
    """In place of any argument of a hook, such as a request, which has rows."""

    rows = ("row",)


@pytest.fixture(params=sorted(set(HOOKS) - CALLED_WHILE_LOADING))
def hook(request) -> str:
    return request.param


def implement(hook: str, folder: Path) -> Host:
    arguments = ", ".join(inspect.signature(HOOKS[hook]).parameters)
    file = folder / "plugin.py"
    file.write_text(
        "import torch\nfrom cynosure import hookimpl\n"
        "from pathlib import Path\nfrom cynosure.core.guided import GuidedModel\n"
        "from cynosure.core.records import Prediction, StepOutput\n"
        f"seen = []\n@hookimpl\ndef {hook}({arguments}):\n"
        f"    seen.append(({arguments},))\n    return {RESULTS.get(hook, repr('answer'))}\n"
    )
    return load_host(Registry({"plugin": PluginEntry(path=file)}), strict=True)


def test_host_method_calls_the_hook_with_all_arguments(hook, tmp_path):
    host = implement(hook, tmp_path)
    values = tuple(Value() for _ in inspect.signature(HOOKS[hook]).parameters)
    result = getattr(host, hook.removeprefix("cynosure_"))(*values)
    assert host.plugins[0].module.seen == [values], f"{hook} did not get its arguments in order"
    namespace = vars(host.plugins[0].module)
    wanted = eval(RESULTS.get(hook, "'answer'"), namespace)
    if hook == "cynosure_transforms":
        assert [transform.function for transform in result] == [wanted]
    elif HOOKS[hook].cynosure_spec["firstresult"]:
        assert type(result) is type(wanted)


def test_host_methods_have_the_arguments_of_their_hooks(hook):
    method = inspect.signature(getattr(Host, hook.removeprefix("cynosure_"))).parameters
    assert list(method)[1:] == list(inspect.signature(HOOKS[hook]).parameters)


def test_hooks_are_typed_and_documented(hook):
    function = HOOKS[hook]
    parameters = inspect.signature(function).parameters
    assert all(p.annotation is not p.empty for p in parameters.values()), f"{hook} has an untyped argument"
    text = inspect.getdoc(function) or ""
    assert text.startswith("Fires") and "Return" in text, f"{hook} must say when it fires and what to return"
    for name in parameters:
        assert f"{name}: " in text, f"{hook} does not explain {name}"


def test_built_in_answers_come_last(tmp_path):
    file = tmp_path / "plugin.py"
    file.write_text(
        "from cynosure import hookimpl\n@hookimpl(wrapper=True)\ndef cynosure_predict(model, request):\n"
        "    result = yield\n    return [*result, request.added]\n"
        "@hookimpl\ndef cynosure_render(prediction):\n    return prediction.mine\n"
    )

    class Model:
        def answer(self, request):
            return [request.own]

    class Drawn:
        mine, own = None, np.zeros((1, 1, 3), np.uint8)

        def image(self):
            return self.own

    registry = Registry({"defaults": PluginEntry(module="cynosure.defaults"), "plugin": PluginEntry(path=file)})
    host = load_host(registry, strict=True)
    request = SimpleNamespace(rows=["first", "second"], own=Prediction(None, {}), added=Prediction(None, {}))
    assert [id(answer) for answer in host.predict(Model(), request)] == [id(request.own), id(request.added)]
    prediction = Drawn()
    assert host.render(prediction) is prediction.own
    prediction.mine = np.ones((1, 1, 3), np.uint8)
    assert host.render(prediction) is prediction.mine
