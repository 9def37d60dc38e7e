"""What pydantic found, in plain sentences that say what is wrong and what to do.

Values are looked at to choose the words; only a short list of harmless ones is ever repeated, and never one that
stands where a secret belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from authproxy.settings import places
from authproxy.settings.lines import Fault, KeyPath

EXAMPLES: Final[Mapping[str, str]] = {
    "audience": "audience: kubernetes-eu",
    "audiences": "audiences: [authproxy]",
    "bearer": "bearer: {file: upstream-token}",
    "burst": "burst: 20",
    "cert": "cert: tls.crt",
    "client_id": "client_id: authproxy",
    "every": "every: 6s",
    "issuer": "issuer: https://dex.example.com",
    "key": "key: tls.key",
    "networks": "networks: [192.0.2.0/28]",
    "nodes": "nodes: [s1:26379, s2:26379, s3:26379]",
    "path": "path: /",
    "policy": "policy: staff",
    "provider": "provider: dex",
    "public_url": "public_url: https://auth.example.com",
    "routes": "routes: [{path: /, policy: staff}]",
    "secrets": "secrets: [{file: token}]",
    "server": "server: https://k8s.example.com:6443",
    "service": "service: mymaster",
    "upstream": "upstream: {url: http://app:8080}",
    "users": "users: {file: htpasswd}",
}
"""How each required key could be written."""

_EITHER: Final[Mapping[str, str]] = {
    "audit": "must be stdout or {file: …}",
    "authorization": "must be one of none, id_token, access_token, pass, or {bearer: {file: …}}",
    "env": "must be the name of a variable, or a list of names",
    "provider": "must be the name of a provider, or a list of names",
    "trusted_proxies": "must be a list of networks such as [192.0.2.0/28], or {networks: [192.0.2.0/28], hops: 1}",
    "url": "must be a URL such as redis://redis:6379, or {env: …} or {file: …}",
}
"""For keys that take more than one shape, when none fits."""

_PATTERNS: Final[Mapping[str, str]] = {
    "name": "must be 1 to 64 letters, digits, _ or -",
    "prefix": "must be a path of letters, digits, _ and - without a / at its end, such as /oauth2",
}

_TRUE: Final = frozenset({"yes", "on", "y", "true"})
_FALSE: Final = frozenset({"no", "off", "n", "false"})


class Finding(NamedTuple):
    """One error of pydantic, brought back to the data."""

    path: KeyPath
    kind: str
    context: Mapping[str, Any]
    value: object  # what stands there; None when nothing does
    branch: str  # which alternative of a union complained; empty when the place has one shape


def faults(errors: Iterable[Mapping[str, Any]], data: object) -> list[Fault]:
    """The faults behind pydantic's ``errors`` of ``data``."""
    found = [_finding(error, data) for error in errors]
    kept = [finding for finding in found if not _other_branch(finding, data)]
    whole = [_neither(finding) for finding in _lost(found, kept)]
    worded = [(finding, Fault(places.shown(finding.path), _words(finding))) for finding in kept]
    meant = {(*finding.path[:-1], suggestion(finding)) for finding in kept if finding.kind == "extra_forbidden"}
    clear = [fault for finding, fault in worded if not (finding.kind == "missing" and finding.path in meant)]
    return list(dict.fromkeys(clear + whole))


def locate(error: Mapping[str, Any], data: object) -> KeyPath:
    """The key path that an error of pydantic is about."""
    return _finding(error, data).path


def _finding(error: Mapping[str, Any], data: object) -> Finding:
    path, branch, value = _locate(tuple(error["loc"]), data, missing=error["type"] == "missing")
    kind = "extra_forbidden" if error["loc"][-1:] == ("[key]",) else str(error["type"])
    return Finding(path, kind, error.get("ctx") or {}, value, branch)


def _locate(loc: tuple[str | int, ...], data: object, *, missing: bool) -> tuple[KeyPath, str, object]:
    """Pydantic's location without the names of union branches, which are no keys."""
    path: list[str | int] = []
    branch = ""
    for position, part in enumerate(loc):
        inside, value = _inside(data, part)
        if inside:
            path.append(part)
            data = value
        elif missing and position == len(loc) - 1:
            path.append(part)
            data = None
        else:
            branch = branch or str(part).replace("[key]", "")
    return tuple(path), branch, data


def _inside(data: object, part: str | int) -> tuple[bool, object]:
    if isinstance(data, dict) and part in data:
        return True, data[part]
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return True, data[part]
    return False, None


