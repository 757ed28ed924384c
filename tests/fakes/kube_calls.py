"""Which requests of the Kubernetes API the product makes, read from its source: verb and resource by component.

Every place that names a resource of `sources/kube/objects.py` has to be understood here; one that is not is an error, so that
a new way to call the API cannot be overlooked. Understood are: a call of a client's method with a resource, of a function or
class that has a parameter `Resource[…]` (what it does with it is followed), and of `create_event`.
"""

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from k8s_ovs.sources.kube import objects
from k8s_ovs.sources.kube.client import KubeClient

Request = tuple[str, str, str]
"""Verb, API group, resource: as a rule of a Role says it."""

CLIENT_VERBS: Mapping[str, frozenset[str]] = {
    "get": frozenset({"get"}),
    "list": frozenset({"list"}),
    "pages": frozenset({"list"}),
    "watch": frozenset({"watch"}),
    "create": frozenset({"create"}),
    "update": frozenset({"update"}),
    "patch": frozenset({"patch"}),
    "delete": frozenset({"delete"}),
}
"""Methods of KubeClient that take a resource, and the verbs of their requests."""
HARMLESS = {"in_stream_error", "Codec"}
"""What takes a resource and asks for nothing."""
CONSTANTS: Mapping[str, "objects.Resource[objects.KubeObject]"] = {
    name: value for name, value in vars(objects).items() if isinstance(value, objects.Resource)
}
WORDS = {"kind", "api_version", "plural"}
"""Attributes of a resource that are only words for people."""
UNREAD = ("sources/kube/objects.py", "sources/kube/client.py", "sources/kube/codec.py")
"""Where resources are declared, and the client itself, whose methods are `CLIENT_VERBS`."""


def client_methods() -> set[str]:
    """The methods of KubeClient that take a resource."""
    methods = inspect.getmembers(KubeClient, inspect.isfunction)
    return {
        name
        for name, method in methods
        if not name.startswith("_") and "resource" in inspect.signature(method).parameters
    } - HARMLESS


def request(verb: str, constant: str) -> Request:
    """The request that a verb on one of `CONSTANTS` is."""
    resource = CONSTANTS[constant]
    group = resource.api_version.rpartition("/")[0]
    return verb, group, resource.plural


@dataclass
class Module:
    """One file of the product; `path` is relative to the package."""

    path: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for parent in ast.walk(self.tree):
            for child in ast.iter_child_nodes(parent):
                self.parents[child] = parent

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """What the node is in, from the inside to the outside."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> "ast.FunctionDef | ast.AsyncFunctionDef | None":
        """The function that the node is in."""
        functions = (
            each for each in self.around(node) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        return next(functions, None)

    def name_of(self, function: "ast.FunctionDef | ast.AsyncFunctionDef") -> str:
        """What callers call: the function, or its class if it is a constructor."""
        owner = self.parents[function]
        return (
            owner.name if isinstance(owner, ast.ClassDef) and function.name == "__init__" else function.name
        )


class KubeCalls:
    """The calls below `package`, the folder of k8s_ovs. Raises AssertionError for a use that is not understood."""

    def __init__(self, package: Path) -> None:
        paths = (str(path.relative_to(package)) for path in sorted(package.rglob("*.py")))
        self.modules = [
            Module(path, ast.parse(text))
            for path in paths
            if not path.startswith("lab/") and path not in UNREAD
            if "kube" in (text := (package / path).read_text()) or "create_event" in text
        ]

    @cached_property
    def helpers(self) -> dict[str, frozenset[str]]:
        """Functions and classes that take a resource, and the verbs that they use on it."""
        found: dict[str, set[str]] = {
            module.name_of(node): set()
            for module in self.modules
            for node in ast.walk(module.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and parameters(node)
        }
        grew = True
        while grew:
            grew = False
            for module in self.modules:
                for helper, use in uses_of_parameters(module):
                    verbs = verbs_of(module, use, found)
                    grew |= not verbs <= found[helper]
                    found[helper] |= verbs
        return {name: frozenset(verbs) for name, verbs in found.items()}

    def bypasses(self) -> list[str]:
        """Ways past the client or past objects.py, which nothing here would see: there must be none."""
        found = []
        for module in self.modules:
            for node in ast.walk(module.tree):
                past = isinstance(node, ast.Call) and called(node) in {"Resource", "Call", "Transport"}
                if isinstance(node, ast.ImportFrom):
                    past = "Call" in {alias.name for alias in node.names}
                if isinstance(node, ast.Attribute) and node.attr in CONSTANTS:
                    past = ast.unparse(node.value) in objects_names(module)
                if isinstance(node, ast.Import):
                    past = any(alias.name.startswith("k8s_ovs.sources.kube") for alias in node.names)
                if past and module.path != "sources/kube/transport.py":
                    found.append(f"k8s_ovs/{module.path}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}")
        return found

    def by_module(self) -> dict[str, set[Request]]:
        """The requests that each file makes for a resource that it names."""
        requests: defaultdict[str, set[Request]] = defaultdict(set)
        for module in self.modules:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Name) and node.id in CONSTANTS and is_resource(module, node):
                    verbs = verbs_of(module, node, self.helpers)
                    requests[module.path] |= {request(verb, node.id) for verb in verbs}
                if isinstance(node, ast.Call) and called(node) == "create_event":
                    requests[module.path].add(request("create", "EVENTS"))
        return dict(requests)


def objects_names(module: Module) -> set[str]:
    """What the file calls the module objects.py."""
    return {
        alias.asname or alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module == "k8s_ovs.sources.kube"
        for alias in node.names
        if alias.name == "objects"
    }


def called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def parameters(function: "ast.FunctionDef | ast.AsyncFunctionDef") -> set[str]:
    """The names of its parameters that are resources."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {
        each.arg
        for each in arguments
        if each.annotation is not None and ast.unparse(each.annotation).strip("'\"").startswith("Resource[")
    }


