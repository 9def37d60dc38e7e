"""Warnings about values that look like patterns where the settings compare whole texts."""

from __future__ import annotations

from collections.abc import Iterable

from authproxy.settings.lines import KeyPath
from authproxy.settings.scope import Scope

_OF_RULES = ("groups", "users", "scopes", "clusters")


def check(scope: Scope) -> None:
    """Report names with a ``*`` that no caller will ever have."""
    settings = scope.settings
    for name, policy in settings.policies.items():
        for index, rule in enumerate(policy.any or []):
            for key in _OF_RULES:
                _literal(scope, ("policies", name, "any", index, key), getattr(rule, key) or ())
    for name, token in settings.tokens.items():
        _literal(scope, ("tokens", name, "clusters"), token.clusters or ())
    for name, issuer in settings.issuers.items():
        _literal(scope, ("issuers", name, "audiences"), issuer.audiences)


def _literal(scope: Scope, path: KeyPath, names: Iterable[str]) -> None:
    everyone = "; for everyone who is known write authenticated: true" if path[0] == "policies" else ""
    for index, name in enumerate(names):
        if "*" in name:
            scope.warn((*path, index), f"is compared as it stands, and * is no pattern here{everyone}")
