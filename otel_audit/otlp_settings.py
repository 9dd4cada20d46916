"""Where and how OTLP requests are sent, resolved from arguments and the ``OTEL_EXPORTER_OTLP_*`` variables.

The rules are those of the OpenTelemetry specification ("OpenTelemetry Protocol Exporter"), with one exception: the
timeouts. The specification counts them in milliseconds, the OpenTelemetry SDK for Python reads seconds (its exporters
call ``float()`` on the value and hand it to the transport). One process has one environment, shared with the SDK's own
exporters, so ``OTEL_EXPORTER_OTLP_TIMEOUT=10`` must mean the same ten seconds to both: seconds it is.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from otel_audit.errors import ConfigError

__all__ = ["Compression", "OtlpSettings", "Protocol", "is_loopback", "resolve"]

Protocol = Literal["grpc", "http/protobuf"]
Compression = Literal["gzip", "none"]

_DEFAULT_TIMEOUT = 10.0
_DEFAULT_ENDPOINTS = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"[^\x00-\x20\x7f/\\?#@\[\]<>\"]+")


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Everything that a sender needs to know about its destination.

    Args:
        protocol: ``http/protobuf`` or ``grpc``.
        endpoint: For HTTP the full URL of the request, without user information; for gRPC ``host:port``.
        headers: Names in lower case, and values; credentials among them, therefore not in the ``repr``.
        timeout: Seconds for one attempt.
        compression: As stated, or None where nothing was stated: then see `gzip`.
        certificate: Path of the PEM file with the certificates to trust, None for the usual ones.
        client_key: Path of the PEM file with the private key for mutual TLS.
        client_certificate: Path of the PEM file with the certificate chain for mutual TLS.
        insecure: No TLS.
    """

    protocol: Protocol
    endpoint: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = _DEFAULT_TIMEOUT
    compression: Compression | None = None
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    insecure: bool = False

    @property
    def gzip(self) -> bool:
        """Whether requests are compressed: as stated, else everywhere but on loopback.

        On loopback bytes cost nothing, and the processor time that gzip takes is the application's own.
        """
        if self.compression is not None:
            return self.compression == "gzip"
        url = self.endpoint if "//" in self.endpoint else f"//{self.endpoint}"
        return not is_loopback(urlsplit(url).hostname or "")


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine, without asking a resolver.

    Args:
        host: A name, or an address without brackets and port.

    Returns:
        True for ``localhost`` and its subdomains, ``127.0.0.0/8`` and ``::1``.
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def resolve(
    environ: Mapping[str, str],
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    timeout: float | None = None,
    compression: str | None = None,
    path: str = "/v1/logs",
    default: bool = False,
) -> OtlpSettings | None:
    """Resolve where and how to send: arguments, then ``OTEL_EXPORTER_OTLP_LOGS_*``, then ``OTEL_EXPORTER_OTLP_*``.

    Args:
        environ: The environment; empty values count as not set.
        endpoint: A base URL, like ``OTEL_EXPORTER_OTLP_ENDPOINT``: HTTP appends `path`.
        protocol: ``http/protobuf`` (also where nothing names one) or ``grpc``.
        headers: Sent with every request, beside those of the environment, and stronger than them. Not percent-decoded.
        timeout: Seconds for one attempt; 10 where nothing names it.
        compression: ``gzip`` or ``none``; where nothing names it, ``gzip`` off loopback.
        path: What HTTP appends to a base URL.
        default: Take ``http://localhost:4318`` (gRPC ``:4317``) where neither argument nor environment names an
            endpoint.

    Returns:
        The settings, or None where no endpoint is named and `default` is False.

    Raises:
        ConfigError: A value is invalid; names the variable or argument, the value and the remedy. Values of headers,
            user information and query strings are credentials and never shown.
    """
    env = _Environment(environ)
    url, origin, whole = _endpoint(env, endpoint)
    if url is None and not default:
        return None
    chosen = _protocol(env, protocol)
    parts = _split(url or _DEFAULT_ENDPOINTS[chosen], origin, chosen)
    certificate, client_key, client_certificate = (
        env.get(name)[0] for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    )
    if client_key and not client_certificate:
        name = env.get("CLIENT_KEY")[1]
        raise ConfigError(
            f"{name} is {client_key!r}, but no client certificate is set",
            f"set {name.replace('CLIENT_KEY', 'CLIENT_CERTIFICATE')} too",
        )
    return OtlpSettings(
        protocol=chosen,
        endpoint=_target(parts) if chosen == "grpc" else _url(parts, "" if whole else path),
        headers=_headers(env, headers, parts, chosen),
        timeout=_timeout(env, timeout),
        compression=_compression(env, compression),
        certificate=certificate,
        client_key=client_key,
        client_certificate=client_certificate,
        insecure=_insecure(env, parts),
    )


