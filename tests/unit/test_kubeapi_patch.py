"""The three kinds of patch of the embedded API; RFC 6902 and 7386 with the examples of their appendices."""

import copy
from typing import Any

import pytest

from k8s_ovs.lab.kubeapi import patch, strategic
from k8s_ovs.lab.kubeapi.answers import ApiError
from k8s_ovs.lab.kubeapi.resources import CONFIG_MAPS, NODES, PODS, SERVICES


@pytest.mark.parametrize(
    ("target", "change", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, change: Any, result: Any) -> None:
    before = copy.deepcopy(target)
    assert patch.merge(target, change) == result
    assert target == before


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": 1}], {"foo": "bar", "baz": 1}),
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": [2]}], {"a": [1, [2]]}),
        ({"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}),
        ({"a": [1, 2, 3]}, [{"op": "remove", "path": "/a/1"}], {"a": [1, 3]}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": {"x": 1}}], {"a": {"x": 1}}),
        ({"a": [1, 2]}, [{"op": "replace", "path": "/a/0", "value": 9}], {"a": [9, 2]}),
        (
            {"a": {"x": 1}, "b": {}},
            [{"op": "move", "from": "/a/x", "path": "/b/y"}],
            {"a": {}, "b": {"y": 1}},
        ),
        ({"a": {"x": [1]}}, [{"op": "copy", "from": "/a/x", "path": "/b"}], {"a": {"x": [1]}, "b": [1]}),
        ({"a/b": 1, "m~n": 2}, [{"op": "test", "path": "/a~1b", "value": 1}], {"a/b": 1, "m~n": 2}),
        ({"a/b": 1, "m~n": 2}, [{"op": "remove", "path": "/m~0n"}], {"a/b": 1}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"": 1}, [{"op": "remove", "path": "/"}], {}),
    ],
)
def test_json_patch(target: Any, operations: list[Any], result: Any) -> None:
    assert patch.json_patch(target, operations) == result


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([{"op": "remove", "path": "/no"}], "/no does not exist"),
        ([{"op": "add", "path": "/no/x", "value": 1}], "/no does not exist"),
        ([{"op": "add", "path": "/a/9", "value": 1}], "/a/9 cannot be added"),
        ([{"op": "test", "path": "/b", "value": 2}], "testing value /b failed"),
        ([{"op": "add", "path": "/x"}], "has no value"),
        ([{"op": "swap", "path": "/b"}], "unknown operation 'swap'"),
        (["x"], "has no path"),
        ([{"op": "remove", "path": "b"}], "does not start with /"),
        ([{"op": "remove", "path": "/a/x"}], "/a/x does not exist"),
    ],
)
def test_json_patch_that_does_not_fit(operations: list[Any], message: str) -> None:
    with pytest.raises(ApiError, match=message) as caught:
        patch.json_patch({"a": [1], "b": 1}, operations)
    assert caught.value.code == 422


def containers(*items: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": list(items)}}


def test_strategic_lists_merge_by_their_key() -> None:
    pod = containers(
        {"name": "a", "image": "x", "ports": [{"containerPort": 80, "protocol": "TCP"}]}, {"name": "b"}
    )
    change = containers(
        {"name": "b", "image": "y"},
        {"name": "a", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 81}]},
        {"name": "c", "image": "z"},
    )
    assert strategic.merge(PODS, pod, change) == containers(
        {
            "name": "a",
            "image": "x",
            "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}, {"containerPort": 81}],
        },
        {"name": "b", "image": "y"},
        {"name": "c", "image": "z"},
    )


def test_strategic_conditions_and_addresses_merge_by_type() -> None:
    node = {"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X", "status": "True"}]}}
    change = {"status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "A"}]}}
    assert strategic.merge(NODES, node, change) == {
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}],
            "addresses": [{"type": "A"}],
        }
    }


def test_strategic_directives() -> None:
    pod = containers({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}, {"name": "b"})
    deleted = strategic.merge(
        PODS, pod, containers({"$patch": "delete", "name": "b"}, {"name": "a", "env": None})
    )
    assert deleted == containers({"name": "a"})
    replaced = strategic.merge(PODS, pod, containers({"$patch": "replace"}, {"name": "n"}))
    assert replaced == containers({"name": "n"})
    whole = strategic.merge(
        PODS,
        {"metadata": {"labels": {"a": "1", "b": "2"}}},
        {"metadata": {"labels": {"$patch": "replace", "c": "3"}}},
    )
    assert whole == {"metadata": {"labels": {"c": "3"}}}
    emptied = strategic.merge(
        PODS, {"spec": {"nodeSelector": {"a": "b"}}}, {"spec": {"nodeSelector": {"$patch": "delete"}}}
    )
    assert emptied == {"spec": {"nodeSelector": {}}}
    kept = strategic.merge(
        PODS, {"spec": {"os": {"a": 1, "b": 2}}}, {"spec": {"os": {"$retainKeys": ["a", "c"], "c": 3}}}
    )
    assert kept == {"spec": {"os": {"a": 1, "c": 3}}}


def test_strategic_sets_of_plain_values() -> None:
    obj = {"metadata": {"finalizers": ["a", "b"]}}
    assert strategic.merge(PODS, obj, {"metadata": {"finalizers": ["b", "c"]}}) == {
        "metadata": {"finalizers": ["a", "b", "c"]}
    }
    assert strategic.merge(PODS, obj, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}) == {
        "metadata": {"finalizers": ["b"]}
    }


def test_strategic_order() -> None:
    service = {"spec": {"ports": [{"port": 1}, {"port": 2}, {"port": 3}]}}
    change = {
        "spec": {"$setElementOrder/ports": [{"port": 3}, {"port": 1}], "ports": [{"port": 3, "name": "x"}]}
    }
    result = strategic.merge(SERVICES, service, change)
    assert result == {"spec": {"ports": [{"port": 3, "name": "x"}, {"port": 1}, {"port": 2}]}}


def test_strategic_lists_without_a_key_are_replaced() -> None:
    pod = {"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1", "2"]}]}}
    change = {"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["3"]}]}}
    assert strategic.merge(PODS, pod, change) == change


def test_strategic_elements_need_their_key() -> None:
    with pytest.raises(ApiError, match=r"spec.containers: .* without its merge key 'name'"):
        strategic.merge(PODS, containers({"name": "a"}), containers({"image": "x"}))


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        (patch.APPLY_PATCH, b"{}", 415),
        ("application/json", b"{}", 415),
        (patch.MERGE_PATCH, b"[]", 400),
        (patch.JSON_PATCH, b"{}", 400),
        (patch.MERGE_PATCH, b"{a: [", 400),
    ],
)
def test_patches_that_are_not_taken(kind: str, body: bytes, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        patch.decode(kind, body)
    assert caught.value.code == code


def test_the_kind_of_patch_decides() -> None:
    obj: dict[str, Any] = {"metadata": {"finalizers": ["a"]}, "data": {"x": "1"}}
    merged = patch.apply(
        CONFIG_MAPS, patch.MERGE_PATCH, {"metadata": {"finalizers": ["b"]}}, copy.deepcopy(obj)
    )
    assert merged["metadata"]["finalizers"] == ["b"]
    by_key = patch.apply(
        CONFIG_MAPS, patch.STRATEGIC_PATCH, {"metadata": {"finalizers": ["b"]}}, copy.deepcopy(obj)
    )
    assert by_key["metadata"]["finalizers"] == ["a", "b"]
    with pytest.raises(ApiError, match="does not leave an object"):
        patch.apply(CONFIG_MAPS, patch.JSON_PATCH, [{"op": "replace", "path": "", "value": 1}], obj)
