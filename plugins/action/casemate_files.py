"""Render a service's configuration files on the controller and hand them over in one module call."""

from __future__ import annotations

import base64
import json
import os

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

KEYS = {"src", "content", "dest", "mode", "owner", "group", "validate", "state", "no_log"}


class ActionModule(ActionBase):
    """Each file has `dest` and one of `src` (a template of the role), `content`, or `state: absent`."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        files = self._task.args.get("files")
        if not isinstance(files, list) or set(self._task.args) != {"files"}:
            raise AnsibleActionFail("casemate_files takes one argument: 'files', a list")
        described, contents = [], []
        for entry in files:
            unknown = set(entry) - KEYS
            if unknown or "dest" not in entry:
                raise AnsibleActionFail(
                    f"casemate_files: an entry needs 'dest' and knows no {sorted(unknown)}: {entry}"
                )
            absent = entry.get("state", "present") == "absent"
            if absent == bool({"src", "content"} & set(entry)) or {"src", "content"} <= set(entry):
                raise AnsibleActionFail(f"{entry['dest']}: give one of 'src', 'content' and 'state: absent'")
            text = None
            if not absent:
                text = str(entry["content"]) if "content" in entry else self._render(entry["src"], task_vars)
            contents.append(text)
            described.append({k: v for k, v in entry.items() if k not in ("src", "content")})
        # one opaque value: the contents reach neither the host's journal nor the task's printed arguments
        blob = base64.b64encode(json.dumps(contents).encode()).decode()
        return self._execute_module(
            module_name="casemate_files",
            module_args={"files": described, "contents": blob, "within": task_vars.get("casemate_transaction")},
            task_vars=task_vars,
        )

    def _render(self, src: str, task_vars: dict) -> str:
        path = self._find_needle("templates", src)
        search = [os.path.dirname(path), *task_vars.get("ansible_search_path", [])]
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=task_vars)
        text = templar.template(trust_as_template(self._loader.get_text_file_contents(path)), escape_backslashes=False)
        return "" if text is None else str(text)
