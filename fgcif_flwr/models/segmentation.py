"""Segments of customers: the space they lie in, their centres, and which one a row belongs to.

A customer's *coordinates* are the chosen numeric features between two released quantiles of each,
in [0, 1], turned so that more is more value. A customer belongs to the nearest centre (k-means,
Lloyd 1982). Everything here is arithmetic of a row and released numbers, so that all enterprises
put equal rows into the same segment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fgcif_flwr.data.encoding import EncodedTable, FeatureLayout
from fgcif_flwr.errors import DataError

Reals = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NOWHERE = -1
"""Label of a customer none of whose chosen features is known."""

CERTAIN = 2.0
"""Standard deviations of its noise above which a number is taken to be more than noise."""

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class ChosenFeature:
    """A numeric feature that segments are made by.

    ``place`` is its column among the encoded numbers; ``lower_is_better`` says that less is more
    value.
    """

    name: str
    place: int
    lower_is_better: bool


@dataclass(frozen=True, eq=False)
class Space:
    """Where coordinates 0 and 1 are, feature by feature, on the encoded scale [0, 1].

    Attributes
    ----------
    low : float64 (features,)
        In [0, 1].
    width : float64 (features,)
        In (0, 1].
    missing_value : float64 (features,)
        Coordinate that stands for a missing value, in [0, 1].
    """

    low: Reals
    width: Reals
    missing_value: Reals

    def coordinates(
        self, chosen: Sequence[ChosenFeature], data: EncodedTable
    ) -> tuple[Reals, Flags]:
        """Return coordinates in [0, 1], (rows, features), and where any value is known, (rows,).

        No value raises; one that is not finite counts as missing.
        """
        places = [feature.place for feature in chosen]
        values = data.numeric[:, places].astype(np.float64)
        known = (data.missing[:, places] == 0) & np.isfinite(values)
        scaled = np.clip((np.where(known, values, 0.0) - self.low) / self.width, 0.0, 1.0)
        reversed_ = np.array([feature.lower_is_better for feature in chosen])
        scaled = np.where(reversed_, 1.0 - scaled, scaled)
        return np.where(known, scaled, self.missing_value), known.any(axis=1)


def nearest(coordinates: Reals, centres: Reals) -> Labels:
    """Return the index of each row's nearest centre, (rows,); the first of equally near ones."""
    labels = np.empty(len(coordinates), np.int64)
    for start in range(0, len(coordinates), _ROWS_AT_ONCE):
        part = coordinates[start : start + _ROWS_AT_ONCE]
        # differences, not the expanded square: no cancellation may decide between near centres
        distances = ((part[:, np.newaxis, :] - centres) ** 2).sum(axis=2)
        labels[start : start + _ROWS_AT_ONCE] = distances.argmin(axis=1)
    return labels


def assign(
    space: Space, centres: Reals, chosen: Sequence[ChosenFeature], data: EncodedTable
) -> Labels:
    """Return each row's segment, int64 (rows,); :data:`NOWHERE` where nothing is known."""
    coordinates, known = space.coordinates(chosen, data)
    return np.where(known, nearest(coordinates, centres), NOWHERE)


def with_labels(data: EncodedTable, target: str, labels: npt.NDArray[np.integer]) -> EncodedTable:
    """Return the rows with these labels of a learned target, (rows,); all else is shared."""
    return replace(data, targets={**data.targets, target: labels.astype(np.int64)})


