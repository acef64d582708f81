"""Runs cri_contract.py in a deployed host: there are the engine, and the gRPC that the pod runner really uses."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.lab import manage

pytestmark = pytest.mark.lab
# pytest and what it needs, all plain Python: the host has none, and is not to get packages for a test
PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")


def test_our_cri_client_and_containerd_mean_the_same(deployed_host):
    kit = deployed_host.root / "opt/contract"
    kit.mkdir()
    try:
        for package in PYTEST:
            source = Path(importlib.util.find_spec(package).origin)
            if source.name == "__init__.py":
                shutil.copytree(source.parent, kit / package)
            else:
                shutil.copy(source, kit)
        shutil.copy(Path(__file__).with_name("cri_contract.py"), kit)
        script = (
            "cd /opt/contract && PYTHONPATH=/opt/contract:/usr/lib/casemate/current "
            "python3 -m pytest -q -p no:cacheprovider cri_contract.py"
        )
        argv = manage.shell(deployed_host.name, ["sh", "-c", script])
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    finally:
        shutil.rmtree(kit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout
