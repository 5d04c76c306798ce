"""Turn settings of `streamrec.config.connection` into those of the client, secrets included, or say what does not fit."""

from __future__ import annotations

from typing import Any

from streamrec.config import LogConfig
from streamrec.errors import ConfigError
from streamrec.log.kafka_secrets import key_password, password_place, read_secret
from streamrec.log.kafka_tls import tls_context

_TLS = ("tls_ca_file", "tls_certificate_file", "tls_key_file", "tls_key_password_file")
_SASL = ("sasl_username", "sasl_password_file", "oauth_token_url", "oauth_scope", "oauth_ca_file")
_OAUTH = ("oauth_token_url", "oauth_scope", "oauth_ca_file")


def security_settings(cfg: LogConfig) -> dict[str, Any]:
    """Return what librdkafka needs beyond the address; nothing for ``PLAINTEXT``.

    Secrets are `Secret`: read now, and shown to nobody.

    Raises:
        ConfigError: Settings contradict each other.
        BrokerRefused: A file of TLS or a secret is not there, or can't be used.
    """
    check_security(cfg)
    settings: dict[str, Any] = {} if cfg.security_protocol == "PLAINTEXT" else {"security.protocol": cfg.security_protocol}
    if cfg.has_tls:
        settings |= _tls(cfg)
    if cfg.has_sasl:
        settings |= _oauth(cfg) if cfg.sasl_mechanism == "OAUTHBEARER" else _password(cfg)
    return settings


def check_security(cfg: LogConfig) -> None:
    """Check that what is set is used, so that nobody believes a connection to be safer than it is, and that what is used is set.

    Raises:
        ConfigError: It is not.
    """
    _check_used(cfg, _TLS, is_used=cfg.has_tls, by="log.security_protocol = SSL or SASL_SSL")
    _check_used(cfg, _SASL, is_used=cfg.has_sasl, by="log.security_protocol = SASL_SSL or SASL_PLAINTEXT")
    _check_used(cfg, _OAUTH, is_used=cfg.sasl_mechanism == "OAUTHBEARER", by="log.sasl_mechanism = OAUTHBEARER")
    needed = (
        ("sasl_username", cfg.has_sasl, f"log.security_protocol = {cfg.security_protocol}"),
        ("oauth_token_url", cfg.has_sasl and cfg.sasl_mechanism == "OAUTHBEARER", "log.sasl_mechanism = OAUTHBEARER"),
        ("tls_key_file", bool(cfg.tls_certificate_file), "log.tls_certificate_file"),
        ("tls_certificate_file", bool(cfg.tls_key_file), "log.tls_key_file"),
        ("tls_key_file", bool(cfg.tls_key_password_file), "log.tls_key_password_file"),
    )
    for setting, is_needed, by in needed:
        if is_needed and not getattr(cfg, setting):
            what = f"Log: log.{setting} is missing"
            raise ConfigError(what, got="none", allowed=f"one, because of {by}", do="set it", key=f"log.{setting}")


def check_embedded(cfg: LogConfig) -> None:
    """Check that settings are not of another Kafka, where the embedded one is meant.

    Raises:
        ConfigError: They are.
    """
    if cfg.security_protocol != "PLAINTEXT":
        what = "Log: an embedded Kafka has neither TLS nor users, it listens on loopback alone"
        do = "name the Kafka as log.broker = HOST:PORT, or remove log.security_protocol and what belongs to it"
        raise ConfigError(what, got=f"log.security_protocol = {cfg.security_protocol}", allowed="PLAINTEXT", do=do, key="log.security_protocol")


def _tls(cfg: LogConfig) -> dict[str, Any]:
    tls_context(cfg)  # Checks the files in words that the client has not.
    settings: dict[str, Any] = {"ssl.ca.location": cfg.tls_ca_file} if cfg.tls_ca_file else {}
    if cfg.tls_certificate_file:
        settings |= {"ssl.certificate.location": cfg.tls_certificate_file, "ssl.key.location": cfg.tls_key_file}
        password = key_password(cfg)
        settings |= {} if password is None else {"ssl.key.password": password}
    return settings


def _password(cfg: LogConfig) -> dict[str, Any]:
    return {"sasl.mechanism": cfg.sasl_mechanism, "sasl.username": cfg.sasl_username, "sasl.password": read_secret(password_place(cfg))}


def _oauth(cfg: LogConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": cfg.oauth_token_url,
        "sasl.oauthbearer.client.id": cfg.sasl_username,
        "sasl.oauthbearer.client.secret": read_secret(password_place(cfg)),
    }
    settings |= {"sasl.oauthbearer.scope": cfg.oauth_scope} if cfg.oauth_scope else {}
    return settings | ({"https.ca.location": cfg.oauth_ca_file} if cfg.oauth_ca_file else {})


def _check_used(cfg: LogConfig, settings: tuple[str, ...], *, is_used: bool, by: str) -> None:
    unused = [f"log.{name}" for name in settings if getattr(cfg, name)]
    if unused and not is_used:
        what = f"Log: {', '.join(unused)} {'is' if len(unused) == 1 else 'are'} set, and would not be used"
        got = f"log.security_protocol = {cfg.security_protocol}, log.sasl_mechanism = {cfg.sasl_mechanism}"
        raise ConfigError(what, got=got, allowed=by, do=f"set that, or remove {unused[0]}", key=unused[0])
