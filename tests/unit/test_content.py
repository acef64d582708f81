"""Which roles and playbooks are used: the override, the checkout, the wheel's."""

from pathlib import Path

import pytest

from appliance import content as module
from appliance.errors import CasemateError


@pytest.fixture
def installation(tmp_path, monkeypatch):
    """A package directory of its own; returns a function that puts content at a path below it."""
    monkeypatch.delenv("CASEMATE_CONTENT", raising=False)
    package = tmp_path / "here/appliance"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "PACKAGE", package)

    def put(path: str) -> Path:
        root = (tmp_path / path).resolve()
        (root / "playbooks").mkdir(parents=True, exist_ok=True)
        (root / "playbooks/deploy.yml").write_text("[]\n")
        (root / "roles").mkdir(exist_ok=True)
        return root

    return put


def test_a_checkout_wins_over_a_stale_copy_in_the_package(installation):
    installation("here/appliance/_content")
    checkout = installation("here")
    assert module.content() == checkout


def test_an_installed_wheel_uses_its_own_copy(installation):
    own = installation("here/appliance/_content")
    assert module.content() == own


def test_the_environment_variable_wins_over_both(installation, monkeypatch):
    installation("here")
    installation("here/appliance/_content")
    other = installation("other")
    monkeypatch.setenv("CASEMATE_CONTENT", str(other))
    assert module.content() == other


def test_an_override_without_content_is_an_error_not_a_silent_fallback(installation, monkeypatch, tmp_path):
    installation("here")
    monkeypatch.setenv("CASEMATE_CONTENT", str(tmp_path / "empty"))
    with pytest.raises(CasemateError) as caught:
        module.content()
    assert str(tmp_path / "empty") in caught.value.place
    assert "CASEMATE_CONTENT" in caught.value.cure


def test_without_any_content_the_error_names_the_places_looked_at(installation, tmp_path):
    with pytest.raises(CasemateError) as caught:
        module.content()
    assert str(tmp_path / "here/appliance/_content") in caught.value.place
    assert "install" in caught.value.cure


def test_this_checkouts_content_is_this_checkout(monkeypatch):
    monkeypatch.delenv("CASEMATE_CONTENT", raising=False)
    assert module.content() == Path(__file__).parents[2]


def test_an_inventory_is_the_users_own_or_else_the_shipped_one_of_that_name(installation, monkeypatch, tmp_path):
    root = installation("here")
    (root / "inventories/lab").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert module.inventory_path(Path("inventories/lab")) == root / "inventories/lab"
    Path("inventories/lab").mkdir(parents=True)
    assert module.inventory_path(Path("inventories/lab")) == Path("inventories/lab")
    assert module.inventory_path(Path("inventories/none")) == Path("inventories/none")
    assert module.inventory_path(tmp_path / "absent") == tmp_path / "absent"
