"""The text an article has under a named setting: the only thing that differs between settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipelines import InputError

_SETTINGS: dict[str, Callable[[str | None, str | None], str | None]] = {
    "original": lambda human, machine: human,
    "caption": lambda human, machine: machine,
    "fill": lambda human, machine: human or machine,
    "both": lambda human, machine: " ".join(t for t in (human, machine) if t) or None,
}


def article_texts(
    article_ids: list[str],
    descriptions: list[str | None],
    captions: Mapping[str, str],
    setting: str,
) -> list[str | None]:
    """Per article its text under `setting`, None where it has none.

    Args:
        article_ids: (n,) ids.
        descriptions: (n,) human descriptions, None where missing.
        captions: article_id -> machine caption.
        setting: `original` (human), `caption` (machine), `fill` (human, or the machine's where
            there is none), `both` (human then machine).

    Raises:
        InputError: unknown setting.
    """
    if setting not in _SETTINGS:
        raise InputError(
            f"text setting {setting!r} is unknown: expected one of {', '.join(_SETTINGS)}"
        )
    choose = _SETTINGS[setting]
    return [
        choose(human, captions.get(article_id))
        for article_id, human in zip(article_ids, descriptions, strict=True)
    ]
