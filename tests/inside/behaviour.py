"""Runs on an appliance: what a runtime handler does with pods, through CRI; prints one JSON object, a key a case.

behaviour.py HANDLER [CASE...]
"""

import json
import os
import queue
import shutil
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import behaviour_isolation
import behaviour_lifecycle
import behaviour_output
import behaviour_resources
from behaviour_image import import_images
from cri_pods import Pod

AT_ONCE = 2  # cases, each with a pod that no other uses at the time


def main():
    handler, *names = sys.argv[1:]
    shutil.rmtree("/tmp/casemate-test", ignore_errors=True)
    os.makedirs("/tmp/casemate-test")
    import_images()
    modules = (behaviour_lifecycle, behaviour_output, behaviour_isolation, behaviour_resources)
    cases = {name: run for module in modules for name, run in vars(module).items() if name.startswith("case_")}
    chosen = {name.removeprefix("case_"): run for name, run in cases.items() if not names or name[5:] in names}
    pods = queue.SimpleQueue()
    for _ in range(AT_ONCE):
        pods.put(Pod("shared", handler=handler))

    def outcome(run):
        pod = pods.get()
        try:
            return run(pod)
        except Exception:  # one case's failure is that case's result
            return traceback.format_exc()
        finally:
            pods.put(pod)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = dict(zip(chosen, pool.map(outcome, chosen.values()), strict=True))
    for _ in range(AT_ONCE):
        pods.get().remove()
    shutil.rmtree("/tmp/casemate-test")
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
