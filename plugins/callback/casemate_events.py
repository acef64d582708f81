"""One JSON event a line to the descriptor that `appliance` passes: live progress and honest results.

Active only when CASEMATE_EVENT_FD is set; plain ansible-playbook runs are left alone.
"""

from __future__ import annotations

DOCUMENTATION = """
name: casemate_events
type: notification
short_description: JSON events on a file descriptor
description: Writes one JSON object a line for each play, task, result and for the final statistics.
author: Casemate
options: {}
"""

import json
import os

from ansible.plugins.callback import CallbackBase

try:
    from appliance.processes import die_with_parent
except ImportError:  # plain ansible-playbook, whose runs are none of ours

    def die_with_parent():
        pass


# what a result may hold that is worth a reader's time; the rest stays in the log
DETAILS = ("msg", "changed_files", "stderr", "stdout", "rc", "reason", "casemate", "removed", "kept")
LONGEST = 20_000


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "casemate_events"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        descriptor = os.environ.get("CASEMATE_EVENT_FD")
        if descriptor is None:
            self.disabled = True
            return
        # A worker whose result does not fit the pipe to a run that was killed would wait for ever.
        os.register_at_fork(after_in_child=die_with_parent)
        self._out = os.fdopen(int(descriptor), "w", buffering=1, closefd=False)

    def _emit(self, event, **fields):
        try:
            self._out.write(json.dumps({"event": event, **fields}, default=str) + "\n")
        except BrokenPipeError:  # the reader is gone; the play itself decides what becomes of it
            self.disabled = True

    def v2_playbook_on_play_start(self, play):
        self._emit("play", name=play.get_name())

    def v2_playbook_on_task_start(self, task, is_conditional):
        self._task("task", task)

    def v2_playbook_on_handler_task_start(self, task):
        self._task("task", task)

    def _task(self, event, task):
        role = task._role.get_name() if getattr(task, "_role", None) else ""
        name = task.get_name(include_role_fqcn=False).removeprefix(f"{role} : ")
        self._emit(event, id=str(task._uuid), role=role, action=task.action, name=name, path=task.get_path() or "")

    def v2_runner_on_ok(self, result):
        self._result(result, "changed" if result.result.get("changed") else "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._result(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result):
        self._result(result, "skipped")

    def v2_runner_on_unreachable(self, result):
        self._result(result, "unreachable")

    def v2_playbook_on_stats(self, stats):
        hosts = {h: stats.summarize(h) for h in sorted(stats.processed)}
        self._emit("stats", hosts=hosts)

    def _result(self, result, status):
        values = result.result
        task = result.task
        fields = {}
        if not task.no_log or status == "unreachable":
            fields = {k: values[k] for k in DETAILS if k in values and values[k] not in (None, "", [])}
            if status in ("changed", "failed") and values.get("diff"):
                fields["diff"] = values["diff"]
            failed_items = [i for i in values.get("results", []) if isinstance(i, dict) and i.get("failed")]
            if failed_items:
                fields["msg"] = "; ".join(
                    f"{i.get('_ansible_item_label', i.get('item'))}: {i.get('msg')}" for i in failed_items
                )
        for key in ("stdout", "stderr", "msg"):
            if isinstance(fields.get(key), str) and len(fields[key]) > LONGEST and key != "stdout":
                fields[key] = fields[key][:LONGEST] + " [cut]"
        self._emit("result", host=result.host.get_name(), task=str(task._uuid), status=status, **fields)
