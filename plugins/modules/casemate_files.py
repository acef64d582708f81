"""Bring a set of files to the given contents and modes; the action plugin of the same name renders them."""

from __future__ import annotations

DOCUMENTATION = """
module: casemate_files
short_description: write a service's configuration files in one step
description:
  - Compares, validates and atomically writes files, making missing parent directories (0755).
  - In check mode nothing is written, and a file whose validator is not installed yet is not validated.
  - Each file that is written is recorded first, one path a line, in /var/lib/casemate/files; one that was there before
    is kept below /var/lib/casemate/originals. `appliance reset` goes by both.
options:
  files:
    description: >-
      Each has dest, and may have mode (default 0644), owner, group, validate (a command with %s), state, no_log.
    type: list
    elements: dict
    required: true
  contents:
    description: Base64 of a JSON list, one text (or null) a file. Made by the action plugin.
    type: str
    required: true
  within:
    description: Fail unless the change to the release of this lock goes on (appliance/node/release/transaction.py).
    type: str
author: Casemate
"""

RETURN = """
changed_files:
  description: The dest of each file that was (or would be) written, removed or given another mode.
  type: list
  returned: always
"""

import base64
import grp
import json
import os
import pwd
import shlex
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

RECORD = "/var/lib/casemate/files"
ORIGINALS = "/var/lib/casemate/originals"
CHANGE = "/var/lib/casemate/transaction/state.json"


def main():
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True},
            "contents": {"type": "str", "required": True, "no_log": True},
            "within": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if module.params["within"] and not goes_on(module.params["within"]):
        module.fail_json(msg=f"the change to release {module.params['within']} was rolled back meanwhile")
    contents = json.loads(base64.b64decode(module.params["contents"]))
    plans = [plan(module, entry, text) for entry, text in zip(module.params["files"], contents, strict=False)]
    wanted = [p for p in plans if p["changed"]]
    try:
        # every validator is asked before the first file is replaced
        for p in wanted:
            if p["text"] is not None:
                stage(module, p)
        if not module.check_mode:
            record([p["dest"] for p in wanted if p["text"] is not None])
            for p in wanted:
                put(p)
    except OSError as error:  # a full disk, a read-only file system, a file where a directory was expected
        module.fail_json(msg=f"{p['dest']} cannot be written: {error}")
    finally:
        # also when a later file was refused: services read whatever lies in their directories
        for p in wanted:
            if p.get("staged") and os.path.exists(p["staged"]):
                os.unlink(p["staged"])
    module.exit_json(
        changed=bool(wanted),
        changed_files=[p["dest"] for p in wanted],
        diff=[p["diff"] for p in wanted],
    )


def goes_on(lock):
    """Whether a change to this lock's release is under way: a run that its host gave up must not write any more."""
    try:
        with open(CHANGE) as file:
            found = json.load(file)
    except FileNotFoundError:
        return False
    return (found["to"], found["phase"]) == (lock, "changing")


def plan(module, entry, text):
    """What `entry` means for the host: {"dest", "text" (None: remove), "mode", "uid", "gid", "changed", "diff"}."""
    dest = entry["dest"]
    mode = int(str(entry.get("mode", "0644")), 8)
    before = before_mode = before_owner = None
    if os.path.isdir(dest):
        module.fail_json(msg=f"{dest} is a directory, a file was expected")
    if os.path.lexists(dest):
        status = os.stat(dest) if os.path.exists(dest) else os.lstat(dest)
        before_mode, before_owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        if os.path.exists(dest):
            with open(dest, "rb") as existing:
                before = existing.read()
    if text is None:
        changed, uid, gid, after_mode = before_mode is not None, None, None, None
    else:
        uid, gid = (
            identify(module, pwd.getpwnam, entry.get("owner", "root")),
            identify(module, grp.getgrnam, entry.get("group", "root")),
        )
        after_mode = mode
        changed = before != text.encode() or before_mode != mode or before_owner != (uid, gid)
    hidden = module.boolean(entry.get("no_log", False))
    return {
        "dest": dest,
        "text": text,
        "mode": mode,
        "uid": uid,
        "gid": gid,
        "changed": changed,
        "validate": entry.get("validate"),
        "diff": {
            "before_header": header(dest, before_mode),
            "after_header": header(dest, after_mode),
            "before": "(hidden)\n" if hidden else (before or b"").decode(errors="replace"),
            "after": "(hidden)\n" if hidden else text or "",
        },
    }


def header(dest, mode):
    return f"{dest} (absent)" if mode is None else f"{dest} (mode {mode:04o})"


def identify(module, lookup, name):
    """The numeric id; -1 in check mode for a user that a package would bring."""
    try:
        found = lookup(str(name))
    except KeyError:
        if module.check_mode:
            return -1
        module.fail_json(msg=f"no user or group {name!r} on this host")
    return found[2]


def stage(module, p):
    """Write the new text beside its place (in /tmp under check mode) and ask the validator about it."""
    command = p["validate"]
    if command and "%s" not in command:
        module.fail_json(msg=f"{p['dest']}: validate needs a %s: {command}")
    words = shlex.split(command) if command else []
    if module.check_mode and (not words or shutil.which(words[0]) is None):
        return
    parent = tempfile.gettempdir() if module.check_mode else os.path.dirname(p["dest"])
    os.makedirs(parent, mode=0o755, exist_ok=True)
    # the same ending: validators look at it
    handle, p["staged"] = tempfile.mkstemp(prefix=".casemate-", suffix=os.path.splitext(p["dest"])[1], dir=parent)
    with os.fdopen(handle, "w", encoding="utf-8") as staged:
        staged.write(p["text"])
        staged.flush()
        os.fsync(staged.fileno())
    if not words:
        return
    if not module.check_mode:
        os.chmod(p["staged"], p["mode"])
        os.chown(p["staged"], p["uid"], p["gid"])
    code, out, err = module.run_command([w.replace("%s", p["staged"]) for w in words])
    if code != 0:
        module.fail_json(msg=f"{p['dest']}: {words[0]} refuses the new text: {(err or out).strip()}", rc=code)


def record(paths):
    """Note, before the first is written, which files are ours from now on, and keep what they replace."""
    known = set()
    if os.path.exists(RECORD):
        with open(RECORD) as file:
            known = set(file.read().splitlines())
    new = [path for path in paths if path not in known]
    for path in new:
        if os.path.exists(path):
            keep(path)
    if new:
        os.makedirs(os.path.dirname(RECORD), mode=0o755, exist_ok=True)
        with open(RECORD, "a") as file:
            file.write("".join(f"{path}\n" for path in new))
            file.flush()
            os.fsync(file.fileno())


def keep(path):
    """Copy a file with its owner, mode and times below ORIGINALS, in one step."""
    os.makedirs(ORIGINALS, mode=0o700, exist_ok=True)
    kept = ORIGINALS + path
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    status = os.stat(path)
    shutil.copy2(path, kept + ".new")
    os.chown(kept + ".new", status.st_uid, status.st_gid)
    os.replace(kept + ".new", kept)


def put(p):
    if p["text"] is None:
        os.unlink(p["dest"])
        return
    os.chown(p["staged"], p["uid"], p["gid"])
    os.chmod(p["staged"], p["mode"])
    os.replace(p["staged"], p["dest"])


if __name__ == "__main__":
    main()
