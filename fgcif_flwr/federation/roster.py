"""Identity and roster from files, as agreed out of band."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fgcif_flwr.errors import ConfigurationError
from fgcif_flwr.secagg.keys import KEY_BYTES, KeyPair, identity_from_seed

Roster = tuple[tuple[str, bytes], ...]
FilePath = str | os.PathLike[str]


def load_identity(path: FilePath) -> KeyPair:
    """Return the Ed25519 key pair of a file: 32 raw bytes (the seed), or PEM without a password.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or holds neither.
    """
    data = _read(path, "identity")
    if len(data) == KEY_BYTES:
        return identity_from_seed(data)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # says nothing of what stands there
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"the identity {path} is neither an Ed25519 seed of {KEY_BYTES} bytes nor an Ed25519 "
            "private key in PEM without a password"
        )
    return identity_from_seed(key.private_bytes_raw())


def load_roster(path: FilePath) -> Roster:
    """Return names and Ed25519 public keys, in the order of names.

    The file is a JSON object of one 64-digit hexadecimal key for each name.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, is no such object, or repeats a name or a key.
    """
    wrong = ConfigurationError(
        f"the roster {path} wants to be a JSON object that gives each name a public key of its "
        f"own of {2 * KEY_BYTES} hexadecimal digits"
    )
    try:
        pairs = json.loads(_read(path, "roster"), object_pairs_hook=list)
        roster = tuple(sorted((str(name), bytes.fromhex(key)) for name, key in pairs))
    except (ValueError, TypeError, RecursionError):
        raise wrong from None
    names, keys = {name for name, _ in roster}, {key for _, key in roster}
    if not roster or len(names) < len(roster) or len(keys) < len(roster):
        raise wrong
    if any(len(key) != KEY_BYTES for key in keys):
        raise wrong
    return roster


def _read(path: FilePath, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the {what} {path} cannot be read: {error.strerror}") from None
