"""Checks of the files that the settings name: certificates, keys, the audit file, unix sockets to listen on."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from authproxy.settings.certificates import CertificateFault, Part, client_context, doubt, pair_faults, server_context
from authproxy.settings.files import found
from authproxy.settings.lines import KeyPath
from authproxy.settings.schema import Audit, ListenTls, UpstreamTls
from authproxy.settings.scope import Scope

_AUTHORITIES: Final = ("ca", "client_ca")
_SOCKET: Final = "unix:"
_REFUSED: Final = os.strerror(errno.EACCES)


def check(scope: Scope) -> None:
    """Report every file that cannot be used as ``serve`` uses it, and certificates outside their time."""
    for path, file in found(scope.settings, (), Path):
        if path[-1] in _AUTHORITIES:
            _authorities(scope, path, file)
    for path, pair in found(scope.settings, (), UpstreamTls):
        _pair(scope, path, pair)
    tls = scope.settings.listen.tls
    if tls is not None:
        _pair(scope, ("listen", "tls"), tls)
    _audit(scope)
    for name in ("address", "decisions", "admin"):
        address = getattr(scope.settings.listen, name)
        if address is not None and address.startswith(_SOCKET):
            scope.error(("listen", name), _unbindable(Path(address.removeprefix(_SOCKET))))


def _authorities(scope: Scope, path: KeyPath, file: Path) -> None:
    try:
        client_context(file)
    except CertificateFault as fault:
        scope.error(path, str(fault))
        return
    _warn(scope, path, file, "ca")


def _pair(scope: Scope, path: KeyPath, tls: ListenTls | UpstreamTls) -> None:
    if scope.broken(*map(str, path)):
        return
    faults = pair_faults(tls.cert, tls.key)
    try:
        if not faults:
            server_context(tls.cert, tls.key, client_ca=None, client_auth="optional")
    except CertificateFault as mismatch:
        faults = [mismatch]
    for fault in faults:
        scope.error((*path, fault.part), str(fault))
    if not faults:
        _warn(scope, (*path, "cert"), tls.cert, "cert")


def _warn(scope: Scope, path: KeyPath, file: Path, part: Part) -> None:
    why = doubt(file, part)
    if why:
        scope.warn(path, f"{file} {why}")


def _audit(scope: Scope) -> None:
    audit = scope.settings.audit
    if isinstance(audit, Audit) and audit.file is not None:
        why = _unwritable(audit.file)
        scope.error(("audit", "file"), why and f"cannot write to {audit.file}: {why}")


def _unwritable(file: Path) -> str:
    """Why nothing can be appended to ``file``; nothing is left behind where there is none yet."""
    try:
        found_there = file.stat()
    except FileNotFoundError:
        return _uncreatable(file)
    except OSError as error:
        return error.strerror or "not the name of a file"
    if stat.S_ISFIFO(found_there.st_mode):  # opening it would wait for a reader
        return "" if os.access(file, os.W_OK) else _REFUSED
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return error.strerror or "it cannot be opened"
    return ""


def _uncreatable(file: Path) -> str:
    folder = Path(os.path.realpath(file)).parent
    try:
        tempfile.TemporaryFile(dir=folder).close()  # without a name, where the file system can
    except OSError as error:
        if not folder.exists():
            return f"there is no directory {folder}; create it"
        return error.strerror or "it cannot be created"
    return ""


def _unbindable(file: Path) -> str:
    """Why no socket can be bound at ``file``; empty for what is no absolute path, which is reported elsewhere."""
    if not file.is_absolute():
        return ""
    try:
        there = file.stat()
    except FileNotFoundError:
        if file.parent.is_dir():
            return "" if os.access(file.parent, os.W_OK | os.X_OK) else f"no socket can be at {file}: {_REFUSED}"
        return f"there is no directory {file.parent} for the socket; create it"
    except OSError as error:
        return f"no socket can be at {file}: {error.strerror}"
    return "" if stat.S_ISSOCK(there.st_mode) else f"{file} exists and is no socket; remove it, or change the path"
