"""The numbers that a secure sum's safety rests on, and the rule that binds them."""

from __future__ import annotations

from dataclasses import dataclass

from fgcif_flwr.errors import CohortError


@dataclass(frozen=True)
class SecureSumParameters:
    """Holders, threshold, most dropped and tolerated colluders of one epoch.

    Attributes
    ----------
    holders : int
        Enterprises joined in this epoch; each holds a share of every other's secrets.
    threshold : int
        Shares that open a secret (t).
    tolerated_dropouts : int
        Most enterprises that may be called dropped in one slot (d).
    tolerated_colluders : int
        Enterprises that may work with the coordinator (c); at least 1, because every
        enterprise knows its own contribution.

    Raises
    ------
    CohortError
        If ``2t > holders + c`` fails (a lying coordinator could then get two disjoint sets of
        honest enterprises to open both secrets of one victim; Bonawitz et al. 2017, section 6),
        or if ``t + d > holders`` (the tolerated loss would leave too few shares).
    """

    holders: int
    threshold: int
    tolerated_dropouts: int
    tolerated_colluders: int

    def __post_init__(self) -> None:
        n, t, d, c = (
            self.holders,
            self.threshold,
            self.tolerated_dropouts,
            self.tolerated_colluders,
        )
        if n < 3:
            raise CohortError(f"a secure sum wants at least 3 enterprises; {n} joined")
        if c < 1:
            raise CohortError("secagg.tolerated_colluders: wants at least 1")
        if d < 0:
            raise CohortError("secagg.tolerated_dropouts: wants at least 0")
        if not c < t <= n:
            raise CohortError(
                f"secagg.threshold: wants more than the {c} colluders and at most the {n} "
                f"enterprises; it is {t}"
            )
        if 2 * t <= n + c:
            raise CohortError(
                f"secagg.threshold {t} is too low for {n} enterprises and {c} colluders: "
                f"2 x threshold must exceed {n + c}; set it to at least {(n + c) // 2 + 1}"
            )
        if t + d > n:
            raise CohortError(
                f"secagg.tolerated_dropouts {d} leaves {n - d} of {n} enterprises, fewer than "
                f"the threshold {t}; lower one of the two, or let more enterprises join"
            )
        if self.honest_in_any_sum < 2:
            raise CohortError(
                f"with {n} enterprises, threshold {t}, {d} tolerated dropouts and {c} colluders a "
                "lying coordinator could open the vector of a single honest enterprise; lower "
                "secagg.tolerated_dropouts or let more enterprises join"
            )

    @property
    def smallest_cohort(self) -> int:
        """Fewest survivors whose sum may be read: threshold shares must come from them."""
        return self.threshold

    @property
    def honest_in_any_sum(self) -> int:
        """h_min: the fewest honest enterprises that any opened sum can cover.

        A lying coordinator chooses the cohort (m members, at least t), and may tell each of them
        another legal list of the dropped; those outside it may be told of a larger cohort. To
        open a sum over hin - k of the hin = m - c honest members it must learn, for every one of
        them, t - c honest shares of its self mask, and for each of the k hidden ones as many of
        its round key; an honest enterprise gives one kind of share of each member, and names at
        most d of them as dropped. The largest k that this bookkeeping allows is the worst case.
        Where t = n - d it is ``h - floor(h * d / (t - c))`` of the whole cohort, h = n - c.
        """
        n, t, c = self.holders, self.threshold, self.tolerated_colluders
        least = n
        for members in range(t, n + 1):
            inside, outside = members - c, n - members
            a = min(self.tolerated_dropouts, members - t)
            b = min(self.tolerated_dropouts, n - t)
            hidden = 0
            while hidden < inside and (
                (inside - hidden - 1) * min(a, hidden + 1)
                + (hidden + 1) * min(a, hidden)
                + outside * min(b, hidden + 1)
                >= (t - c) * (hidden + 1)
            ):
                hidden += 1
            least = min(least, inside - hidden)
        return max(0, least)

    @classmethod
    def choose(
        cls,
        holders: int,
        threshold: int | None = None,
        tolerated_dropouts: int | None = None,
        tolerated_colluders: int | None = None,
    ) -> SecureSumParameters:
        """Fill in what was not set: c and d are a tenth (at least 1), t is what d leaves.

        A d that the rule does not allow is lowered when it was not set by anyone.
        """
        c = max(1, holders // 10) if tolerated_colluders is None else tolerated_colluders
        if tolerated_dropouts is not None:
            d = tolerated_dropouts
        elif threshold is not None:
            d = max(0, min(holders - threshold, max(1, holders // 10)))
        else:
            d = max(1, holders // 10)
            while d > 0 and 2 * (holders - d) <= holders + c:
                d -= 1
        t = holders - d if threshold is None else threshold
        return cls(holders, t, d, c)