def is_resource(module: Module, name: ast.Name) -> bool:
    """Whether the name is the resource of objects.py here, and not something else that is called the same."""
    imported = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "k8s_ovs.sources.kube.objects"
        and any((alias.asname or alias.name) == name.id for alias in node.names)
        for node in ast.walk(module.tree)
    )
    return imported and isinstance(name.ctx, ast.Load)


def uses_of_parameters(module: Module) -> Iterator[tuple[str, ast.expr]]:
    """Each use of a resource that a function or a constructor was given: the helper, and the expression."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (given := parameters(node)):
            for use in ast.walk(node):
                if isinstance(use, ast.Name) and isinstance(use.ctx, ast.Load) and use.id in given:
                    yield module.name_of(node), use
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr == "_resource":
            owner = next(each for each in module.around(node) if isinstance(each, ast.ClassDef))
            yield owner.name, node


def verbs_of(module: Module, use: ast.expr, helpers: Mapping[str, frozenset[str] | set[str]]) -> set[str]:
    """What is done with a resource where it is used."""
    parent = module.parents[use]
    if isinstance(parent, ast.Attribute) and parent.attr in WORDS:
        return set()
    if isinstance(parent, ast.Assign) and [ast.unparse(each) for each in parent.targets] == [
        "self._resource"
    ]:
        return set()  # kept for the methods of the class, which are looked at
    place = f"k8s_ovs/{module.path}:{use.lineno}: {ast.unparse(parent)}"
    if isinstance(parent, ast.keyword):
        parent = module.parents[parent]
    if isinstance(parent, ast.Subscript):
        return set()  # Resource[…] in a type
    assert isinstance(parent, ast.Call), (
        f"{place}: a use of a resource that tests/fakes/kube_calls.py does not know"
    )
    name = called(parent)
    if name in HARMLESS:
        return set()
    if isinstance(parent.func, ast.Attribute) and name in CLIENT_VERBS:
        return set(CLIENT_VERBS[name])
    if name in helpers:
        return set(helpers[name])
    verbs = alias_verbs(module, parent)
    assert verbs, f"{place}: tests/fakes/kube_calls.py does not know what {name} does with a resource"
    return verbs


def alias_verbs(module: Module, call: ast.Call) -> set[str]:
    """Of `write = api.update if … else api.create`, then called as `write`: both."""
    function = module.function(call)
    verbs: set[str] = set()
    for node in ast.walk(function) if function is not None else ():
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == [called(call)]:
            methods = {each.attr for each in ast.walk(node.value) if isinstance(each, ast.Attribute)}
            for method in methods & set(CLIENT_VERBS):
                verbs |= CLIENT_VERBS[method]
    return verbs
