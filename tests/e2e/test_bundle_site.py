"""An image of a registry and a release of EdgeCore out of a bundle, when neither place answers any more."""

import os
import socket
import subprocess
import time

import pytest
import yaml

from appliance.errors import EXIT_ROLLED_BACK
from tests import images
from tests.conftest import appliance, on_host
from tests.e2e.edge_site import Site, until
from tests.standins import release

pytestmark = [pytest.mark.lab, pytest.mark.full]
NEXT = "v1.23.9"  # a release of EdgeCore's that is served as well
SICKEN = (
    "at=/etc/casemate/release.json; was=$(cat $at); "
    'while [ "$(cat $at)" = "$was" ]; do sleep 0.2; done; systemctl stop prometheus-node-exporter'
)


class Registry:
    """docker-registry on this machine's loopback, where no lab host can reach it."""

    def __init__(self, directory):
        self.address = "127.0.0.1:5077"
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a test", "-days", "2"]
        request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(request, check=True, capture_output=True)
        self.environment = os.environ | {"SSL_CERT_FILE": str(certificate)}
        (directory / "config.yml").write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
            f"http: {{addr: {self.address}, tls: {{certificate: {certificate}, key: {key}}}}}\n"
        )
        serve = ["docker-registry", "serve", str(directory / "config.yml")]
        self.process = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline and self.process.poll() is None, "docker-registry does not answer"
            time.sleep(0.2)

    def _answers(self) -> bool:
        host, _, port = self.address.partition(":")
        with socket.socket() as asked:
            return asked.connect_ex((host, int(port))) == 0

    def push(self, name: str) -> str:
        """Put a test image there; its reference."""
        reference = f"{self.address}/casemate-test/{name}:1"
        argv = ["skopeo", "copy", "--quiet", f"oci-archive:{images.archive(name)}", f"docker://{reference}"]
        subprocess.run(argv, check=True, env=self.environment, capture_output=True)
        return reference

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def site(new_host, tmp_path_factory):
    """A host that is to have a pod of a registry's image, and EdgeCore; two bundles, of this and its next release."""
    directory = tmp_path_factory.mktemp("site")
    registry = Registry(directory)
    found = Site(new_host("bs"), tmp_path_factory.mktemp("edge"))
    try:
        release.make(found.archive.parent, NEXT)
        container = {"name": "web", "image": registry.push("nginx"), "command": ["sleep", "infinity"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [container]}}
        found.vars |= {"engine_images": [{"reference": container["image"]}], "pods": [pod]}
        found.bundles = {}
        for version in (release.VERSION, NEXT):
            lock, bundle = (directory / f"{version}.{kind}" for kind in ("lock", "bundle"))
            inventory = str(found.inventory(**found.pinned(version)))
            made = appliance("lock", "-i", inventory, "--output", str(lock), env=registry.environment)
            assert made.returncode == 0, made.stdout + made.stderr
            built = appliance("bundle", "build", "--lock", str(lock), "--output", str(bundle), env=registry.environment)
            assert built.returncode == 0, built.stdout + built.stderr
            found.bundles[version] = bundle
        locked = yaml.safe_load(lock.read_text())
        assert list(locked["images"]) == [container["image"]] and list(locked["artifacts"]) == [f"edgecore-{NEXT}"]
        registry.stop()
        found.server.stop()
        yield found
    finally:
        registry.process.kill()
        found.cloud.stop()


def edgecore(site) -> dict:
    return next(one for one in site.ask("status")["components"] if one["name"] == "edgecore")


def test_they_come_from_the_bundle(site):
    done = site.deploy("deploy", "--bundle", str(site.bundles[release.VERSION]))
    assert done.code == 0, done.said
    assert edgecore(site)["version"] == release.VERSION
    assert [(pod["name"], pod["ready"]) for pod in site.ask("status")["pods"]] == [("web", True)]
    again = site.deploy("deploy", "--bundle", str(site.bundles[release.VERSION]))
    assert (again.code, again.changed) == (0, []), again.said


def test_edgecore_is_upgraded_from_a_bundle_and_goes_back_with_the_rest(site):
    """What fails comes after EdgeCore was changed: a service that is stopped when the release is written down."""
    site.vars |= site.pinned(NEXT)
    on_host(site.host, "systemd-run", "--collect", "sh", "-c", SICKEN)
    sick = site.deploy("upgrade", "--bundle", str(site.bundles[NEXT]), "--yes", "--grace", "10")
    assert sick.code == EXIT_ROLLED_BACK, sick.said
    back = until(lambda: edgecore(site), lambda one: one["version"] == release.VERSION and one["state"] == "active")
    assert (back["version"], back["cloud"]) == (release.VERSION, "connected")
    until(lambda: site.ask("status")["health"], lambda health: health == "ok")
    done = site.deploy("upgrade", "--bundle", str(site.bundles[NEXT]), "--yes", "--grace", "0")
    assert done.code == 0, done.said
    assert edgecore(site)["version"] == NEXT
    back = appliance("rollback", "-i", str(site.inventory()), "--yes", "--grace", "0")
    assert back.returncode == 0, back.stdout + back.stderr
    there = until(lambda: edgecore(site), lambda one: one["version"] == release.VERSION and one["cloud"] == "connected")
    assert (there["version"], there["state"], there["cloud"]) == (release.VERSION, "active", "connected")
