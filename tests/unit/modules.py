"""Running our Ansible modules in this process, with the arguments and answers that Ansible would pass."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from ansible.module_utils.testing import patch_module_args

PLUGINS = Path(__file__).parents[2] / "plugins"


def load(path: str) -> ModuleType:
    """The plugin or module at `path` below plugins/, imported under a name of its own."""
    source = PLUGINS / path
    spec = importlib.util.spec_from_file_location(f"casemate_tested_{source.parent.name}_{source.stem}", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: ModuleType, capsys: pytest.CaptureFixture, *, check: bool = False, **arguments) -> dict:
    """What the module answers: its JSON object."""
    capsys.readouterr()
    with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)
