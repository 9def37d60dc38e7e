"""The kinds of value that settings are made of: durations, networks, file paths, secrets.

Each is read from the text of the file and says in one sentence what it must look like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from authproxy.model import Network

MAX_SECRET: Final = 1 << 20
"""Characters of a secret file that are read; a device or a log named by mistake must not fill the memory."""

_LONGEST_DURATION: Final = 36_500 * 86_400.0
_LINE_BREAKS: Final = "\r\n"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: object) -> float:
    """The seconds of ``500ms 90s 15m 8h 7d``.  Raises ValueError with what it must look like."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a duration such as 500ms, 90s, 15m, 8h or 7d")
    return int(found[1]) * _UNITS[found[2]]


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be longer than nothing")
    if value > _LONGEST_DURATION:  # beyond it dates cannot be computed
        raise ValueError("must be at most 36500d")
    return value


Duration = Annotated[
    float,
    BeforeValidator(seconds),
    AfterValidator(_positive),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h|d)$"}),
]
"""Seconds, written as ``500ms 90s 15m 8h 7d``."""


def _network(value: object) -> Network:
    if not isinstance(value, str):
        raise ValueError("must be an address or a network such as 192.0.2.0/28")
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ValueError("must be an address or a network such as 192.0.2.0/28") from None
    if "/" in value and network.network_address != ip_network(value.partition("/")[0]).network_address:
        raise ValueError(f"names an address inside a network; did you mean {network}?")
    return network


Cidr = Annotated[Network, BeforeValidator(_network), WithJsonSchema({"type": "string"})]


def _existing_path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise ValueError("must be the path of a file")
    base = (info.context or {}).get("base", Path())
    return Path(base) / value


FilePath = Annotated[Path, BeforeValidator(_existing_path), WithJsonSchema({"type": "string"})]
"""A path, made absolute against the folder of the settings file."""


STRICT: Final = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
"""What all sections share: frozen, nothing unknown, no coercion."""


class SecretRef(BaseModel):
    """A secret: ``{file: …}``, ``{env: …}`` (the first variable that is set) or ``{value: …}``."""

    model_config = STRICT

    file: FilePath | None = None
    env: str | list[str] | None = None
    value: str | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _one(self) -> SecretRef:
        if sum(x is not None for x in (self.file, self.env, self.value)) != 1:
            raise ValueError("must be exactly one of {file: …}, {env: …} or {value: …}")
        if self.env is not None and not all(self._variables()):
            raise ValueError("env must name a variable, or a list of variables of which the first that is set counts")
        return self

    def _variables(self) -> list[str]:
        return [self.env] if isinstance(self.env, str) else list(self.env or [""])

    def reveal(self, environ: Mapping[str, str] | None = None) -> str:
        """The secret itself, read now.  Line breaks at its end are dropped, whatever the source.

        ``environ`` stands in for the process environment.  Raises LookupError with a sentence that names the source,
        never the content, when there is none.
        """
        if self.value is not None:
            return self._filled(self.value)
        if self.file is not None:
            return self._from_file(self.file)
        return self._from_environment(os.environ if environ is None else environ)

    @staticmethod
    def _filled(value: str) -> str:
        text = value.rstrip(_LINE_BREAKS)
        if not text:
            raise LookupError("the value is empty")
        return text

    def _from_environment(self, environ: Mapping[str, str]) -> str:
        names = self._variables()
        for name in names:
            text = environ.get(name, "").rstrip(_LINE_BREAKS)
            if _SURROGATE.search(text):  # bytes of the environment that are not UTF-8
                raise LookupError(f"the environment variable {name} is not UTF-8 text")
            if text:
                return text
        if len(names) == 1:
            raise LookupError(f"the environment variable {names[0]} is not set, or empty")
        raise LookupError(f"none of the environment variables {', '.join(names)} is set")

    @staticmethod
    def _from_file(path: Path) -> str:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                text = file.read(MAX_SECRET).rstrip(_LINE_BREAKS)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise LookupError(f"cannot read {path}: {why}") from None
        if not text:
            raise LookupError(f"{path} is empty")
        return text