def _union_path(finding: Finding) -> KeyPath:
    """The place of the union itself, which is where its errors start."""
    for end in range(len(finding.path), 0, -1):
        if len(places.at(finding.path[:end])) > 1 and finding.path[end - 1] in _EITHER:
            return finding.path[:end]
    return finding.path


def _other_branch(finding: Finding, data: object) -> bool:
    """Whether the error comes from an alternative that was not meant."""
    if not finding.branch:
        return False
    for key in _union_path(finding):
        data = _inside(data, key)[1]
    if isinstance(data, dict):
        return not finding.branch[0].isupper()  # the name of a model
    if isinstance(data, list):
        return not finding.branch.startswith("list")
    return not isinstance(data, str) or not finding.branch.startswith(("str", "literal"))


def _lost(found: list[Finding], kept: list[Finding]) -> list[Finding]:
    """Places of which no alternative fits: one finding for each."""
    told = {_union_path(finding) for finding in kept}
    lost = {_union_path(finding): finding for finding in found if _union_path(finding) not in told}
    return [finding._replace(path=path) for path, finding in lost.items()]


def _neither(finding: Finding) -> Fault:
    return Fault(places.shown(finding.path), _EITHER.get(str(finding.path[-1]), "has a shape that is not understood"))


def _words(finding: Finding) -> str:
    if finding.value is None and finding.kind.endswith(("_type", "_error")) and finding.kind != "value_error":
        return "is empty; give it a value or remove it"
    word = _WORDS.get(finding.kind)
    return word(finding) if word else "has a value that is not understood"


def suggestion(finding: Finding) -> str:
    """The known key that an unknown one was meant to be, or nothing."""
    return places.closest(finding.path[-1], places.keys(places.at(finding.path[:-1])))


def _unknown(finding: Finding) -> str:
    allowed = places.keys(places.at(finding.path[:-1]))
    hint = places.near(finding.path[-1], allowed)
    return f"unknown key{hint}" if hint else f"unknown key; known here: {', '.join(allowed)}"


def _missing(finding: Finding) -> str:
    return f"is missing; add it, e.g. {EXAMPLES[str(finding.path[-1])]}"


def _text(finding: Finding) -> str:
    return "must be text" if isinstance(finding.value, dict | list) else "must be text; put it in quotes"


def _boolean(finding: Finding) -> str:
    word = finding.value.lower() if isinstance(finding.value, str) else ""
    hint = "true" if word in _TRUE else "false" if word in _FALSE else ""
    return f"must be true or false; did you mean {hint}?" if hint else "must be true or false"


def _whole(_: Finding) -> str:
    return "must be a whole number"


def _list(finding: Finding) -> str:
    if places.is_secret(places.step(places.at(finding.path), 0)):
        return "must be a list of secrets, e.g. [{file: token}]"
    if isinstance(finding.value, str) and finding.value.isalnum() and not places.holds_secret(finding.path):
        return f"must be a list; write [{finding.value}]"
    return "must be a list"


def _section(finding: Finding) -> str:
    if places.is_secret(places.at(finding.path)):
        return "must be a secret: {file: …} or {env: …}"
    return f"must be a section with keys: {', '.join(places.keys(places.at(finding.path)))}"


def _names(_: Finding) -> str:
    return "must be a section: names, each followed by : and its value"


def _choice(finding: Finding) -> str:
    if finding.context.get("expected") == "True":
        return "must be true; leave the key out otherwise"
    choices = re.findall(r"'([^']*)'", str(finding.context.get("expected", "")))
    return f"must be one of {', '.join(choices)}{places.near(finding.value, choices)}"


def _pattern(finding: Finding) -> str:
    return _PATTERNS[str(finding.path[-1])]


def _least(finding: Finding) -> str:
    return f"must be at least {finding.context['ge']}"


def _most(finding: Finding) -> str:
    return f"must be at most {finding.context['le']}"


def _own(finding: Finding) -> str:
    return str(finding.context["error"])


_WORDS: Final[Mapping[str, Callable[[Finding], str]]] = {
    "extra_forbidden": _unknown,
    "missing": _missing,
    "string_type": _text,
    "bool_type": _boolean,
    "int_type": _whole,
    "list_type": _list,
    "model_type": _section,
    "model_attributes_type": _section,
    "dict_type": _names,
    "literal_error": _choice,
    "string_pattern_mismatch": _pattern,
    "string_too_short": lambda _: "must not be empty",
    "too_short": lambda _: "must have at least one entry",
    "greater_than_equal": _least,
    "less_than_equal": _most,
    "value_error": _own,
}