class _Environment:
    """The OTLP variables, by their last word: the one for logs wins over the general one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, name: str) -> tuple[str | None, str]:
        """Return value and variable; the value is None, and the variable the general one, where neither is set."""
        for variable in (f"OTEL_EXPORTER_OTLP_LOGS_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
            value = self._environ.get(variable, "").strip()
            if value:
                return value, variable
        return None, f"OTEL_EXPORTER_OTLP_{name}"


def _endpoint(env: _Environment, argument: str | None) -> tuple[str | None, str, bool]:
    """Return the URL as written, where it was written, and whether it is the whole URL of the request."""
    if argument is not None:
        if not argument.strip():
            raise ConfigError(
                f"endpoint is {argument!r}", "give a base URL such as http://localhost:4318, or leave it out"
            )
        return argument.strip(), "endpoint", False
    value, variable = env.get("ENDPOINT")
    return value, variable, variable == "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"


def _protocol(env: _Environment, argument: str | None) -> Protocol:
    value, origin = (argument, "protocol") if argument is not None else env.get("PROTOCOL")
    if value is None or value == "http/protobuf":
        return "http/protobuf"
    if value == "grpc":
        return "grpc"
    if value == "http/json":
        raise ConfigError(f"{origin} is 'http/json', which is not supported", "use http/protobuf, on the same port")
    raise ConfigError(f"{origin} is {value!r}", "use http/protobuf or grpc")


def _shown(url: str) -> str:
    """Return a URL for an error message, quoted, without user information and query."""
    bare = re.sub(r"^((?:[^/]*//)?).*@", r"\1***@", url)
    return repr(re.sub(r"\?.*", "?***", bare, flags=re.DOTALL))


def _split(url: str, origin: str, protocol: Protocol) -> SplitResult:
    """Take a URL apart and check every part that could send records to the wrong place."""
    wrong = f"{origin} is {_shown(url)}"
    example = "http://localhost:4317 or localhost:4317" if protocol == "grpc" else "http://localhost:4318"
    bare = protocol == "grpc" and "://" not in url
    try:
        parts = urlsplit(f"//{url}" if bare else url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        # The parser's own words may quote the part before an @, a password among it.
        raise ConfigError(f"{wrong}, which is not a URL", f"write it like {example}") from (
            None if "@" in url else error
        )
    if not bare and parts.scheme not in ("http", "https"):
        raise ConfigError(f"{wrong}, without http:// or https://", f"write it like {example}")
    if not host or not _HOST.fullmatch(host) or port == 0:
        raise ConfigError(f"{wrong}, which names no usable host and port", f"write it like {example}")
    if bare and port is None:
        raise ConfigError(f"{wrong}, which names no port", f"write it like {example}")
    if any(character <= " " or character == "\x7f" for character in url):
        raise ConfigError(f"{wrong}, with a blank or control character in it", "percent-encode it")
    return parts


def _authority(parts: SplitResult) -> str:
    """Return ``host`` or ``host:port`` of a URL, without user information."""
    return parts.netloc.rpartition("@")[2]


def _url(parts: SplitResult, path: str) -> str:
    """Return the URL of the request; a fragment is never sent, so it is dropped."""
    whole = parts.path.rstrip("/") + path if path else parts.path or "/"
    return f"{parts.scheme}://{_authority(parts)}{whole}" + (f"?{parts.query}" if parts.query else "")


def _target(parts: SplitResult) -> str:
    """Return ``host:port`` for gRPC, which would take 443 for every target without a port."""
    authority = _authority(parts)
    return authority if parts.port is not None else f"{authority.rstrip(':')}:{443 if parts.scheme == 'https' else 80}"


def _insecure(env: _Environment, parts: SplitResult) -> bool:
    """A scheme decides; ``…_INSECURE`` counts only where there is none (gRPC), and TLS is its default."""
    if parts.scheme:
        return parts.scheme == "http"
    value, variable = env.get("INSECURE")
    if value is not None and value.lower() not in ("true", "false"):
        raise ConfigError(f"{variable} is {value!r}", "use true or false")
    return value is not None and value.lower() == "true"


def _timeout(env: _Environment, argument: float | None) -> float:
    if argument is not None:
        value, origin, shown, usable = argument, "timeout", repr(argument), True
    else:
        text, origin = env.get("TIMEOUT")
        if text is None:
            return _DEFAULT_TIMEOUT
        shown = repr(text)
        try:
            value, usable = float(text), True
        except ValueError:
            value, usable = 0.0, False
    if not usable or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{origin} is {shown}", "give seconds above 0, such as 10")
    return float(value)


def _compression(env: _Environment, argument: str | None) -> Compression | None:
    value, origin = (argument, "compression") if argument is not None else env.get("COMPRESSION")
    if value is None:
        return None
    if value.lower() == "gzip":
        return "gzip"
    if value.lower() == "none":
        return "none"
    raise ConfigError(f"{origin} is {value!r}", "use gzip or none")


def _headers(
    env: _Environment,
    argument: Mapping[str, str] | Iterable[tuple[str, str]] | None,
    parts: SplitResult,
    protocol: Protocol,
) -> tuple[tuple[str, str], ...]:
    """Collect the headers: user information of the URL, the environment, the argument; the later, the stronger."""
    merged: dict[str, str] = {}
    userinfo, at, _ = parts.netloc.rpartition("@")
    if at:
        merged["authorization"] = "Basic " + base64.b64encode(unquote(userinfo).encode()).decode("ascii")
    text, variable = env.get("HEADERS")
    for number, member in enumerate((text or "").split(","), 1):
        if not member.strip():
            continue
        name, equals, value = member.partition("=")
        if not equals:
            raise ConfigError(
                f"{variable}: entry {number} has no equals sign", "write name=value,name=value, values percent-encoded"
            )
        merged[_name(unquote(name.strip()), variable)] = _value(
            unquote(value.strip()), name.strip(), variable, protocol
        )
    pairs = argument.items() if isinstance(argument, Mapping) else argument or ()
    for name, value in pairs:
        merged[_name(name, "headers")] = _value(value.strip(), name, "headers", protocol)
    return tuple(merged.items())


def _name(name: str, origin: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ConfigError(f"{origin}: {name!r} is not a header name", "use letters, digits and hyphens")
    return name.lower()


def _value(value: str, name: str, origin: str, protocol: Protocol) -> str:
    """Check a value that may be a credential: the message tells the name only."""
    if any(character < " " or character == "\x7f" for character in value) or "\ufffd" in value:
        raise ConfigError(
            f"{origin}: the value of {name!r} holds control characters or invalid UTF-8", "remove or re-encode them"
        )
    if protocol == "grpc" and not value.isascii():
        raise ConfigError(f"{origin}: the value of {name!r} is not ASCII, which gRPC demands", "encode it in ASCII")
    return value
