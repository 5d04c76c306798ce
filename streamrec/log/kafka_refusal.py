"""Say why a Kafka and a client do not trust each other. librdkafka does not tell an expired certificate from a strange one, so Python looks again."""

from __future__ import annotations

import re
import ssl

from confluent_kafka import KafkaError

from streamrec.config import LogConfig
from streamrec.errors import BrokerRefused
from streamrec.log.kafka_secrets import password_place
from streamrec.log.kafka_tls import handshake_error

_FINAL = {KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.UNSUPPORTED_SASL_MECHANISM}
_OF_TLS = {KafkaError._SSL, KafkaError._TRANSPORT}

_SINCE = re.compile(r"\s*\(after \d+ms in state [^)]*\)")
_EXPIRED, _NOT_YET = {10}, {9}
_OTHER_HOST = {62, 64}
"""Of OpenSSL's verification codes (x509_vfy.h): a host's name, and an address, that the certificate does not name."""

_ABOUT_OURS = ("ALERT", "CERTIFICATE_REQUIRED")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF", "HTTP_REQUEST")


def is_refusal(error: KafkaError) -> bool:
    """Return whether the client reports what asking again does not change; what the broker says of our certificate counts as a broken connection."""
    return error.code() in _FINAL or (error.code() == KafkaError._TRANSPORT and "SSL alert" in error.str())


def reason_of(error: KafkaError) -> str:
    """Return the client's words without how long it took, so that the same reason has the same words."""
    return _SINCE.sub("", error.str())


def refusal(error: KafkaError, servers: str, cfg: LogConfig) -> BrokerRefused:
    """Return our error for one that `is_refusal`, looking at the certificate once more where TLS is what failed."""
    reason = reason_of(error)
    if error.code() in _OF_TLS:
        return _of_tls(servers, cfg, reason)
    who = f"{cfg.sasl_username!r} by {cfg.sasl_mechanism} ({reason})"
    if "supported mechanisms" in reason:
        what = f"Broker: {servers} does not let users in by {cfg.sasl_mechanism}"
        do = "set log.sasl_mechanism to one that its listener has, or log.security_protocol where it has none"
    elif cfg.sasl_mechanism == "OAUTHBEARER":
        what = f"Broker: {servers} is asked without a token that it takes"
        do = f"correct log.oauth_token_url = {cfg.oauth_token_url}, log.oauth_scope, log.sasl_username (the client's id)"
        do += f", or its secret, which is read from {password_place(cfg)}"
    else:
        what = f"Broker: {servers} does not accept this user and password"
        do = f"correct log.sasl_username or the password, which is read from {password_place(cfg)}"
    return BrokerRefused(what, got=who, do=do, address=servers)


def _of_tls(servers: str, cfg: LogConfig, reason: str) -> BrokerRefused:
    for server in servers.split(","):
        error = handshake_error(server.strip(), cfg)
        if error is not None:
            return _explained(server.strip(), cfg, error)
    do = "correct log.security_protocol, log.tls_ca_file, log.tls_certificate_file"
    return BrokerRefused(f"Broker: no TLS with {servers}", got=reason, do=do, address=servers)


def _explained(server: str, cfg: LogConfig, error: OSError) -> BrokerRefused:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(server, cfg, error)
    reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or type(error).__name__
    got = reason.replace("_", " ").lower()
    if any(word in reason for word in _NO_TLS):
        return no_tls(server, got)
    if any(word in reason for word in _ABOUT_OURS):
        what = f"Broker: {server} does not accept the client's certificate"
        got = f"{got}, with {cfg.tls_certificate_file or 'no certificate'}"
        do = "give one that it trusts and that has not expired, with its key: log.tls_certificate_file and log.tls_key_file"
    else:
        what, do = f"Broker: no TLS with {server}", "correct log.security_protocol, log.tls_ca_file, log.tls_certificate_file"
    return BrokerRefused(what, got=got, do=do, address=server)


def no_tls(servers: str, got: str) -> BrokerRefused:
    """Return the error for listeners that do not speak TLS."""
    do = "set log.security_protocol as the listener at this port has it, or take its TLS port"
    return BrokerRefused(f"Broker: {servers} does not speak TLS", got=got, do=do, address=servers)


def _of_certificate(server: str, cfg: LogConfig, error: ssl.SSLCertVerificationError) -> BrokerRefused:
    code, got = error.verify_code, error.verify_message
    if code in _EXPIRED:
        what, do = (
            f"Broker: the certificate of {server} has expired",
            "let the broker's operator renew it, or set this machine's clock if it is ahead",
        )
    elif code in _NOT_YET:
        what, do = f"Broker: the certificate of {server} is not valid yet", "set this machine's clock, or let the broker's operator make another one"
    elif code in _OTHER_HOST:
        what = f"Broker: the certificate of {server} is another host's"
        do = "write log.broker with a name that the certificate has, or let the broker's operator make one with this name"
    else:
        what, trusted = f"Broker: the certificate of {server} is of an authority that is not trusted here", cfg.tls_ca_file or "those of the system"
        got = f"{got}; trusted: {trusted}"
        do = "name the file with the certificate of the broker's authority as log.tls_ca_file; it is the broker's operator who has it"
    return BrokerRefused(what, got=got, do=do, address=server)
