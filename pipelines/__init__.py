"""What the commands do: the only package that imports both `caption` and `recsys`."""


class InputError(ValueError):
    """Something the user gave is wrong; says what, where, what was expected, and the remedy."""

    def __init__(self, message: str) -> None:
        # A table of thousands of columns, a line of megabytes: both ends say what there is to say.
        whole = len(message) <= 1500
        super().__init__(message if whole else f"{message[:1000]} [...] {message[-400:]}")
