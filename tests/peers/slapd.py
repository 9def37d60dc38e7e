"""A real OpenLDAP server on loopback, with people whom a test can delete: the directory behind Dex's ldap connector."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.peers.program import PATIENCE, Program, free_port

BASE: Final = "dc=example,dc=com"
ADMIN: Final = f"cn=admin,{BASE}"
ADMIN_PASSWORD: Final = "admin-password"
PASSWORD: Final = "password"
_CONFIG: Final = """include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/slapd.pid
database mdb
suffix "{base}"
rootdn "{admin}"
rootpw {password}
directory {folder}
"""
_TREE: Final = """dn: {base}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=People,{base}
objectClass: organizationalUnit
ou: People

dn: ou=Groups,{base}
objectClass: organizationalUnit
ou: Groups

dn: cn=staff,ou=Groups,{base}
objectClass: groupOfNames
cn: staff
{members}
"""
_PERSON: Final = """
dn: {dn}
objectClass: inetOrgPerson
uid: {name}
cn: {name}
sn: {name}
mail: {name}@example.com
userPassword: {password}
"""


def _program(name: str) -> str:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin") or ""


def missing() -> str:
    """What this peer lacks on this machine; empty when it can run."""
    return next((f"{name} is not installed" for name in ("slapd", "ldapdelete") if not _program(name)), "")


class Slapd:
    """The server; an async context manager."""

    def __init__(self, folder: Path, people: Sequence[str]) -> None:
        self.port = free_port()
        self._folder = folder / "ldap"
        self._people = people
        self._file = folder / "slapd.conf"
        self.program: Program | None = None

    def __repr__(self) -> str:
        return f"<Slapd port {self.port}>"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"ldap://127.0.0.1:{self.port}"

    def connector(self) -> dict[str, Any]:
        """The entry under ``connectors`` of Dex."""
        return {
            "type": "ldap",
            "id": "ldap",
            "name": "LDAP",
            "config": {
                "host": f"127.0.0.1:{self.port}",
                "insecureNoSSL": True,
                "bindDN": ADMIN,
                "bindPW": ADMIN_PASSWORD,
                "userSearch": {
                    "baseDN": f"ou=People,{BASE}", "filter": "(objectClass=person)", "username": "mail",
                    "idAttr": "uid", "emailAttr": "mail", "nameAttr": "cn",
                },
                "groupSearch": {
                    "baseDN": f"ou=Groups,{BASE}", "filter": "(objectClass=groupOfNames)", "nameAttr": "cn",
                    "userMatchers": [{"userAttr": "DN", "groupAttr": "member"}],
                },
            },
        }  # fmt: skip

    async def delete(self, username: str) -> None:
        """Delete a user."""
        words = [_program("ldapdelete"), "-x", "-H", self.url, "-D", ADMIN, "-w", ADMIN_PASSWORD, self._dn(username)]
        await asyncio.to_thread(subprocess.run, words, check=True, capture_output=True, timeout=PATIENCE)

    def _dn(self, username: str) -> str:
        return f"uid={username},ou=People,{BASE}"

    def _fill(self) -> None:
        self._folder.mkdir()
        config = _CONFIG.format(folder=self._folder, base=BASE, admin=ADMIN, password=ADMIN_PASSWORD)
        self._file.write_text(config)
        members = "\n".join(f"member: {self._dn(name)}" for name in self._people)
        tree = _TREE.format(base=BASE, members=members)
        people = (_PERSON.format(dn=self._dn(name), name=name, password=PASSWORD) for name in self._people)
        words = [_program("slapadd"), "-f", str(self._file)]
        subprocess.run(
            words, input=tree + "".join(people), text=True, check=True, capture_output=True, timeout=PATIENCE
        )

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._fill)
        self.program = Program(_program("slapd"), "-f", self._file, "-h", self.url, "-d", "0").start()
        deadline = time.monotonic() + PATIENCE
        while not self._accepts():
            alive = self.program.exit_code is None and time.monotonic() < deadline
            assert alive, f"slapd does not answer\n{self.program.transcript()}"
            await asyncio.sleep(0.02)  # another process: there is no event to wait for
        return self

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def stop(self) -> None:
        """Be down: connections are refused."""
        assert self.program is not None
        await self.program.stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
