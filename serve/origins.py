"""Tell the person in front of a browser from a page of another site, where no key does."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection

from serve.http import Refusal, Scope, header
from streamrec.serving.checks import MAX_SHOWN_CHARS

_OWN_SITES = frozenset({b"same-origin", b"none"})
_MAX_HOSTS = 64
_LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


class Origins:
    """Refuse what pages of other sites have a browser ask; programs that name no origin are not concerned.

    Args:
        origins: Pages that may ask all the same, as browsers name them; ``*`` stands for all. Their hosts are this server's names, too.
    """

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._names = _LOOPBACK | {_name(_authority(origin)) for origin in self._origins}
        self._are_all = b"*" in self._origins
        self._hosts: set[bytes] = set()

    def check_page(self, scope: Scope) -> None:
        """Return when no page of another site asks.

        A browser says whose page it is, and no page can say otherwise: in ``sec-fetch-site`` to HTTPS and to loopback, else in ``origin`` alone.

        Raises:
            Refusal: One does.
        """
        site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
        if self._are_all or (origin is not None and origin.lower() in self._origins):
            return
        what = "Access: a page of another site asks for this, which only this server's own pages may, or those of serving.cors_origins"
        if site is not None:  # Also right behind a proxy that gives the request another host.
            if site not in _OWN_SITES:
                raise Refusal(403, "sec-fetch-site", _shown(site), "same-origin", what)
        elif origin is not None:
            host = header(scope, b"host") or b""
            if _authority(origin.lower()) != host.lower():
                raise Refusal(403, "origin", _shown(origin), f"an origin at {_shown(host)}", what)

    def check_host(self, scope: Scope) -> None:
        """Return when the request came to this server by a name of its own, for a server that listens on loopback alone.

        Another site's name may be made to lead here (DNS rebinding), and its pages are then this server's own for the browser. An IP address is no
        name that leads anywhere else.

        Raises:
            Refusal: It came by another name.
        """
        host = header(scope, b"host")
        if host is None or host in self._hosts or self._are_all:
            return
        name = _name(host.lower())
        if name in self._names or _is_address(name):
            if len(self._hosts) < _MAX_HOSTS:  # Looked at once, for the hot routes' sake.
                self._hosts.add(host)
            return
        what = "Access: this server has no such name; where a proxy gives it one, name it in serving.cors_origins, or set serving.keys_file"
        raise Refusal(403, "host", _shown(host), "localhost, an IP address, a host of serving.cors_origins", what)


def _authority(origin: bytes) -> bytes:
    return origin.partition(b"://")[2]


def _name(host: bytes) -> bytes:
    """Return a host without its port."""
    name, colon, port = host.rpartition(b":")
    return name if colon and (not port or port.isdigit()) and (b":" not in name or name.startswith(b"[")) else host


def _is_address(name: bytes) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name.strip(b"[]").decode("latin-1"))
        return True
    return False


def _shown(value: bytes) -> str:
    return value[:MAX_SHOWN_CHARS].decode("ascii", "replace")
