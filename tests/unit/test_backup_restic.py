"""What restic says of a repository that does not answer, in words; with a program of its name that says the same."""

import time

import pytest

from appliance.node.backup import restic, settings
from appliance.node.backup.restic import Restic, ResticError
from appliance.node.backup.settings import Settings

S3, REST = "s3:https://nas:7480/backups", "rest:https://nas:8000/edge"
ASKS = "Is there a repository at the following location?\ns3:https://nas:7480/backups"
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your key and signing method."
)


@pytest.fixture
def says(tmp_path, monkeypatch):
    """Makes a `restic` that runs a script; returns the wrapper around it."""
    monkeypatch.setattr(settings, "ENVIRONMENT", tmp_path / "backup.env")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def make(script: str, repository: str = S3, **more) -> Restic:
        program = tmp_path / "restic"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return Restic(Settings(repository, "here", **more))

    return make


@pytest.mark.parametrize(
    ("said", "cause"),
    [  # as restic 0.14 and 0.18 were seen to say it
        (f"Fatal: unable to open config file: Stat: {MISMATCH}\n{ASKS}", "nas:7480/backups refuses us"),
        (f'Fatal: unable to open config file: Stat: Get "https://nas:7480/backups/?location=": read tcp '
         f"127.0.0.1:50798->127.0.0.1:7480: read: connection reset by peer\n{ASKS}", "cannot be reached"),
        (f'Fatal: unable to open config file: Stat: Get "https://nas:7480/backups/?location=": x509: certificate '
         f"signed by unknown authority\n{ASKS}", "backup_ca takes the certificate"),
        ("Fatal: create key in repository at s3:http://nas/b failed: client.PutObject: Transfering payloads in "
         "multiple chunks using aws-chunked is not supported.", "speak https: to it"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_serve_us_is_no_missing_repository(says, said, cause):
    with pytest.raises(ResticError, match=cause):
        says(f"cat >&2 <<'E'\n{said}\nE\nexit 1").run("cat", "config")


def test_a_repository_that_is_not_there_is_told_as_such(says):
    said = f"Fatal: unable to open config file: Stat: The specified key does not exist.\n{ASKS}"
    with pytest.raises(ResticError) as error:
        says(f"cat >&2 <<'E'\n{said}\nE\nexit 1").run("cat", "config")
    assert error.value.kind == "missing"


def test_a_refusal_is_not_tried_again_for_a_quarter_of_an_hour(says):
    script = f"echo 'Stat(<config/>) returned error, retrying after 1.3s: Stat: {MISMATCH}' >&2; exec sleep 30"
    began = time.monotonic()
    with pytest.raises(ResticError, match="refuses us"):
        says(script).run("cat", "config")
    assert time.monotonic() - began < 15


def test_what_is_tried_again_is_told(says):
    told = []
    says("echo 'Save(<data/1>) returned error, retrying after 1s: connection refused' >&2").run(
        "backup", on_retry=told.append
    )
    assert told == ["Save(<data/1>) returned error, retrying after 1s: connection refused"]


def test_credentials_of_a_rest_server_reach_restic_by_its_environment_alone(says, tmp_path):
    (tmp_path / "backup.env").write_text("RESTIC_REST_USERNAME=edge\nRESTIC_REST_PASSWORD=a/b@c d\n")
    restic_ = says('echo "$RESTIC_REPOSITORY"; echo "$@"', REST, ca="/etc/casemate/backup.ca")
    url, argv = restic_.run("snapshots").splitlines()
    assert url == "rest:https://edge:a%2Fb%40c%20d@nas:8000/edge"
    assert argv == "--cacert /etc/casemate/backup.ca snapshots"
    assert restic.shown(url) == "rest:https://edge:***@nas:8000/edge"


def test_no_message_holds_the_password_of_the_address(says, tmp_path):
    (tmp_path / "backup.env").write_text("RESTIC_REST_USERNAME=edge\nRESTIC_REST_PASSWORD=hidden\n")
    with pytest.raises(ResticError) as error:
        says('echo "Fatal: $RESTIC_REPOSITORY is odd" >&2; exit 1', REST).run("cat", "config")
    assert "edge:***@nas" in str(error.value) and "hidden" not in str(error.value)
