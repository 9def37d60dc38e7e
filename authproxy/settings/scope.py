"""What a check between sections may see and say.

It sees the settings that could be understood and the names that stand in the file, also of entries that are broken;
what it says about something that was reported already is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from authproxy.model import Kind
from authproxy.settings import places
from authproxy.settings.lines import Fault, KeyPath
from authproxy.settings.schema import AppShape, RouteShape, Settings
from authproxy.settings.shaping import Shaped


class Scope:
    """Settings under examination, and the faults found in them."""

    def __init__(self, settings: Settings, shaped: Shaped, data: Mapping[str, Any]) -> None:
        self.settings: Final = settings
        self.faults: Final[list[Fault]] = []
        self.dangling = False  # whether some name leads nowhere, so that what it meant may look unused
        self._shaped: Final = shaped
        self._data: Final = data

    @property
    def whole(self) -> bool:
        """Whether the settings are all that the file says."""
        return self._shaped.whole

    def error(self, path: KeyPath, message: str, *, awaited: bool = False) -> None:
        """Something is wrong at ``path``; an empty message is none.  ``awaited``: see errors.Problem."""
        self._say(path, message, awaited=awaited)

    def warn(self, path: KeyPath, message: str) -> None:
        """Something is doubtful at ``path``."""
        self._say(path, message, warning=True)

    def _say(self, path: KeyPath, message: str, *, warning: bool = False, awaited: bool = False) -> None:
        original = self._shaped.original(path)
        if message and not self._shaped.broken(original):
            self.faults.append(Fault(original, message, warning, awaited=awaited))

    def broken(self, *path: str) -> bool:
        """Whether something in ``path`` was reported, so that its value here is not the file's."""
        return self._shaped.broken(path)

    def names(self, *section: str) -> list[str]:
        """The names in a section of the file, also of broken entries."""
        here: Any = self._data
        for step in section:
            here = here.get(step) if isinstance(here, dict) else None
        return list(here) if isinstance(here, dict) else []

    def has(self, section: str) -> bool:
        """Whether the file has something in ``section``."""
        return self._data.get(section) not in (None, {}, [])

    def name(self, path: KeyPath, name: str, *section: str) -> None:
        """Report ``name`` at ``path`` unless ``section`` has it."""
        known = self.names(*section)
        if name not in known:
            self.dangling = True
            where = ".".join(section)
            hint = places.near(name, known) or f"; add it to {where}, or name one of: {', '.join(known)}"
            self.error(path, f"names {name}, which is not in {where}{hint if known else f'; add it to {where}'}")

    def is_public(self, route: RouteShape) -> bool:
        """Whether the route asks for no credential at all; also when its policy is not known."""
        policy = self.settings.policies.get(route.policy)
        return policy is None or bool(policy.anonymous)

    def takes_sessions(self, app: AppShape) -> bool:
        """Whether people sign in to reach some route of the app."""
        return any(not self.is_public(route) and "session" in accepted(route) for route in app.routes)

    def providers_of(self, app: AppShape) -> list[str]:
        """The providers that the app names; left out, every provider's sessions open it."""
        if app.provider is None:
            return self.names("providers")
        return [app.provider] if isinstance(app.provider, str) else app.provider


def is_accepted(settings: Settings, kind: Kind) -> bool:
    """Whether some route asks for a credential, and takes one of ``kind``."""
    public = {name for name, policy in settings.policies.items() if policy.anonymous}
    routes = (route for app in settings.apps.values() for route in app.routes)
    return any(kind in accepted(route) and route.policy not in public for route in routes)


def accepted(route: RouteShape) -> list[str]:
    """The credential kinds of a route; left out: sessions."""
    return ["session"] if route.accept is None else list(route.accept)
