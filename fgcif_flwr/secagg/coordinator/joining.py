"""Join: which replies hold, and the epoch that they make."""

from __future__ import annotations

from collections.abc import Sequence

from fgcif_flwr.errors import AuthenticationError
from fgcif_flwr.secagg.epoch import verify_join
from fgcif_flwr.secagg.keys import contributory
from fgcif_flwr.secagg.messages import JoinReply, Manifest


def valid_joins(
    manifest: Manifest, joins: Sequence[JoinReply]
) -> tuple[list[JoinReply], list[AuthenticationError]]:
    """Return the joins that hold, and what is wrong with the others: a coordinator leaves those
    out, where an enterprise that is shown one refuses
    (:func:`fgcif_flwr.secagg.epoch.fix_epoch`)."""
    good: list[JoinReply] = []
    wrong: list[AuthenticationError] = []
    for join in joins:
        try:
            verify_join(manifest, join)
            if not contributory(join.channel_public):
                raise AuthenticationError(
                    f"the channel key of {join.name} is not a valid X25519 key"
                )
            good.append(join)
        except AuthenticationError as error:
            wrong.append(error)
    return good, wrong
