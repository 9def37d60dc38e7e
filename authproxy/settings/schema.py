"""The exact shape of the settings file.

This room says which keys exist and what they hold; ``settings.load`` reads the file, finds the lines and collects the
problems.  Models are frozen and refuse unknown keys.  The JSON Schema for editors is made from them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from authproxy.model import Kind, Network
from authproxy.settings.values import STRICT
from authproxy.settings.values import Cidr as Cidr
from authproxy.settings.values import Duration as Duration
from authproxy.settings.values import FilePath as FilePath
from authproxy.settings.values import SecretRef as SecretRef

Secret = SecretRef


class Shape(BaseModel):
    """What all sections share."""

    model_config = STRICT


class ListenTls(Shape):
    """TLS on the public listener; files are read again when they change."""

    cert: FilePath
    key: FilePath
    client_ca: FilePath | None = None
    client_auth: Literal["optional", "required"] = "optional"


class Drain(Shape):
    """What happens on SIGTERM: readiness fails, ``pause`` passes, then what runs has ``timeout`` to finish."""

    pause: Duration | None = None
    timeout: Duration = 30.0


class ListenConnections(Shape):
    """The most connections that one process holds at each listener: in all, and from one client address."""

    total: int = Field(default=20_000, ge=1, le=1_000_000)
    per_client: int = Field(default=15_000, ge=1, le=1_000_000)


class TrustedProxiesShape(Shape):
    """The peers that may name the client, and how many proxies there are: ``hops`` counts them, the peer included."""

    networks: list[Cidr] = Field(min_length=1)
    hops: int | None = Field(default=None, ge=1, le=100)


class Listen(Shape):
    """Sockets.  Addresses are ``host:port`` or ``unix:/path``."""

    address: str = "127.0.0.1:8080"
    tls: ListenTls | None = None
    decisions: str | None = None
    admin: str | None = "127.0.0.1:9090"
    admin_secret: SecretRef | None = None
    trusted_proxies: list[Cidr] | TrustedProxiesShape = []
    connections: ListenConnections = ListenConnections()
    workers: int = Field(default=1, ge=1, le=64)
    drain: Drain = Drain()

    @property
    def trusted_networks(self) -> list[Network]:
        """The networks of ``trusted_proxies``, in either form."""
        trusted = self.trusted_proxies
        return trusted if isinstance(trusted, list) else trusted.networks

    @property
    def trusted_hops(self) -> int:
        """The ``hops`` of ``trusted_proxies``; 0 where they are left out."""
        trusted = self.trusted_proxies
        return 0 if isinstance(trusted, list) else trusted.hops or 0


class RedisSentinel(Shape):
    nodes: list[str] = Field(min_length=1)
    service: str
    username: str | None = None
    password: SecretRef | None = None


class RedisCluster(Shape):
    nodes: list[str] = Field(min_length=1)


class Redis(Shape):
    """One of ``url`` (standalone), ``sentinel`` or ``cluster``."""

    url: str | SecretRef | None = None
    sentinel: RedisSentinel | None = None
    cluster: RedisCluster | None = None
    username: str | None = None
    password: SecretRef | None = None
    tls: bool = False
    ca: FilePath | None = None
    prefix: str = "authproxy:"

    @model_validator(mode="after")
    def _one(self) -> Redis:
        if sum(x is not None for x in (self.url, self.sentinel, self.cluster)) != 1:
            raise ValueError("say where Redis is with exactly one of url, sentinel or cluster")
        return self


class Store(Shape):
    """Shared state; left out: embedded, in memory, one process."""

    redis: Redis | None = None


class Cookie(Shape):
    name: str = Field(default="authproxy", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    domain: str | None = None
    same_site: Literal["lax", "strict", "none"] = "lax"


class Session(Shape):
    """The browser session: keys that seal its cookie, and when it ends."""

    keys: list[SecretRef] = []
    cookie: Cookie = Cookie()
    idle: Duration = 8 * 3600.0
    absolute: Duration = 168 * 3600.0
    refresh_grace: Duration = 3600.0


class Endpoints(Shape):
    """Addresses that replace discovered ones (split horizon)."""

    authorization: str | None = None
    token: str | None = None
    jwks: str | None = None
    userinfo: str | None = None
    end_session: str | None = None
    revocation: str | None = None
    discovery: str | None = None


class Provider(Shape):
    """An OpenID provider that people sign in with."""

    title: str | None = None
    issuer: str
    client_id: str = Field(min_length=1)
    client_secret: SecretRef | None = None
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    scopes: list[str] = ["openid", "profile", "email", "offline_access"]
    authorize: dict[str, str] = {}
    endpoints: Endpoints = Endpoints()
    ca: FilePath | None = None
    claims: dict[Literal["user", "email", "groups", "preferred_username"], str] = {}
    algorithms: list[str] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    refresh_tokens: Literal["per_session", "per_user"] = "per_session"
    password_login: bool = False
    userinfo: bool = False
    max_age: Duration | None = None
    acr_values: list[str] = []
    response_mode: Literal["query", "form_post"] = "query"
    insecure_http: bool = False


class Issuer(Shape):
    """An issuer whose JWTs are accepted as bearer tokens."""

    issuer: str | None = None
    jwks_url: str | None = None
    kubernetes_service_accounts: bool = False
    audiences: list[str] = Field(min_length=1)
    claims: dict[Literal["user", "email", "groups", "scopes", "clusters"], str] = {}
    algorithms: list[str] = ["RS256", "ES256", "PS256", "EdDSA"]
    ca: FilePath | None = None
    insecure_http: bool = False


class StaticToken(Shape):
    secrets: list[SecretRef] = Field(min_length=1)
    scopes: list[str] = []
    clusters: list[str] | None = None


class Basic(Shape):
    users: SecretRef
    groups: SecretRef | None = None


class Certificates(Shape):
    subject: Literal["cn", "o", "dns_san", "uri_san"] = "cn"
    clusters: Literal["cn", "o", "dns_san", "uri_san"] | None = None
    groups: Literal["o"] | None = None
    scopes: list[str] = []


class EnrollmentToken(Shape):
    secrets: list[SecretRef] = Field(min_length=1)
    clusters: list[str] = []


class EnrollmentCredential(Shape):
    lifetime: Duration = 900.0
    renewable_for: Duration = 2160 * 3600.0
    scopes: list[str] = []


class Enrollment(Shape):
    tokens: dict[str, EnrollmentToken] = {}
    signing_keys: list[SecretRef] = []
    credential: EnrollmentCredential = EnrollmentCredential()


class Limit(Shape):
    burst: int = Field(ge=1, le=1_000_000)
    every: Duration


class Throttle(Shape):
    """GCRA: ``burst`` at once, then one per ``every``."""

    login: Limit = Limit.model_construct(burst=20, every=6.0)
    login_per_client: Limit = Limit.model_construct(burst=1000, every=0.1)


class RuleShape(Shape):
    """One way to be allowed: every key that is set must hold."""

    authenticated: Literal[True] | None = None
    groups: list[str] | None = None
    emails: list[str] | None = None
    users: list[str] | None = None
    scopes: list[str] | None = None
    clusters: list[str] | None = None
    kinds: list[Kind] | None = None
    networks: list[Cidr] | None = None
    methods: list[str] | None = None
    paths: list[str] | None = None
    cluster: Literal["own"] | None = None


class PolicyShape(Shape):
    """``anonymous: true``, or ``any:`` with rules of which one suffices."""

    anonymous: Literal[True] | None = None
    any: list[RuleShape] | None = None


class BearerSecret(Shape):
    bearer: SecretRef


class UpstreamTls(Shape):
    cert: FilePath
    key: FilePath


class UpstreamShape(Shape):
    """The protected server: ``url`` or several ``urls``."""

    url: str | None = None
    urls: list[str] | None = None
    authorization: Literal["none", "id_token", "access_token", "pass"] | BearerSecret = "none"
    timeout: Duration = 60.0
    preserve_host: bool = True
    ca: FilePath | None = None
    tls: UpstreamTls | None = None
    server_name: str | None = None

    @model_validator(mode="after")
    def _one(self) -> UpstreamShape:
        if (self.url is None) == (self.urls is None):
            raise ValueError("say where the upstream is with exactly one of url or urls")
        return self


class RouteShape(Shape):
    path: str
    methods: list[str] | None = None
    accept: list[Kind] | None = None
    policy: str


class AppBearer(Shape):
    issuers: list[str] | None = None
    audiences: list[str] | None = None


class AppShape(Shape):
    """A protected application: ``host`` and/or ``path`` prefix, an upstream, and routes: the first match wins."""

    title: str | None = None
    host: str | None = None
    path: str = "/"
    provider: str | list[str] | None = None
    bearer: AppBearer = AppBearer()
    upstream: UpstreamShape
    routes: list[RouteShape] = Field(min_length=1)


class KubernetesCluster(Shape):
    title: str | None = None
    environment: str = ""
    region: str = ""
    server: str
    ca: FilePath | None = None
    audience: str
    policy: str


class Kubernetes(Shape):
    provider: str
    clusters: dict[str, KubernetesCluster] = {}


class Workspace(Shape):
    title: str | None = None
    providers: list[str] = []
    clusters: list[str] = []


class ForwardAuth(Shape):
    """How ingresses ask us."""

    success_status: int = Field(default=202, ge=200, le=299)
    secret: SecretRef | None = None
    headers: Literal["x-forwarded", "x-original"] = "x-forwarded"


class Audit(Shape):
    file: FilePath | None = None


class Settings(Shape):
    """The whole file."""

    listen: Listen = Listen()
    public_url: str
    prefix: str = Field(default="/oauth2", pattern=r"^(/[A-Za-z0-9_-]+)+$")
    store: Store = Store()
    session: Session = Session()
    providers: dict[str, Provider] = {}
    issuers: dict[str, Issuer] = {}
    tokens: dict[str, StaticToken] = {}
    basic: Basic | None = None
    certificates: Certificates | None = None
    enrollment: Enrollment | None = None
    throttle: Throttle = Throttle()
    policies: dict[str, PolicyShape] = {}
    apps: dict[str, AppShape] = {}
    kubernetes: Kubernetes | None = None
    workspaces: dict[str, Workspace] = {}
    forward_auth: ForwardAuth = ForwardAuth()
    audit: Audit | Literal["stdout"] = "stdout"
    reload: bool = False


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the settings file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema()}
