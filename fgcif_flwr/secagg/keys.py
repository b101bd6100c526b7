"""Keys: identities (Ed25519), agreement (X25519), derivation (HKDF-SHA256), sealing (AES-GCM).

Three kinds of key pair, never one for the other's purpose:

* the *identity* key of an enterprise, pinned in the roster, signs what it says at join;
* the *channel* key, one an epoch, under which shares are sealed between two enterprises;
* the *round* key, one a slot, from which pairwise masks come. Opening a dropped enterprise's
  round key opens nothing of another slot and no sealed share.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fgcif_flwr.errors import AuthenticationError

KEY_BYTES = 32
TAG_BYTES = 16
SIGNATURE_BYTES = 64

_FIELD = 2**255 - 19
_OF_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y-coordinates of the points of order 1, 2, 4 and 8; both signs of x belong to them.
_SMALL_ORDER = frozenset({0, 1, _FIELD - 1, _OF_ORDER_8, _FIELD - _OF_ORDER_8})
_THROWAWAY = bytes(range(32))  # agrees on nothing; only tells valid keys from invalid ones

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, repr=False)
class KeyPair:
    """A private key (32 raw bytes) and its public key (32 raw bytes)."""

    private: bytes
    public: bytes

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()})"


def identity_from_seed(seed: bytes) -> KeyPair:
    """Return the Ed25519 pair (RFC 8032) of a 32-byte seed."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return KeyPair(seed, public)


def agreement_from_seed(seed: bytes) -> KeyPair:
    """Return the X25519 pair (RFC 7748) of a 32-byte seed."""
    public = X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return KeyPair(seed, public)


def sign(identity: KeyPair, message: bytes) -> bytes:
    """Sign with Ed25519 (64 bytes)."""
    return Ed25519PrivateKey.from_private_bytes(identity.private).sign(message)


def identifies(public: bytes) -> bool:
    """Whether an Ed25519 public key can stand for an enterprise.

    Not so for the points of small order (under which one signature holds for every message) and
    for encodings that are not canonical; RFC 8032, section 5.1.3, and the eight torsion points.
    """
    if len(public) != KEY_BYTES:
        return False
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    return y < _FIELD and y not in _SMALL_ORDER


def verify(public: bytes, signature: bytes, message: bytes, who: str) -> None:
    """Raise AuthenticationError naming ``who`` unless the signature is theirs."""
    if not signed(public, signature, message):
        raise AuthenticationError(f"the signature of {who} does not match the roster")


@lru_cache(maxsize=4096)  # in a simulation every enterprise of a process checks the same joins
def signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_agreement(private: bytes) -> X25519PrivateKey:
    """Load an X25519 private key once, for many agreements."""
    return X25519PrivateKey.from_private_bytes(private)


def agree(private: X25519PrivateKey, public: bytes, context: bytes) -> bytes:
    """Return HKDF-SHA256 of the X25519 secret with ``context`` as info (32 bytes; RFC 5869)."""
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # wrong length, or an all-zero secret from a key of low order
        raise AuthenticationError("a peer's agreement key is not a valid X25519 key") from None
    return derive(shared, context)


def contributory(public: bytes) -> bool:
    """Whether an agreement with this public key has a secret: not so for keys of low order."""
    try:
        load_agreement(_THROWAWAY).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def derive(secret: bytes, context: bytes) -> bytes:
    """Return HKDF-SHA256(secret, info=context), 32 bytes."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=context).derive(secret)


def expand_salt(key: bytes, nonce: bytes, kind: int, size: int) -> bytes:
    """Return the first ``size`` (at most 32) bytes of HMAC-SHA256(key, nonce, kind)."""
    return hmac.digest(key, nonce + bytes([kind]), "sha256")[:size]


def authenticate(key: bytes, message: bytes) -> bytes:
    """Return the first 16 bytes of HMAC-SHA256(key, message)."""
    return hmac.digest(key, message, "sha256")[:TAG_BYTES]


def seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt under AES-256-GCM; the 12-byte ``nonce`` must be new for the key."""
    return AESGCM(key).encrypt(nonce, plaintext, associated)


def unseal(key: bytes, nonce: bytes, sealed: bytes, associated: bytes, who: str) -> bytes:
    """Decrypt; AuthenticationError naming ``who`` if anything that was bound differs."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise AuthenticationError(
            f"the shares from {who} are not for this run, slot, round key or receiver"
        ) from None
