"""Make certificates for loopback, which live no longer than a test; needs the package cryptography."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Sign certificates, each in a file of its own beside that of its key.

    Args:
        folder: Where to; made when missing.
        name: The authority's.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._signed(name, self._key, timedelta(days=1), host="localhost", is_authority=True))

    def issue(self, name: str, *, lasts: timedelta = timedelta(days=1), host: str = "localhost", password: bytes | None = None) -> tuple[Path, Path]:
        """Return the files of a certificate and of its key, both PEM.

        Args:
            name: Whose; also what the files are called.
            lasts: From now on; a negative time makes one that has expired.
            host: Whom it names beside 127.0.0.1; another one than localhost leaves the address out.
            password: Of the key.
        """
        key, certificate_file, key_file = ec.generate_private_key(ec.SECP256R1()), self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate_file.write_bytes(self._signed(name, key, lasts, host=host))
        encryption = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
        return certificate_file, key_file

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, lasts: timedelta, *, host: str, is_authority: bool = False) -> bytes:
        subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, self._name))
        hosts: list[x509.GeneralName] = [x509.DNSName(host)]
        hosts += [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if host == "localhost" else []
        until = datetime.now(UTC) + lasts
        made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), until - timedelta(days=10), until)
        made = made.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
