"""Runs on an appliance: real programs as microVM pods. Prints JSON.

`applications.py SECONDS MIB`: how long pgbench runs, how big the file is that nginx serves. Needs the test images
busybox, nginx, postgres, python and redis.
"""

import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path

from cri_pods import Pod, as_user, cmdline, cri, execute, sandbox_of, wait

from appliance.node.pods.teardown import stop_container

WORK = Path("/var/lib/casemate-test")
POSTGRES = 999  # its user in the image
MIB = 1 << 20

SERVER = """
export PATH=/usr/lib/postgresql/15/bin:$PATH
if [ ! -s /data/PG_VERSION ]; then
    initdb -D /data -A trust --locale=C && echo "host all all all trust" >> /data/pg_hba.conf
fi
exec postgres -D /data -c listen_addresses=* -c unix_socket_directories=/tmp -c jit=off -c shared_buffers=32MB
"""
LEDGER = """
i=0; while [ $i -lt 100000 ]; do echo "insert into ledger values ($i) returning n;"; i=$((i+1)); done |
exec psql -qAt -h {address} -U postgres postgres
"""


def main():
    seconds, mib = int(sys.argv[1]), int(sys.argv[2])
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    seen = {}
    for name, action in (
        ("busybox", busybox), ("python", python), ("redis", redis),
        ("nginx", lambda: nginx(mib)), ("postgres", lambda: postgres(seconds)),
    ):  # fmt: skip
        begin = time.monotonic()
        seen[name] = action()
        seen[name]["took_s"] = round(time.monotonic() - begin, 1)
    for path in (WORK, "/tmp/casemate-test"):
        shutil.rmtree(path)
    print(json.dumps(seen, indent=1))


def image(name):
    return {"image": f"localhost/casemate-test/{name}:1"}


def mount(host, container, readonly=False):
    return {"host_path": str(host), "container_path": container, "readonly": readonly}


def directory(name, owner=0):
    path = WORK / name
    path.mkdir()
    os.chown(path, owner, owner)
    return path


def until(action, seconds=120):
    """Repeat `action` until it neither fails nor says no; its answer. Raises what it raised last."""
    end = time.monotonic() + seconds
    while True:
        try:
            if answer := action():
                return answer
            raise TimeoutError(f"still {answer!r} after {seconds} s")
        except Exception:
            if time.monotonic() > end:
                raise
        time.sleep(0.3)


def busybox():
    pod = Pod("busybox")
    code = wait(pod.container("/bin/sh", "-c", "uname; seq 3 | sort -r 2>/dev/null || seq 3", image=image("busybox")))
    seen = {"code": code, "output": pod.log()["stdout"]}
    pod.remove()
    return seen


def python():
    """Two containers of a pod: a server, and a client that finds it on localhost."""
    content = directory("python")
    (content / "page").write_text("from python")
    pod = Pod("python")
    serve = ["/usr/bin/python3", "-m", "http.server", "8000", "-d", "/srv"]
    pod.container(*serve, name="server", image=image("python"), mounts=[mount(content, "/srv", True)])
    fetch = """
import time, urllib.request
for attempt in range(200):
    try:
        print(urllib.request.urlopen("http://localhost:8000/page").read().decode())
        break
    except OSError:
        time.sleep(0.3)
"""
    code = wait(pod.container("/usr/bin/python3", "-c", fetch, name="client", image=image("python")), 120)
    seen = {"code": code, "fetched": pod.log("client")["stdout"].strip()}
    pod.remove()
    return seen


def redis():
    """Keys that Redis acknowledged, before and after it was killed, in a new container on the same volume."""
    data = directory("redis")
    pod = Pod("redis")
    program = ["/usr/bin/redis-server", "--dir", "/data", "--appendonly", "yes", "--appendfsync", "always",
               "--protected-mode", "no", "--save", ""]  # fmt: skip

    def ask(*words):
        with socket.create_connection((pod.address(), 6379), timeout=30) as link, link.makefile("rwb") as stream:
            stream.write(" ".join(words).encode() + b"\r\n")
            stream.flush()
            answer = stream.readline().decode().strip()
            return stream.readline().decode().strip() if answer.startswith("$") and answer != "$-1" else answer

    def start(name):
        identifier = pod.container(*program, name=name, image=image("redis"), mounts=[mount(data, "/data")])
        until(lambda: ask("PING") == "+PONG")
        return identifier

    first = start("first")
    answers = {ask("SET", f"key-{n}", f"value-{n}") for n in range(50)}
    stop_container(cri, first, 0)
    start("second")
    seen = {"set": sorted(answers), "after": [ask("GET", f"key-{n}") for n in (0, 49)], "size": ask("DBSIZE")}
    pod.remove()
    return seen


