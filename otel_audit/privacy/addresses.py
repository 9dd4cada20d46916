"""Shortens or drops clients' addresses, in sessions and wherever else one stands."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Any, Final

from otel_audit.errors import ConfigError
from otel_audit.privacy.scrub import Privacy, Rule, Scrubber
from otel_audit.record import Session

__all__ = ["DROPPED", "Address", "DropIp", "TruncateIp", "drop_ip", "parse", "truncate_ip"]

Address = ipaddress.IPv4Network | ipaddress.IPv6Network
"""An address is a network of its own."""

DROPPED: Final = "[dropped]"
"""What stands in place of an address in a text."""

# After a product's name and a slash there is a version (Chrome/120.0.0.0), after more digits and dots no address.
_IN_TEXT: Final = re.compile(
    r"(?<![\w.])(?<!\w/)(?:\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"
    r"|(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)(?<!:)[0-9A-Fa-f:]{1,38}(?:[0-9A-Fa-f]|::)(?:\.\d{1,3}){0,3}"
    r"(?:%\w{1,16})?(?!\w|:\w))"
    r"(?:/\d{1,3}(?!\d|\.\d))?",
    re.ASCII,
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# What can be no address and hold none, nor be a host's name made from one.
_HARMLESS: Final = re.compile(r"[A-Za-z][A-Za-z._-]*|", re.ASCII)


def truncate_ip(v4_prefix: int = 24, v6_prefix: int = 48) -> Privacy:
    """Return a processor that keeps only the network of each address: ``203.0.113.0/24`` for ``203.0.113.7``.

    It acts on the session's address and on addresses in user, actor, target, message and custom fields. An address that
    embeds an IPv4 one (mapped, 6to4) keeps no more of it than `v4_prefix` says. A session's address that is none and
    holds digits is dropped, since nobody can tell how much of an address it gives away.

    Args:
        v4_prefix: Bits of IPv4 addresses to keep, 0 to 32 (all).
        v6_prefix: Bits of IPv6 addresses to keep, 0 to 128 (all).

    Raises:
        ConfigError: A prefix is out of range.
    """
    for name, prefix, longest in (("v4_prefix", v4_prefix, 32), ("v6_prefix", v6_prefix, 128)):
        if type(prefix) is not int or not 0 <= prefix <= longest:
            raise ConfigError(f"{name}={prefix!r} is no prefix", f"give the bits to keep, 0 to {longest}")
    return Privacy(TruncateIp(v4_prefix, v6_prefix))


def drop_ip() -> Privacy:
    """Return a processor that keeps no address: none in the session, and ``[dropped]`` where one stands in a text."""
    return Privacy(DropIp())


@lru_cache(1024)
def parse(text: str) -> Address | None:
    """Return the address or network that a text is, also with a port, brackets or a zone; None where it is none."""
    text = text.strip()
    if match := re.fullmatch(r"\[(.*)\](?::\d+)?|([\d.]+):\d+", text, re.ASCII):
        text = match[1] or match[2] or ""
    head, slash, prefix = text.partition("/")
    try:
        return ipaddress.ip_network(head.partition("%")[0] + slash + prefix, strict=False)
    except ValueError:
        return None


@lru_cache(1024)
def _forms(address: Address) -> frozenset[str]:
    return frozenset({str(address.network_address), address.network_address.exploded})


class _Addresses(Rule):
    """What both rules share: finds addresses."""

    def kept(self, address: Address) -> str | None:
        """Return the text of what is kept of an address, None for nothing."""
        raise NotImplementedError

    def keeps_all(self) -> bool:
        """Tell whether addresses stay as they are."""
        return False

    def session(self, session: Session, scrubber: Scrubber) -> Session:
        """Return the session with what is kept of its address."""
        given: Any = session.ip
        if "session.ip:pseudonym" in scrubber.marks:
            return session
        if self.keeps_all() or not isinstance(given, (str, ipaddress.IPv4Address, ipaddress.IPv6Address)):
            return session  # another type is refused when the record is built
        text = str.__str__(given) if isinstance(given, str) else str(given)
        parts = [part for part in text.split(",") if part.strip()]
        addresses = [parse(part) for part in parts]
        harmless = _HARMLESS.fullmatch(text) is not None
        if harmless and self.word == "truncated":
            return session
        found = [self.kept(address) for address in addresses if address is not None]
        networks = [network for network in found if network is not None]
        kept = ", ".join(networks) if networks and len(networks) == len(parts) else None
        if kept == text:
            return session
        word = self.word if kept is not None else "dropped"
        scrubber.mark(f"session.ip:{word}")
        forms = {text, *(part.strip() for part in parts)}
        for address in addresses:
            if address is not None and address.prefixlen == address.max_prefixlen:
                forms |= _forms(address)
        for form in () if harmless else forms:
            scrubber.mention(form, kept or DROPPED, word)
        return session._replace(ip=kept)

    def text(self, text: str, name: str, scrubber: Scrubber) -> str:  # noqa: ARG002
        """Return a text with what is kept of the addresses in it."""
        if name in {"session.ip", "session.client"} or self.keeps_all():
            # Clients' names are full of versions; the session's own address is found in them all the same.
            return text
        if "." not in text and ":" not in text:
            return text

        def replaced(match: re.Match[str]) -> str:
            address = parse(match[0])
            if address is None:
                return match[0]
            return self.kept(address) or DROPPED

        return _IN_TEXT.sub(replaced, text)


class TruncateIp(_Addresses):
    """Keeps the network of an address; see `truncate_ip`."""

    word = "truncated"

    def __init__(self, v4_prefix: int, v6_prefix: int) -> None:
        self._v4 = v4_prefix
        self._v6 = v6_prefix
        self._cached = lru_cache(4096)(self._network)

    def keeps_all(self) -> bool:
        """Tell whether both prefixes are the whole address."""
        return (self._v4, self._v6) == (32, 128)

    def kept(self, address: Address) -> str | None:
        """Return the network of an address."""
        return self._cached(address)

    def _network(self, address: Address) -> str:
        if isinstance(address, ipaddress.IPv6Network):
            first = address.network_address
            if first.ipv4_mapped is not None and address.prefixlen >= 96:
                mapped = ipaddress.IPv4Network((int(first.ipv4_mapped), address.prefixlen - 96), strict=False)
                return self._network(mapped)
            # In 6to4 addresses the IPv4 one stands behind the first 16 bits, in those of NAT64 behind 96.
            prefix = min(self._v6, 16 + self._v4) if first.sixtofour is not None else self._v6
            if first in _NAT64:
                prefix = min(self._v6, 96 + self._v4)
        else:
            prefix = self._v4
        if address.prefixlen <= prefix:
            return str(address.network_address) if address.prefixlen == address.max_prefixlen else str(address)
        return str(address.supernet(new_prefix=prefix))


class DropIp(_Addresses):
    """Keeps no address; see `drop_ip`."""

    word = "dropped"

    def kept(self, address: Address) -> str | None:  # noqa: ARG002
        """Return nothing."""
        return None