@dataclass(frozen=True)
class Segment:
    """What is released of one segment.

    Attributes
    ----------
    word : str
        The schema's class.
    name : str
        By rule, from the profile: "high value, cooling down". Left out, ``word``.
    share : float
        Of the customers that were counted, in [0, 1]; under a privacy unit from noisy counts. NaN
        where the profile is not known.
    means : mapping of feature to float
        Mean of each numeric feature on the schema's scale, in the feature's unit; NaN where too
        few values are there to tell. Empty where the profile is not known.
    """

    word: str
    name: str = ""
    share: float = math.nan
    means: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.word)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A learned target: how rows are put into its classes, and what these are like.

    Attributes
    ----------
    target : str
    features : tuple of (name, lower_is_better)
        Chosen features in the coordinates' order.
    space : Space
    centres : float64 (segments, features)
        Most valuable first.
    segments : tuple of Segment
        In the centres' order.
    """

    target: str
    features: tuple[tuple[str, bool], ...]
    space: Space
    centres: Reals
    segments: tuple[Segment, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The segments' names by rule, in the order of the classes."""
        return tuple(segment.name for segment in self.segments)

    def assign(self, layout: FeatureLayout, data: EncodedTable) -> Labels:
        """Return each row's segment, int64 (rows,); :data:`NOWHERE` where nothing is known.

        Raises
        ------
        DataError
            If the layout lacks a feature that segments are made by.
        """
        absent = [name for name, _ in self.features if name not in layout.numeric]
        if absent:
            raise DataError(f"the schema has no numeric feature {absent[0]}, which segments need")
        chosen = [
            ChosenFeature(name, layout.numeric.index(name), lower) for name, lower in self.features
        ]
        return assign(self.space, self.centres, chosen, data)

    def labelled(self, layout: FeatureLayout, data: EncodedTable) -> EncodedTable:
        """Return the rows with the target's labels, by which every enterprise reads them.

        Raises
        ------
        DataError
            As :meth:`assign`.
        """
        return with_labels(data, self.target, self.assign(layout, data))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which :meth:`from_dict` reads back."""
        return {
            "target": self.target,
            "features": [{"name": name, "lower_is_better": lower} for name, lower in self.features],
            "low": self.space.low.tolist(),
            "width": self.space.width.tolist(),
            "missing_value": self.space.missing_value.tolist(),
            "centres": self.centres.tolist(),
            "segments": [
                {
                    "word": one.word,
                    "name": one.name,
                    "share": None if math.isnan(one.share) else one.share,
                    "means": {
                        name: None if math.isnan(value) else value
                        for name, value in one.means.items()
                    },
                }
                for one in self.segments
            ],
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Segmentation:
        """Read what :meth:`as_dict` gave.

        Raises
        ------
        DataError
            If a part is absent, of another kind or form, or beyond its bounds.
        """
        try:
            features = tuple(
                (str(one["name"]), bool(one["lower_is_better"])) for one in tree["features"]
            )
            space = Space(
                *(np.array(tree[key], np.float64) for key in ("low", "width", "missing_value"))
            )
            centres = np.array(tree["centres"], np.float64)
            segments = tuple(
                Segment(
                    str(one["word"]),
                    str(one.get("name", "")),
                    math.nan if one.get("share") is None else float(one["share"]),
                    {
                        str(name): math.nan if value is None else float(value)
                        for name, value in one.get("means", {}).items()
                    },
                )
                for one in tree["segments"]
            )
            target = str(tree["target"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise DataError("the segments are damaged: a part is absent or of no form") from None
        fault = fault_in(space, centres, len(features), len(segments))
        if fault:
            raise DataError(f"the segments are damaged: {fault}")
        return cls(target, features, space, centres, segments)


def fault_in(space: Space, centres: Reals, dimensions: int, segments: int) -> str:
    """Say what is wrong with released numbers of segments; nothing where they are lawful."""
    named = {"low": space.low, "width": space.width, "missing_value": space.missing_value}
    if any(one.shape != (dimensions,) for one in named.values()) or dimensions < 1:
        return "low, width and missing_value want a number for each feature"
    if centres.shape != (segments, dimensions) or segments < 1:
        return "centres want a number for each segment and feature"
    for name, values in (*named.items(), ("centres", centres)):
        if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
            return f"{name} are not within 0 and 1"
    if not (space.width > 0).all():
        return "a width is 0"
    return ""
