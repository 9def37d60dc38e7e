"""Checks of what machines and kubectl use: issuers, certificates, enrollment, clusters and workspaces."""

from __future__ import annotations

from collections.abc import Mapping

from authproxy.settings import grammar
from authproxy.settings.crosscheck_providers import algorithms, claims, endpoint, issuer
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import Issuer, Kubernetes
from authproxy.settings.scope import Scope, is_accepted


def check(scope: Scope) -> None:
    """Report what is wrong with each of them."""
    settings = scope.settings
    for name, entry in settings.issuers.items():
        _issuer(scope, ("issuers", name), entry)
    _issuers_once(scope, settings.issuers)
    _certificates(scope)
    _enrollment(scope)
    if settings.kubernetes is not None:
        _kubernetes(scope, settings.kubernetes)
    for name, workspace in settings.workspaces.items():
        for index, member in enumerate(workspace.providers):
            scope.name(("workspaces", name, "providers", index), member, "providers")
        for index, member in enumerate(workspace.clusters):
            scope.name(("workspaces", name, "clusters", index), member, "kubernetes", "clusters")


def _issuer(scope: Scope, path: KeyPath, entry: Issuer) -> None:
    if entry.issuer is not None:
        issuer(scope, (*path, "issuer"), entry.issuer, insecure=entry.insecure_http)
    elif not entry.kubernetes_service_accounts:
        scope.error(path, "needs issuer: a URL, or kubernetes_service_accounts: true")
    if entry.jwks_url is not None:
        endpoint(scope, (*path, "jwks_url"), entry.jwks_url, insecure=entry.insecure_http)
    algorithms(scope, path, entry.algorithms)
    claims(scope, path, entry.claims)


def _issuers_once(scope: Scope, issuers: Mapping[str, Issuer]) -> None:
    """Which claims count must not be a matter of order."""
    seen: dict[str | None, str] = {}
    for name, entry in issuers.items():
        if entry.issuer is None and not entry.kubernetes_service_accounts:
            continue
        other = seen.setdefault(entry.issuer, name)
        if other != name and not scope.broken("issuers", name, "issuer"):
            scope.error(("issuers", name), f"is the same issuer as {other}; name it once, with all its audiences")


def _certificates(scope: Scope) -> None:
    tls = scope.settings.listen.tls
    wanting = scope.settings.certificates is not None and (tls is None or tls.client_ca is None)
    if wanting and not scope.broken("listen", "tls", "client_ca"):
        scope.error(("certificates",), "needs listen.tls.client_ca, or no certificate could be verified")


def _enrollment(scope: Scope) -> None:
    enrollment = scope.settings.enrollment
    if enrollment is None:
        return
    issues = is_accepted(scope.settings, "enrolled") or not is_accepted(scope.settings, "enrollment")
    if issues and not enrollment.signing_keys and not scope.broken("enrollment", "signing_keys"):
        message = "is missing; make a key with `authproxy key --signing`"
        scope.error(("enrollment", "signing_keys"), message)
    if enrollment.credential.lifetime > enrollment.credential.renewable_for:
        scope.error(("enrollment", "credential", "lifetime"), "must not be longer than renewable_for")


def _kubernetes(scope: Scope, kubernetes: Kubernetes) -> None:
    scope.name(("kubernetes", "provider"), kubernetes.provider, "providers")
    audiences: dict[str, str] = {}
    for name, cluster in kubernetes.clusters.items():
        path: KeyPath = ("kubernetes", "clusters", name)
        scope.name((*path, "policy"), cluster.policy, "policies")
        scope.error((*path, "server"), grammar.url(cluster.server, schemes=("https",)))
        other = audiences.setdefault(cluster.audience, name)
        if other != name:
            message = f"is the audience of {other} as well; a token of one cluster would open the other"
            scope.error((*path, "audience"), message)
