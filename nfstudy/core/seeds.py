"""Seeds hashed from a purpose and the axes that should matter, so that one more family or worker shifts no other."""

import hashlib


def derive_seed(base: int, purpose: str, *axes: str | int) -> int:
    """Return the seed of one random stream.

    seed = first 63 bits of SHA-256(base, purpose, axes...), each part length-prefixed.

    Streams with different purposes or axes are independent for all practical uses; the same call always gives the
    same seed, on every machine and Python version (unlike `hash`).

    Arguments:
        base: the study's `seed`.
        purpose: what the stream is for, such as "data order" or "initialisation".
        axes: the names or indices the stream may depend on, such as the repetition or the epoch.
    """
    digest = hashlib.sha256()
    for part in (str(base), purpose, *(str(axis) for axis in axes)):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
