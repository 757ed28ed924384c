"""Label and field selectors, as `kubectl -l` and `--field-selector` send them.

Parsed once per request into a predicate on objects. Grammar: apimachinery's labels and fields packages (equality,
`!=`, `in`, `notin`, existence, `!key` for labels; `=`, `==`, `!=` for fields).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from k8s_ovs.lab.kubeapi.answers import bad_request
from k8s_ovs.lab.kubeapi.resources import Object, Resource, field, meta

Predicate = Callable[[Object], bool]

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"^\s*(?P<key>{_NAME})\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)\s*$")
_EQUAL = re.compile(rf"^\s*(?P<key>{_NAME})\s*(?P<op>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)\s*$")
_EXISTS = re.compile(rf"^\s*(?P<not>!?)\s*(?P<key>{_NAME})\s*$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: the key's value is in `values`, or is not; `values` None means any value."""

    key: str
    values: frozenset[str] | None
    wanted: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy the term; a missing key satisfies `!=`, `notin` and `!key`."""
        found = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return found == self.wanted


def _split(text: str) -> list[str]:
    """At the commas that are not inside parentheses."""
    return [part for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """Parse a label selector. Raises ApiError 400."""
    return tuple(_label_term(part) for part in _split(text))


def _label_term(part: str) -> Requirement:
    if found := _SET.match(part):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], values, wanted=found["op"] == "in")
    if found := _EQUAL.match(part):
        return Requirement(found["key"], frozenset({found["value"]}), wanted=found["op"] != "!=")
    if found := _EXISTS.match(part):
        return Requirement(found["key"], None, wanted=not found["not"])
    raise bad_request(f'unable to parse requirement: "{part.strip()}" is no label selector term')


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """One term of a field selector; `path` is empty for fields that only look like a selector's own name."""

    path: str
    value: str
    wanted: bool

    def matches(self, obj: Object) -> bool:
        """Whether the object's field equals the value (or does not); a missing field is the empty string."""
        return (_text(obj, self.path) == self.value) == self.wanted


def _text(obj: Object, path: str) -> str:
    value = field(obj, path)
    if path == "source":
        value = field(obj, "source.component") or field(obj, "reportingComponent")
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path in ("spec.unschedulable", "spec.hostNetwork") else ""
    return str(value)


def parse_fields(resource: Resource, text: str) -> tuple[FieldTerm, ...]:
    """Parse a field selector for a resource. Raises ApiError 400 for fields that the resource cannot be selected by."""
    terms = []
    known = ("metadata.name", *(("metadata.namespace",) if resource.namespaced else ()), *resource.fields)
    for part in _split(text):
        found = re.match(r"^\s*([A-Za-z0-9_.]+)\s*(!=|==|=)\s*(.*?)\s*$", part)
        if not found:
            raise bad_request(f"invalid field selector {text!r}: {part!r} is not NAME=VALUE or NAME!=VALUE")
        if found[1] not in known:
            raise bad_request(f"field label not supported: {found[1]}")
        terms.append(FieldTerm(found[1], found[3], wanted=found[2] != "!="))
    return tuple(terms)


@dataclass(frozen=True, slots=True)
class Selector:
    """Both selectors of a request; `selects` is true when all terms hold."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[FieldTerm, ...] = ()

    @classmethod
    def parse(cls, resource: Resource, labels: str, fields: str) -> "Selector":
        """From the query parameters labelSelector and fieldSelector. Raises ApiError 400."""
        return cls(parse_labels(labels), parse_fields(resource, fields))

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def selects(self, obj: Object) -> bool:
        """Whether the object is selected."""
        own = meta(obj).get("labels") or {}
        return all(term.matches(own) for term in self.labels) and all(
            term.matches(obj) for term in self.fields
        )
