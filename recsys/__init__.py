"""Purchases and item vectors to ranked lists: recommenders, encoders, metrics."""


class InputError(ValueError):
    """Something the user gave is wrong; says what, where, what was expected, and the remedy."""
