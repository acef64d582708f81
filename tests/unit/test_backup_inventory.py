"""What an inventory says of backups is judged before any host is touched."""

import pytest
import yaml

from appliance.inventory import InventoryError, load
from tests.conftest import ROOT

WELL = {"backup_repository": "sftp:b@nas:/srv/b", "backup_password_file": "/root/password"}


def problems(tmp_path, variables: dict) -> list[tuple[str, str]]:
    file = tmp_path / "site.yml"
    file.write_text(yaml.safe_dump({"appliance": {"vars": variables, "hosts": {"a": {"ansible_host": "192.0.2.11"}}}}))
    try:
        load([file], content=ROOT)
    except InventoryError as error:
        return [(problem.key.rpartition("vars.")[2], problem.message) for problem in error.problems]
    return []


def test_none_are_declared_by_default_and_a_repository_with_a_password_is_well(tmp_path):
    assert problems(tmp_path, {}) == []
    assert problems(tmp_path, WELL) == []
    assert problems(tmp_path, WELL | {"backup_keep": {"last": 3, "yearly": 1}}) == []


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"backup_password_file": ""}, "backup_password", "is needed with backup_repository"),
        ({"backup_repository": "nas/backup"}, "backup_repository", "is no repository"),
        ({"backup_password": "in clear text"}, "backup_password", "clear"),
        ({"backup_environment": {"AWS_SECRET_ACCESS_KEY": "in clear text"}}, "AWS_SECRET_ACCESS_KEY", "clear"),
        ({"backup_repository": "rest:https://edge:word@nas:8000/"}, "backup_repository", "carries a password"),
        ({"backup_keep": {"fortnightly": 1}}, "fortnightly", ""),
        ({"backup_password_file": "password"}, "backup_password_file", "form"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(tmp_path, changes, key, said):
    found = problems(tmp_path, WELL | changes)
    assert [one for one in found if key in one[0] and said in one[1]], found
