"""Doctor on migrations that were cut off in their last moment."""

import json

from health_fakes import bare, found

ARRIVED = "/var/lib/casemate/migrate/arrived/4f1d.json"


def test_a_host_where_every_migration_came_to_its_end_has_no_finding(tmp_path):
    assert found(bare(tmp_path), "migration", "doctor") == []


def test_an_arrival_that_was_never_confirmed_is_told_with_the_command_that_ends_it(tmp_path):
    host = bare(tmp_path)
    host.write(ARRIVED, json.dumps({"id": "4f1d", "from": "edge1", "pods": ["shop", "web"]}))
    (one,) = found(host, "migration", "doctor")
    assert (one["ok"], one["severity"]) == (False, "warning")
    assert "shop, web came from edge1" in one["evidence"]
    assert "migrate --from edge1" in one["cure"] and "--pod shop --pod web" in one["cure"]
