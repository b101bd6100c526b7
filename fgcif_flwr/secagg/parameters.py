"""The numbers that a secure sum's safety rests on, and the rules that bind them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fgcif_flwr.errors import CohortError
from fgcif_flwr.secagg import failure_probability
from fgcif_flwr.secagg.failure_probability import RULES, Coordinator
from fgcif_flwr.secagg.fewest_honest import fewest_honest

COMPLETE_UP_TO = 100
"""Most holders among whom the graph is complete unless someone asks otherwise."""


@dataclass(frozen=True)
class SecureSumParameters:
    """Holders, threshold, most dropped, tolerated colluders and graph of one epoch.

    Attributes
    ----------
    holders : int
        Enterprises joined in this epoch (n).
    threshold : int
        Shares that open a secret (t), of the ``neighbours + 1`` into which it is split.
    tolerated_dropouts : int
        Most enterprises that may be called dropped in one slot (d).
    tolerated_colluders : int
        Enterprises that may work with the coordinator (c); at least 1, because every
        enterprise knows its own contribution.
    consistency : bool
        Everyone signs one list of survivors per slot, and gives shares only where a quorum has
        signed the same, so that all honest ones use one list.
    neighbours : int
        With how many others an enterprise shares masks and secrets (k). 0, or anything from
        ``holders - 1`` on, is all of them and stored as ``holders - 1``: the complete graph.

    Raises
    ------
    CohortError
        Complete graph: if ``2t > holders + c`` fails (a lying coordinator could then get two
        disjoint sets of honest enterprises to open both secrets of one victim; Bonawitz et al.
        2017, section 6), or if ``t + d > holders`` (the tolerated loss would leave too few
        shares). k-regular graph: if k or t do not keep the bounds of
        :mod:`fgcif_flwr.secagg.failure_probability`. Either: if a sum over fewer than 2 honest
        enterprises could be opened.
    """

    holders: int
    threshold: int
    tolerated_dropouts: int
    tolerated_colluders: int
    consistency: bool = False
    neighbours: int = 0

    def __post_init__(self) -> None:
        n, d, c = self.holders, self.tolerated_dropouts, self.tolerated_colluders
        if n < 3:
            raise CohortError(f"a secure sum wants at least 3 enterprises; {n} joined")
        if c < 1:
            raise CohortError("secagg.tolerated_colluders: wants at least 1")
        if d < 0:
            raise CohortError("secagg.tolerated_dropouts: wants at least 0")
        if not self.neighbours or self.neighbours >= n:
            object.__setattr__(self, "neighbours", n - 1)
        if self.complete:
            self._check_complete()
        else:
            self._check_regular()

    def _check_complete(self) -> None:
        n, t = self.holders, self.threshold
        d, c = self.tolerated_dropouts, self.tolerated_colluders
        if c > n - 2:
            raise CohortError(
                f"secagg.tolerated_colluders {c}: wants at most {n - 2} of {n} enterprises; a sum "
                "hides one honest enterprise among other honest ones"
            )
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
            ways = ["lower secagg.tolerated_dropouts"] if d else []
            ways += [] if self.consistency else ["set secagg.consistency"]
            ways += ["lower secagg.tolerated_colluders"] if c > 1 else []
            raise CohortError(
                f"with {n} enterprises, threshold {t}, {d} tolerated dropouts and {c} colluders a "
                "lying coordinator could open the vector of a single honest enterprise; "
                f"{', '.join([*ways, 'or let more enterprises join'])}"
            )

    def _check_regular(self) -> None:
        n, t, k = self.holders, self.threshold, self.neighbours
        d, c = self.tolerated_dropouts, self.tolerated_colluders
        if not _leaves_enough(n, d, c, self.consistency):
            raise CohortError(
                f"secagg.tolerated_dropouts {d} and secagg.tolerated_colluders {c} leave too few "
                f"of {n} enterprises; lower one of the two"
            )
        if k % 2 or k < 2:
            raise CohortError(f"secagg.neighbours: wants an even number from 2 on; it is {k}")
        rule = RULES[self.withstands]
        allowed = failure_probability.thresholds(n, d, c, k, rule) if k <= n - d - 2 else range(0)
        if not allowed:
            smallest = failure_probability.smallest_neighbourhood(n, d, c, rule)
            if smallest is None:
                wanted = f"nor will any other below {n - 1}, the complete graph"
            else:
                wanted = f"the smallest number that will is {smallest[0]}"
            raise CohortError(
                f"secagg.neighbours {k} will not do for {n} enterprises, {d} tolerated dropouts "
                f"and {c} colluders against a {self.withstands}; {wanted}; set it, or auto"
            )
        if t not in allowed:
            raise CohortError(
                f"secagg.threshold {t} will not do among {k} neighbours of {n} enterprises, {d} "
                f"tolerated dropouts and {c} colluders against a {self.withstands}; set it to "
                f"{' to '.join(map(str, sorted({allowed.start, allowed.stop - 1})))}, or auto"
            )

    @property
    def complete(self) -> bool:
        """Whether everyone shares masks and secrets with everyone."""
        return self.neighbours == self.holders - 1

    @property
    def shares(self) -> int:
        """Into how many shares a secret is split: the neighbours' and one's own."""
        return self.neighbours + 1

    @property
    def smallest_cohort(self) -> int:
        """Fewest members of a cohort, and fewest survivors whose sum may be read.

        In a complete graph threshold shares must come from them; in a k-regular one everybody
        who is absent or lost counts against d.
        """
        return self.threshold if self.complete else self.holders - self.tolerated_dropouts

    @property
    def quorum(self) -> int:
        """Signatures that a list of survivors wants, more than ``(n + c) / 2``: two such lists
        have more than c signers in common, so an honest one, and it signs once."""
        return (self.holders + self.tolerated_colluders) // 2 + 1

    def honest_if(self, *, consistency: bool) -> int:
        """Return h_min against a coordinator that lies, with the consistency exchange or without;
        1 where nothing better is promised. In a k-regular graph k and t are chosen for it."""
        n, d, c = self.holders, self.tolerated_dropouts, self.tolerated_colluders
        try:
            other = (
                replace(self, consistency=consistency)
                if self.complete
                else SecureSumParameters.choose(n, None, d, c, consistency)
            )
        except CohortError:
            return 1
        return other.honest_in_any_sum if other.withstands == "lying coordinator" else 1

    @property
    def consents(self) -> int:
        """Signatures that an unmask request must show: a quorum in a complete graph, all who may
        not be lost in a k-regular one, where only :attr:`consents_checked` of them are verified."""
        return self.quorum if self.complete else self.holders - self.tolerated_dropouts

    @property
    def consents_checked(self) -> int:
        """Signatures that each enterprise verifies, drawn by itself from those shown.

        Of two lists of survivors one has at most ``v = (n + c) / 2`` signers, since the honest
        sign once. Where that list is shown with ``s = n - d`` signatures, all of r drawn ones
        hold with a chance of at most ``(v / s)^r``; r keeps it below 2^-40 for n enterprises, each
        of which lets itself be asked once a slot.
        """
        if self.complete:
            return self.consents
        most = (self.holders + self.tolerated_colluders) // 2
        rarity = math.log2(self.holders) - math.log2(failure_probability.SECURITY)
        return min(self.consents, math.ceil(rarity / math.log2(self.consents / most)))

    @property
    def withstands(self) -> Coordinator:
        """The worst coordinator under which no sum covers fewer honest ones than h_min: in a
        k-regular graph without the consistency exchange, one that lies could tell an enterprise's
        neighbours other lists than the rest, and open its vector alone."""
        lying = self.complete or self.consistency
        return "lying coordinator" if lying else "semi-honest coordinator"

    @property
    def honest_in_any_sum(self) -> int:
        """h_min: the fewest honest enterprises that any opened sum can cover.

        With the consistency exchange, the fewest survivors less c; in a k-regular graph the same,
        but for the probability that the parameters are chosen by, and only under a coordinator
        as :attr:`withstands` says. In a complete graph without the exchange:

        :func:`fgcif_flwr.secagg.fewest_honest.fewest_honest`.
        """
        n, t = self.holders, self.threshold
        d, c = self.tolerated_dropouts, self.tolerated_colluders
        if self.consistency or not self.complete:
            return max(0, self.smallest_cohort - c)
        return fewest_honest(n, t, d, c)

    @property
    def log2_insecure(self) -> float:
        """log2 of the bound of a drawn graph's failing :attr:`honest_in_any_sum`; -inf: never."""
        if self.complete:
            return -math.inf
        n, d, c = self.holders, self.tolerated_dropouts, self.tolerated_colluders
        k, t = self.neighbours, self.threshold
        return failure_probability.log2_insecure(n, d, c, k, t, self.withstands)

    @property
    def log2_unopened(self) -> float:
        """log2 of the bound of a slot's failing although no more than d are lost; -inf: never."""
        if self.complete:
            return -math.inf
        n, d = self.holders, self.tolerated_dropouts
        return failure_probability.log2_unopened(n, d, self.neighbours, self.threshold)

    def joined(self, holders: int) -> SecureSumParameters:
        """Return the parameters once so many of the ``self.holders`` on the roster have joined.

        Threshold, colluders and neighbours follow the roster, never the number that is said to
        have joined: else a coordinator could tell each victim that it and a few colluders are
        all. Whoever is missing counts against d.

        Raises
        ------
        CohortError
            If more of the roster are missing than may be lost.
        """
        missing, d = self.holders - holders, self.tolerated_dropouts
        if missing == 0:
            return self
        if not 0 < missing <= d:
            raise CohortError(
                f"{holders} of the {self.holders} enterprises on the roster joined; "
                f"secagg.tolerated_dropouts allows {d} to be missing"
            )
        left = min(d, holders - self.threshold) if self.complete else d - missing
        return SecureSumParameters(
            holders,
            self.threshold,
            left,
            self.tolerated_colluders,
            self.consistency,
            0 if self.complete else self.neighbours,
        )

    @classmethod
    def choose(
        cls,
        holders: int,
        threshold: int | None = None,
        tolerated_dropouts: int | None = None,
        tolerated_colluders: int | None = None,
        consistency: bool | None = None,
        neighbours: int | None = None,
    ) -> SecureSumParameters:
        """Fill in what was not set (None), alike at every party.

        c is a tenth, at least 1. The graph is complete up to 100 holders; among more it is the
        smallest k-regular one that keeps the bounds, if one does. The consistency exchange is on
        where the graph is k-regular. In a complete graph d is a tenth, at least 1, lowered where
        the rule does not allow it, and t is what d leaves; in a k-regular one d is a twentieth,
        at least 1, and t the least that is secure.

        Raises
        ------
        CohortError
            As the class; for a number of neighbours that will not do, with the smallest that will.
        """
        n, t = holders, threshold
        c = max(1, n // 10) if tolerated_colluders is None else tolerated_colluders
        d = max(1, n // 20) if tolerated_dropouts is None else tolerated_dropouts
        signed = consistency is not False
        rule = RULES["lying coordinator" if signed else "semi-honest coordinator"]
        k = neighbours
        if k is not None and k < 2:
            raise CohortError(f"secagg.neighbours: wants an even number from 2 on; it is {k}")
        if k is None and n > COMPLETE_UP_TO and c >= 1 and _leaves_enough(n, d, c, signed):
            found = failure_probability.smallest_neighbourhood(n, d, c, rule, t)
            k, t = found or (None, t)
        if k is None or k >= n - 1:
            return cls._choose_complete(n, t, tolerated_dropouts, c, consistency is True)
        possible = k % 2 == 0 and k <= n - d - 2 and c >= 1 and _leaves_enough(n, d, c, signed)
        if t is None and possible:
            t = rule(n, d, c, k)
        return cls(n, 0 if t is None else t, d, c, signed, k)

    @classmethod
    def _choose_complete(
        cls, n: int, t: int | None, dropouts: int | None, c: int, consistency: bool
    ) -> SecureSumParameters:
        if dropouts is not None:
            d, most = dropouts, (n - c - 1) // 2
            if t is None and d > most >= 0:
                raise CohortError(
                    f"secagg.tolerated_dropouts {d} is too high for {n} enterprises and {c} "
                    f"colluders: the most is {most}"
                )
        elif t is not None:
            d = max(0, min(n - t, max(1, n // 10)))
        else:
            d = max(1, n // 10)
            while d > 0 and 2 * (n - d) <= n + c:
                d -= 1
        return cls(n, n - d if t is None else t, d, c, consistency)


def _leaves_enough(n: int, d: int, c: int, consistency: bool) -> bool:
    """Whether a k-regular graph's fewest survivors hold 2 honest ones, and a quorum if asked."""
    survivors = n - d
    return d >= 0 and survivors - c >= 2 and (not consistency or survivors >= (n + c) // 2 + 1)
