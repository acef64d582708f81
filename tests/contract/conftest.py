"""What several contract tests need."""

import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# long enough to be interrupted
PLAYBOOK = """
- name: Test
  hosts: appliance
  gather_facts: false
  tasks:
    - name: Wait a while
      ansible.builtin.command: sleep 30
      changed_when: false
"""


@pytest.fixture
def here(tmp_path):
    """(content, inventory): content whose playbook `deploy` only waits, and this machine as its only host."""
    content = tmp_path / "content"
    content.mkdir()
    for name in ("roles", "plugins", "ansible.cfg"):
        (content / name).symlink_to(PROJECT / name)
    (content / "playbooks").mkdir()
    (content / "playbooks/deploy.yml").write_text(PLAYBOOK)
    site = tmp_path / "site.yml"
    site.write_text(
        f"appliance: {{hosts: {{here: {{ansible_connection: local, ansible_python_interpreter: {sys.executable}}}}}}}\n"
    )
    return content, site