def nginx(mib):
    """A file of `mib` MiB, fetched ten times at once."""
    content, conf = directory("www"), directory("conf")
    data = os.urandom(MIB) * mib
    (content / "big").write_bytes(data)
    (conf / "nginx.conf").write_text(
        "daemon off; error_log stderr; pid /tmp/pid; events {}\n"
        "http { access_log off; sendfile on; server { listen 80; root /www; } }\n"
    )
    pod = Pod("nginx")
    mounts = [mount(content, "/www", True), mount(conf, "/conf", True)]
    container = pod.container("/usr/sbin/nginx", "-c", "/conf/nginx.conf", image=image("nginx"), mounts=mounts)
    address = f"http://{pod.address()}/big"
    until(lambda: urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=30).status == 200)

    def fetch(_):
        digest = hashlib.sha256()
        with urllib.request.urlopen(address, timeout=300) as answer:
            while piece := answer.read(MIB):
                digest.update(piece)
        return digest.hexdigest()

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        digests = list(pool.map(fetch, range(10)))
    took = time.monotonic() - begin
    seen = {"intact": digests.count(hashlib.sha256(data).hexdigest()), "mib_per_s": round(10 * mib / took, 1)}
    seen["exec"] = execute(container, "/bin/sh", "-c", "cat /www/big | wc -c")[1].strip()
    pod.remove()
    return seen


def postgres(seconds):
    """pgbench over the network; then QEMU is killed under load, and a new pod on the same volume has it all.

    The database is made with the handler runc, which is quicker and shows that a volume moves between handlers.
    """
    data = directory("postgres", POSTGRES)
    mounts = [mount(data, "/data")]

    def server(handler):
        pod = Pod("postgres", memory=400 * MIB, handler=handler)
        fields = {"image": image("postgres"), "mounts": mounts, "linux": as_user(POSTGRES, POSTGRES)}
        return pod, pod.container("/bin/sh", "-c", SERVER, name="server", **fields)

    client = Pod("client", handler="runc")
    shell = client.container("/bin/sh", "-c", "sleep 100000", name="shell", image=image("postgres"))
    tools = "export PATH=/usr/lib/postgresql/15/bin:$PATH; "

    def run(script, timeout=120):
        return execute(shell, "/bin/sh", "-c", tools + script, timeout=timeout)

    def sql(pod, text):
        code, out, err = run(f'psql -qAt -h {pod.address()} -U postgres postgres -c "{text}"')
        if code:
            raise RuntimeError(err)
        return out.strip()

    pod, container = server("runc")
    until(lambda: sql(pod, "select 1") == "1")
    code, _, err = run(f"pgbench -q -i -h {pod.address()} -U postgres postgres")
    seen = {"init": [code, err[-200:] if code else ""]}
    sql(pod, "create table ledger (n int primary key)")
    stop_container(cri, container, 30)
    pod.remove()

    pod, container = server("microvm")
    until(lambda: sql(pod, "select 1") == "1")
    seen["size"] = pod.info()["size"]
    bench = f"pgbench -n -h {pod.address()} -U postgres postgres -c 2 -T "
    code, out, err = run(f"{bench}{seconds}", seconds + 120)
    seen["pgbench"] = [code, err[-300:] if code else ""]
    seen["tps"] = float(re.search(r"tps = ([0-9.]+)", out)[1]) if code == 0 else None
    seen["failed"] = re.search(r"failed transactions: (\d+)", out)[1] if code == 0 else None

    fields = {"image": image("postgres"), "linux": as_user(POSTGRES, POSTGRES)}
    client.container("/bin/sh", "-c", tools + LEDGER.format(address=pod.address()), name="ledger", **fields)
    load = client.container("/bin/sh", "-c", f"{tools}{bench}1000", name="load", **fields)
    until(lambda: len(client.log("ledger")["stdout"].split()) >= 20)
    qemu = next(
        int(p) for p in os.listdir("/proc")
        if p.isdigit() and b"qemu-system" in cmdline(p) and sandbox_of(p) == pod.id
    )  # fmt: skip
    os.kill(qemu, signal.SIGKILL)
    seen["killed_code"] = wait(container, 30)
    seen["load_failed"] = wait(load, 60) != 0
    acknowledged = {int(n) for n in client.log("ledger")["stdout"].split()}
    pod.remove()

    pod, container = server("microvm")
    until(lambda: sql(pod, "select 1") == "1", 180)
    there = {int(n) for n in sql(pod, "select n from ledger").split()}
    seen["acknowledged"], seen["lost"] = len(acknowledged), sorted(acknowledged - there)
    # pgbench changes both in each transaction
    seen["consistent"] = sql(
        pod, "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
    )
    seen["recovered"] = "automatic recovery in progress" in "".join(pod.log("server").values())
    stop_container(cri, container, 60)
    seen["stopped_code"] = wait(container, 60)
    pod.remove()
    client.remove()
    return seen


if __name__ == "__main__":
    main()
