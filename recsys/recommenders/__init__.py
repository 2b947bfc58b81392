"""Recommenders by name. Importing this module loads neither numba nor scipy nor implicit."""

from recsys.recommenders.base import Reason, Recommender
from recsys.recommenders.neighbours import ItemKNN, P3alpha, RP3beta, UserKNN
from recsys.recommenders.unpersonalised import MostPop, Random

RECOMMENDERS: dict[str, type[Recommender]] = {
    "random": Random,
    "mostpop": MostPop,
    "userknn": UserKNN,
    "itemknn": ItemKNN,
    "p3alpha": P3alpha,
    "rp3beta": RP3beta,
}

__all__ = [
    "RECOMMENDERS",
    "ItemKNN",
    "MostPop",
    "P3alpha",
    "RP3beta",
    "Random",
    "Reason",
    "Recommender",
    "UserKNN",
]
