"""The rooms of machine enrollment, put together: what the workshop builds when the settings ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from authproxy.authn.enrolled import EnrolledAuthenticator
from authproxy.authn.enrollment import EnrollmentAuthenticator
from authproxy.enrollment.families import Families
from authproxy.enrollment.inventory import Inventory
from authproxy.enrollment.issuer import Issuer
from authproxy.enrollment.routes import EnrollmentRoutes, Note, Parts
from authproxy.enrollment.tokens import EnrollmentTokens
from authproxy.errors import NotReady
from authproxy.model import RequestInfo
from authproxy.sessions.marks import Marks
from authproxy.settings.schema import Enrollment
from authproxy.store.base import Store
from authproxy.throttle import Throttle


class Enrolling:
    """``authenticator`` judges credentials on the data path; ``routes`` gives them out, where ``issues`` says so.

    ``plain``: some route of an app accepts enrollment tokens themselves, judged by ``guard``.  Then signing keys may be
    left out, and no credential is given out.
    """

    def __init__(
        self, settings: Enrollment, *, public_url: str, info_of: Callable[[web.Request], RequestInfo], store: Store,
        marks: Marks, throttle: Throttle, note: Note, clock: Callable[[], float],
        plain: bool = False,
    ) -> None:  # fmt: skip
        self.issues: Final = bool(settings.signing_keys) or not plain
        issuer = Issuer(settings, public_url=public_url, clock=clock)
        tokens = self.tokens = EnrollmentTokens(
            settings.tokens, store=store, stamping=lambda: issuer.subkeys("enrollment tokens"), clock=clock
        )
        self.families: Final = Families(issuer, settings.credential, store=store, revocations=marks, clock=clock)
        self.inventory: Final = Inventory(self.families, store=store, clock=clock)
        self.authenticator: Final = EnrolledAuthenticator(issuer, tokens, self.families, clock=clock)
        self.guard: Final = EnrollmentAuthenticator(tokens, throttle=throttle)
        self.routes: Final = EnrollmentRoutes(
            Parts(info_of, issuer, tokens, self.families, throttle, note, self.inventory, clock)
        )

    async def ready(self) -> None:
        """Raises ``NotReady`` that names the secret or key that is missing or unfit."""
        problems = self.routes.problems() if self.issues else self.guard.problems()
        if problems:
            raise NotReady("; ".join(problems))
