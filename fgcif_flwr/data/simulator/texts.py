"""What customers write to service: a few templates, by topic and sentiment."""

from __future__ import annotations

from functools import cache

import numpy as np

from fgcif_flwr.data.simulator.enterprises import Ints
from fgcif_flwr.data.simulator.records import SENTIMENTS, TOPICS, Interactions

_SUBJECTS = {
    "delivery": ("my delivery", "the parcel I ordered", "the delivery date"),
    "billing": ("my last invoice", "the amount you charged", "my payment"),
    "quality": ("the product I bought", "the quality of my order", "the item I received"),
    "account": ("my account", "my login", "my contract details"),
    "advice": ("the offer on your site", "the choice between two products", "your advice"),
}
_SENTENCES = {
    "negative": (
        "I am disappointed with {}. Nobody has helped me so far.",
        "This is the second time I complain about {}. Please solve it.",
        "There is a serious problem with {} and I am thinking of leaving.",
    ),
    "neutral": (
        "I have a question about {}.",
        "Could you send me some information about {}?",
        "Please check {} and let me know.",
    ),
    "positive": (
        "Thank you, I am very happy with {}.",
        "Just a word of praise about {}: well done.",
        "Everything was quick and friendly; {} is perfect now.",
    ),
}
_SUBJECT_COUNT = 3
_SENTENCE_COUNT = 3


@cache
def all_texts() -> tuple[str, ...]:
    """Return every text, ordered by topic, sentiment, subject and sentence."""
    return tuple(
        sentence.format(subject)
        for topic in TOPICS
        for sentiment in SENTIMENTS
        for subject in _SUBJECTS[topic]
        for sentence in _SENTENCES[sentiment]
    )


def draw_texts(rng: np.random.Generator, interactions: Interactions) -> Ints:
    """Return an index into :func:`all_texts` for every interaction, shape (interactions,)."""
    total = len(interactions.customer)
    subject = rng.integers(_SUBJECT_COUNT, size=total)
    sentence = rng.integers(_SENTENCE_COUNT, size=total)
    kind = interactions.topic * len(SENTIMENTS) + interactions.sentiment
    index: Ints = (kind * _SUBJECT_COUNT + subject) * _SENTENCE_COUNT + sentence
    return index
