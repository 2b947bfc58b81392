"""Photos to words: captioners, their training, and the scores of what they write."""


class InputError(ValueError):
    """Something the user gave is wrong; says what, where, what was expected, and the remedy."""
