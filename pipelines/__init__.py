"""What the commands do: the only package that imports both `caption` and `recsys`."""


class InputError(ValueError):
    """Something the user gave is wrong; says what, where, what was expected, and the remedy."""
