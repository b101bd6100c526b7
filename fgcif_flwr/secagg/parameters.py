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

    @property
    def smallest_cohort(self) -> int:
        """Fewest survivors whose sum may be read: threshold shares must come from them."""
        return self.threshold

    @property
    def honest_in_any_sum(self) -> int:
        """h_min: the fewest honest enterprises that any opened sum can cover.

        A lying coordinator may tell each enterprise another legal list of the dropped. With
        h = m - c honest members of a cohort of m, each list of d names may hide d of them, and
        t - c honest answers must agree on every member that is opened:
        ``h_min = h - floor(h * d / (t - c))``. The coordinator chooses the cohort, so the least
        over all cohorts from t to all holders counts; of m members at most m - t can be dropped.
        """
        t, c = self.threshold, self.tolerated_colluders
        least = self.holders
        for cohort in range(t, self.holders + 1):
            honest = cohort - c
            dropped = min(self.tolerated_dropouts, cohort - t)
            least = min(least, honest - honest * dropped // (t - c))
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
