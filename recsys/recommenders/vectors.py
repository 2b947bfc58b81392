"""Recommenders that read vectors of the items, by name. Importing this module loads numba."""

from recsys.recommenders.base import Recommender
from recsys.recommenders.content import ContentRecommender, VectorKNN
from recsys.recommenders.hybrid import ContentToALS
from recsys.recommenders.vbpr import VBPR

VECTOR_RECOMMENDERS: dict[str, type[Recommender]] = {
    "content": ContentRecommender,
    "itemknn-vectors": VectorKNN,
    "content-to-als": ContentToALS,
    "vbpr": VBPR,
}
"""Name to class. Each is made as `cls(vectors, valid, encoder=signature, ...)`: vectors (n_items,
dim) float32 in the order of the training items, valid (n_items,) bool or None."""
