"""Making the key of an allocation: a self-signed certificate with its private key, in one file of mode 0600."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from .. import archive
from ..errors import ConfigError, LwfmError
from ..host.private import write_private

VALID_DAYS = 400
"""No allocation lives longer."""
CLOCK_TOLERANCE = timedelta(days=2)
"""Nodes whose clock is behind must not find it of the future."""
NAME = "lwfm allocation"
_OPENSSL_TIMEOUT_S = 30.0


def make_key(path: Path) -> None:
    """Write a new key to ``path``, all or nothing.

    Raises:
        ConfigError: neither the library nor the program that could make one is there, or it cannot be written.
    """
    try:
        content = _made_by_library()
    except (ImportError, LwfmError) as why:
        content = _made_by_program(why)
    try:
        write_private(path, content)
    except OSError as error:
        raise ConfigError(f"cannot write the key {path}: {error.strerror}") from error


def _made_by_library() -> bytes:
    archive.provide("ssh")  # cryptography comes with it
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    secret = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return secret + certificate.public_bytes(serialization.Encoding.PEM)


def _made_by_program(why: Exception) -> bytes:
    """The same by openssl(1), where the library does not load."""
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError(
            f"no key can be made for the channel between the nodes: {why}", hint="install openssl, or use one node only"
        )
    with tempfile.TemporaryDirectory() as directory:
        secret, certificate = Path(directory, "key"), Path(directory, "certificate")
        words = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        words += ["-keyout", str(secret), "-out", str(certificate), "-days", str(VALID_DAYS), "-subj", f"/CN={NAME}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=_OPENSSL_TIMEOUT_S, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(f"openssl could not make a key for the channel between the nodes: {last}")
        return secret.read_bytes() + certificate.read_bytes()
