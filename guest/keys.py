"""The SSH keys of one bed, made for it and thrown away with it. Knows OpenSSH's file formats, opens no connection.

The guest's host key is made here, too, before the guest exists: so the client knows whom to expect and trusts nobody
blindly.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair. private: in OpenSSH's PEM form; public: one line as in authorized_keys."""

    private: bytes
    public: bytes


def make_key() -> KeyPair:
    """A fresh ed25519 key pair from the system's random source."""
    key = Ed25519PrivateKey.generate()
    return KeyPair(
        private=key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
        public=key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n",
    )


def guest_files(hostname: str, client_public: bytes, host_key: KeyPair) -> dict[str, bytes]:
    """What a guest needs to be reached: path in the guest -> content, for `write_initrd`."""
    return {
        "/etc/hostname": hostname.encode() + b"\n",
        "/etc/ssh/ssh_host_ed25519_key": host_key.private,
        "/root/.ssh/authorized_keys": client_public,
    }
