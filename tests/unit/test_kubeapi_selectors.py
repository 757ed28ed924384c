"""Label and field selectors of the embedded API."""

from typing import Any

import pytest

from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.resources import NODES, PODS
from k8s_ovs.lab.kubeapi.selectors import Selector

POD: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "red", "labels": {"app": "web", "tier": "", "a.b/c": "d"}},
    "spec": {"nodeName": "node1"},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app!=web", False),
        ("other!=web", True),
        ("app=web,tier=", True),
        ("app=web,a.b/c=e", False),
        ("app in (web, db)", True),
        ("app in (db)", False),
        ("app notin (db,x),tier", True),
        ("other notin (db)", True),
        ("app", True),
        ("!app", False),
        ("!other", True),
        ("! other", True),
        ("other", False),
        ("tier in ()", True),
    ],
)
def test_labels(text: str, selected: bool) -> None:
    assert Selector.parse(PODS, text, "").selects(POD) is selected


@pytest.mark.parametrize("text", ["=x", "a b", "app in web", "app==web=x", "(a)", "app=a b"])
def test_labels_that_cannot_be_parsed(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        Selector.parse(PODS, text, "")
    assert (caught.value.code, "unable to parse requirement" in caught.value.message) == (400, True)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("metadata.name=web", True),
        ("metadata.name==db", False),
        ("metadata.namespace=red,spec.nodeName=node1", True),
        ("spec.nodeName!=node1", False),
        ("spec.nodeName=", False),
        ("status.phase!=Failed,status.phase!=Succeeded", True),
        ("spec.hostNetwork=false", True),
        ("status.podIP=", True),
    ],
)
def test_fields(text: str, selected: bool) -> None:
    assert Selector.parse(PODS, "", text).selects(POD) is selected


@pytest.mark.parametrize(
    ("resource", "text", "message"),
    [
        (PODS, "spec.foo=1", "field label not supported: spec.foo"),
        (NODES, "metadata.namespace=red", "field label not supported: metadata.namespace"),
        (PODS, "metadata.name", "is not NAME=VALUE"),
    ],
)
def test_fields_that_cannot_be_selected_by(resource: Any, text: str, message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        Selector.parse(resource, "", text)
    assert caught.value.code == 400


def test_an_object_without_labels_matches_what_wants_none() -> None:
    bare = {"metadata": {"name": "x"}}
    assert Selector.parse(PODS, "app!=web", "").selects(bare)
    assert not Selector.parse(PODS, "app", "").selects(bare)
