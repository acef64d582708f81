"""The Vagrantfile is accepted by Vagrant, where there is one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("vagrant") is None, reason="needs vagrant")


def validate(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        **settings,
    }
    argv = ["vagrant", "validate", "--ignore-provider"]
    return subprocess.run(argv, cwd=HERE, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("settings", [{}, {"CASEMATE_HOSTS": "3", "CASEMATE_RELEASE": "trixie"}])
def test_vagrantfile_is_valid(tmp_path, settings):
    done = validate(tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("settings", [{"CASEMATE_HOSTS": "0"}, {"CASEMATE_RELEASE": "buster"}])
def test_vagrantfile_refuses_what_it_cannot_make(tmp_path, settings):
    done = validate(tmp_path, **settings)
    assert done.returncode != 0
    assert next(iter(settings)) in done.stderr
