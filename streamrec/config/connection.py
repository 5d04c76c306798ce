"""Define how clients show a Kafka who they are, and check who it is. No secret is a setting: settings say where secrets lie."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamrec.config.section import Section


class ConnectionConfig(Section):
    """Say how a Kafka is spoken to.

    ``security_protocol``: what its listener speaks; an embedded Kafka speaks ``PLAINTEXT``, on loopback alone. ``tls_ca_file``: PEM of the
    authorities that may have signed the broker's certificate; empty trusts those of the system. ``tls_certificate_file``, ``tls_key_file``: PEM of
    the client's own certificate and key, where the broker asks for one. ``sasl_username`` is the client's id for ``OAUTHBEARER``, whose password is
    the client's secret: ``oauth_token_url`` is asked with both for tokens of ``oauth_scope``, over TLS that trusts ``oauth_ca_file``; empty trusts
    the system's. A secret is the text of the file that a setting names, which each node has; of none: `STREAMREC_KAFKA_PASSWORD` and
    `STREAMREC_KAFKA_KEY_PASSWORD`.
    """

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    tls_ca_file: str = ""
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    tls_key_password_file: str = ""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    sasl_username: str = Field(default="", max_length=1000)
    sasl_password_file: str = ""
    oauth_token_url: str = Field(default="", pattern=r"^(https?://[^@\s]+)?$")
    oauth_scope: str = ""
    oauth_ca_file: str = ""

    @property
    def has_tls(self) -> bool:
        """Return whether connections are encrypted."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def has_sasl(self) -> bool:
        """Return whether the client says who it is by a user and a secret."""
        return self.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}
