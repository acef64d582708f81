"""Filters of backups and restores: what is asked for against what is meant."""

import pytest

from appliance.node.backup.selection import Filter, Pod, SelectionError, matcher, select

PODS = [
    Pod("db", {"app": "shop", "tier": "db"}, ("orders",), (), ("db-password",)),
    Pod("web", {"app": "shop", "tier": "web"}, ("uploads",), ("web-conf",), ()),
    Pod("cache", {"app": "shop", "tier": "cache"}, (), (), ()),
    Pod("blog", {"app": "blog"}, ("posts", "uploads"), ("web-conf",), ("blog-key",)),
    Pod("plain", {}, (), (), ()),
]
VOLUMES = ["orders", "uploads", "posts", "scratch"]
ALL = "blog cache db plain web"

# What is asked for; the pods and the volumes that this means, and whether the host's own configuration belongs to it.
TABLE = [
    ({}, ALL, "orders posts scratch uploads", True),
    ({"pods": ("db",)}, "db", "orders", False),
    ({"pods": ("db", "cache")}, "cache db", "orders", False),
    ({"selector": "app=shop"}, "cache db web", "orders uploads", False),
    ({"selector": "app=shop,tier!=cache"}, "db web", "orders uploads", False),
    ({"selector": "tier in (db, web)"}, "db web", "orders uploads", False),
    ({"selector": "tier notin (db,web)"}, "blog cache plain", "posts uploads", False),
    ({"selector": "!app"}, "plain", "", False),
    ({"selector": "app,!tier"}, "blog", "posts uploads", False),
    ({"volumes": ("scratch",)}, "", "scratch", False),
    ({"volumes": ("scratch",), "pods": ("db",)}, "db", "orders scratch", False),
    ({"selector": "app==blog", "pods": ("db",)}, "blog db", "orders posts uploads", False),
    ({"exclude_volumes": ("scratch",)}, ALL, "orders posts uploads", True),
    ({"exclude_pods": ("blog",)}, "cache db plain web", "orders scratch uploads", True),
    ({"exclude_pods": ("db", "blog")}, "cache plain web", "scratch uploads", True),
    ({"selector": "app=shop", "exclude_pods": ("web",)}, "cache db", "orders", False),
    ({"selector": "app=shop", "exclude_volumes": ("uploads",)}, "cache db web", "orders", False),
    ({"pods": ("blog",), "exclude_pods": ("blog",)}, "", "", False),
]


@pytest.mark.parametrize(("asked", "pods", "volumes", "host"), TABLE)
def test_what_is_selected(asked, pods, volumes, host):
    found = select(PODS, VOLUMES, Filter(**asked))
    assert (" ".join(found.pods), " ".join(found.volumes), found.host) == (pods, volumes, host)


def test_a_pod_brings_what_it_names():
    found = select(PODS, VOLUMES, Filter(pods=("web", "blog")))
    assert (found.configmaps, found.secrets) == (("web-conf",), ("blog-key",))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"pods": ("shop",)}, "no pod shop; there are: blog, cache"),
        ({"volumes": ("x", "y")}, "no volume x, y"),
        ({"exclude_pods": ("nobody",)}, "no pod nobody"),
        ({"selector": "app=nothing"}, "no pod has the labels"),
        ({"selector": "app in shop"}, "cannot be read from"),
        ({"selector": "=x"}, "cannot be read from"),
    ],
)
def test_what_is_not_there_or_cannot_be_read_is_said(asked, said):
    with pytest.raises(SelectionError, match=said):
        select(PODS, VOLUMES, Filter(**asked))


def test_labels_as_kubernetes_has_them():
    fits = matcher("app.kubernetes.io/name=shop, tier notin (db), !old")
    assert fits({"app.kubernetes.io/name": "shop"})
    assert not fits({"app.kubernetes.io/name": "shop", "old": ""})
    assert not fits({"app.kubernetes.io/name": "shop", "tier": "db"})
    assert matcher("")({"anything": "x"})
