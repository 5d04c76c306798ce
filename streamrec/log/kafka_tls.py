"""Speak TLS with a Kafka by Python's own means and the client's files: to check them, to see why it fails, and until when it will not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from streamrec.config import LogConfig
from streamrec.errors import BrokerRefused
from streamrec.log.kafka_secrets import key_password, key_password_place

_LOOK_S = 3.0
# Since TLS 1.3 a broker says what it thinks of our certificate only when we read.
_VERDICT_S = 0.3


def tls_context(cfg: LogConfig) -> ssl.SSLContext:
    """Return what trusts and shows what the settings say.

    Raises:
        BrokerRefused: A file is not there, is none of its kind, or the key's password is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if cfg.tls_ca_file:
        try:
            context.load_verify_locations(cafile=cfg.tls_ca_file)
        except OSError as error:
            do = "give it the certificates of authorities in PEM"
            raise _unusable(error, setting="tls_ca_file", got=cfg.tls_ca_file, do=do) from error
    else:
        context.load_default_certs()
    if cfg.tls_certificate_file:
        password = key_password(cfg)
        try:
            context.load_cert_chain(cfg.tls_certificate_file, cfg.tls_key_file, password=lambda: password or "")
        except OSError as error:
            got = f"{cfg.tls_certificate_file} with {cfg.tls_key_file}"
            do = f"give it a certificate in PEM, log.tls_key_file its key, and {key_password_place(cfg)} the key's password, if it has one"
            raise _unusable(error, setting="tls_certificate_file", got=got, do=do) from error
    return context


def handshake_error(server: str, cfg: LogConfig) -> OSError | None:
    """Return what stands against TLS with a ``HOST:PORT``; None where nothing does."""
    try:
        with _connected(server, cfg) as secure:
            secure.settimeout(_VERDICT_S)
            secure.recv(1)
    except TimeoutError:
        return None
    except OSError as error:
        return error
    return None


def certificate_end_s(servers: str, cfg: LogConfig) -> float | None:
    """Return until when (seconds since 1970) the first certificate holds that one of the servers shows and we trust; None where none is shown."""
    for server in servers.split(",") if cfg.has_tls else ():
        try:
            with _connected(server.strip(), cfg) as secure:
                shown = secure.getpeercert() or {}
        except OSError:
            continue
        return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))
    return None


@contextmanager
def _connected(server: str, cfg: LogConfig) -> Iterator[ssl.SSLSocket]:
    host, _, port = server.rpartition(":")
    context = tls_context(cfg)
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # librdkafka is not strict either.
    address = (host.strip("[]"), int(port))
    with socket.create_connection(address, timeout=_LOOK_S) as plain, context.wrap_socket(plain, server_hostname=address[0]) as secure:
        yield secure


def _unusable(error: OSError, *, setting: str, got: str, do: str) -> BrokerRefused:
    reason = (error.reason or "").replace("_", " ").lower() if isinstance(error, ssl.SSLError) else error.strerror
    what = f"Broker: log.{setting} can't be used"
    return BrokerRefused(what, got=f"{got} ({reason or 'no PEM'})", do=do, key=f"log.{setting}")
