"""Recommenders by name. Importing this module loads neither numba nor scipy nor implicit."""

from recsys.recommenders.base import Reason, Recommender
from recsys.recommenders.factors import ALS, BPR, EASE
from recsys.recommenders.hybrid import Blend, Repurchase
from recsys.recommenders.neighbours import ItemKNN, P3alpha, RP3beta, UserKNN
from recsys.recommenders.unpersonalised import MostPop, Random

RECOMMENDERS: dict[str, type[Recommender]] = {
    "random": Random,
    "mostpop": MostPop,
    "userknn": UserKNN,
    "itemknn": ItemKNN,
    "p3alpha": P3alpha,
    "rp3beta": RP3beta,
    "ease": EASE,
    "als": ALS,
    "bpr": BPR,
    "repurchase": Repurchase,
    "blend": Blend,
}
"""Name to class; all but `blend`, which takes its parts, can be made without arguments. Content
recommenders take the vectors of the items: `recsys.recommenders.content.ContentRecommender`."""

__all__ = [
    "ALS",
    "BPR",
    "EASE",
    "RECOMMENDERS",
    "Blend",
    "ItemKNN",
    "MostPop",
    "P3alpha",
    "RP3beta",
    "Random",
    "Reason",
    "Recommender",
    "Repurchase",
    "UserKNN",
]
