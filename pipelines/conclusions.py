"""What a run found, in plain words, and how sure it is: sentences computed from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pipelines.results import BASELINES, CATALOGUE, Results, label
from pipelines.tables import Estimate, Missing, interval, number

SIGNIFICANT = 0.05
"""Holm-adjusted p-values below this count as shown."""
DOINGS = {
    "fill": "Filling missing descriptions with captions",
    "caption": "Replacing descriptions by captions",
    "both": "Adding captions to the descriptions",
    "shuffled": "Giving articles the captions of others",
    "metadata": "Replacing descriptions by the article's own fields",
    "none": "Taking all text away",
}
CAVEAT = (
    "Intervals are 95 % bootstrap intervals over articles or customers of one test period, and "
    "p-values are corrected for the number of comparisons (Holm). They do not cover what another "
    "training run, seed, shop or season would change."
)


@dataclass(frozen=True)
class Conclusion:
    """One finding."""

    subject: Literal["captions", "audit", "recommendation", "text"]
    figure: str
    """The number that stands for it."""
    unit: str
    """What the number is."""
    sentence: str
    certainty: Literal["shown", "not shown", "measured"]
    """A difference beyond chance; one that may be chance; a value without a comparison."""


def conclusions(results: Results) -> list[Conclusion]:
    """Everything the run can say, most important first; empty for an empty run."""
    return [
        *_captions(results),
        *_audit(results),
        *_ranking(results),
        *_texts(results),
    ]


def significant(row: Mapping[str, Any]) -> bool:
    """Whether a comparison shows a difference (adjusted p-value and interval agree)."""
    p = row.get("p_adjusted", row.get("p_holm"))
    low, high = row["low"], row["high"]
    if p is None or math.isnan(p) or low is None or high is None:
        return False
    return bool(p < SIGNIFICANT and (low > 0 or high < 0))


def p_text(p: float | None) -> str:
    """A p-value as it is read: never a naked 0."""
    if p is None or math.isnan(p):
        return "no p-value"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _captions(results: Results) -> Iterator[Conclusion]:
    metric, own = results.headline(), results.captioner
    if metric is None or own is None or not isinstance(_score(results, own, metric), Estimate):
        return
    value = _score(results, own, metric)
    assert isinstance(value, Estimate)
    name, n = label(metric), results.references
    where = (
        f" on {n['article_id'].n_unique():,} articles kept from training" if n is not None else ""
    )
    before = _score(results, "pretrained", metric)
    if own != "pretrained" and isinstance(before, Estimate):
        pair = _pair(results, own, "pretrained", metric)
        change = "changed"
        sure: Literal["shown", "not shown", "measured"] = "measured"
        evidence = ""
        if pair is not None:
            sure = "shown" if significant(pair) else "not shown"
            evidence = f" ({_evidence(pair)})"
            change = "improved" if pair["difference"] > 0 else "worsened"
        verdict = (
            f"Fine-tuning {change} the captions"
            if sure != "not shown"
            else "No effect of fine-tuning on the captions could be shown"
        )
        yield Conclusion(
            "captions",
            number(value.value, 2),
            f"{name} of the {own} captioner",
            f"{verdict}: {name} went from {number(before.value, 3)} to {number(value.value, 3)}"
            f"{where}{evidence}.",
            sure,
        )
    else:
        yield Conclusion(
            "captions",
            number(value.value, 2),
            f"{name} of the {own} captioner",
            f"The {own} captioner reaches {name} {number(value.value, 3)}{where}.",
            "measured",
        )
    known = {b: s for b in BASELINES if isinstance(s := _score(results, b, metric), Estimate)}
    if not known:
        return
    best = max(known, key=lambda b: known[b].value)
    pair = _pair(results, own, best, metric)
    if pair is None:
        return
    shown = significant(pair)
    verb = "beats" if pair["difference"] > 0 else "stays behind"
    start = f"It {verb}" if shown else "It can't be told apart from"
    yield Conclusion(
        "captions",
        number(pair["difference"], 2, signed=True),
        f"{name} against {best}",
        f"{start} the best method without a language model, {best} "
        f"({name} {number(known[best].value, 3)}; {_evidence(pair)}).",
        "shown" if shown else "not shown",
    )


def _audit(results: Results) -> Iterator[Conclusion]:
    rates = results.audit.get(CATALOGUE)
    if not rates:
        return
    wrong = {
        field: rate["contradicting"] for field, rate in rates.items() if rate["contradicting"]["n"]
    }
    if not wrong:
        return
    worst = max(wrong, key=lambda field: wrong[field]["value"])
    parts = ", ".join(
        f"{field} {number(100 * rate['value'], 1)} % "
        f"{interval(Estimate(0, 100 * rate['low'], 100 * rate['high']), 1)}"
        for field, rate in wrong.items()
    )
    n = int(max(rate["n"] for rate in wrong.values()))
    yield Conclusion(
        "audit",
        f"{number(100 * wrong[worst]['value'], 1)} %",
        f"of captions contradict the article's {worst}",
        f"Of {n:,} captions written for the catalogue, these shares contradict what the shop knows "
        f"of the article: {parts}.",
        "measured",
    )


def _ranking(results: Results) -> Iterator[Conclusion]:
    metric = results.ranking_metric()
    if metric is None:
        return
    ranked = results.estimates(metric)
    (name, setting), best = next(iter(ranked.items()))
    text = f" with text setting “{setting}”" if setting != "-" else ""
    sentence = (
        f"Of {len({n for n, _ in ranked})} recommenders, {name}{text} ranks the next purchases "
        f"best: {label(metric)} {number(best.value, 4)} {interval(best, 4)}"
    )
    for other in ("mostpop", "random"):
        if (other, "-") in ranked and name != other:
            value = ranked[other, "-"]
            sentence += f"; {other} reaches {number(value.value, 4)} {interval(value, 4)}"
            break
    texts = {key: value for key, value in ranked.items() if key[1] != "-"}
    sentence += "."
    if texts and setting == "-":
        (reader, how), value = next(iter(texts.items()))
        sentence += (
            f" The best of those that read the article texts is {reader} (“{how}”) with "
            f"{number(value.value, 4)} {interval(value, 4)}."
        )
    yield Conclusion(
        "recommendation", number(best.value, 3), f"{label(metric)} of {name}", sentence, "measured"
    )


def _texts(results: Results) -> Iterator[Conclusion]:
    metric = results.ranking_metric()
    if results.differences is None or metric is None:
        return
    rows = results.differences.filter(pl.col("metric") == metric)
    values = results.estimates(metric)
    for (setting, against), part in rows.group_by(["setting", "against"], maintain_order=True):
        found = part.to_dicts()
        largest = max(found, key=lambda row: abs(row["difference"]))
        doing = DOINGS.get(str(setting), f"Text setting “{setting}”")
        shown = [row for row in found if significant(row)]
        unit = f"largest change of {label(metric)}, “{setting}” against “{against}”"
        figure = number(largest["difference"], 4, signed=True)
        if shown:
            said = "; ".join(f"{row['recommender']} {_evidence(row, 4)}" for row in shown)
            rest = len(found) - len(shown)
            sentence = f"{doing} changed {label(metric)} for {said}." + (
                f" No effect is shown for {_those(rest, 'other ')}." if rest else ""
            )
            yield Conclusion("text", figure, unit, sentence, "shown")
            continue
        sentence = (
            f"{doing}: no effect shown for {_those(len(found))}; "
            f"the largest change of {label(metric)} is {_evidence(largest, 4)} for "
            f"{largest['recommender']}."
        )
        sizes = [row["detectable"] for row in found if _finite(row["detectable"])]
        if sizes:
            base = [values[row["recommender"], row["against"]].value for row in found]
            share = max(sizes) / (sum(base) / len(base)) if sum(base) else math.nan
            ends = sorted({number(min(sizes), 4), number(max(sizes), 4)})
            sentence += (
                f" These {largest['n_users']:,} customers would have shown a change of "
                f"{' to '.join(ends)} four times out of five"
                + (f" (up to {share:.0%} of the value)" if math.isfinite(share) else "")
                + "; a smaller one may exist unseen."
            )
        yield Conclusion("text", figure, unit, sentence, "not shown")


def _those(n: int, other: str = "") -> str:
    if n == 1:
        return f"the one {other}recommender that reads text"
    return f"any of the {n} {other}recommenders that read text"


def _score(results: Results, captioner: str, metric: str) -> Estimate | Missing | None:
    return results.scores.get(captioner, {}).get(metric)


def _pair(results: Results, own: str, against: str, metric: str) -> dict[str, Any] | None:
    for pair in results.comparisons:
        if (pair["captioner"], pair["against"], pair["metric"]) == (own, against, metric):
            return pair
    return None


def _evidence(row: Mapping[str, Any], decimals: int = 3) -> str:
    difference = Estimate(row["difference"], row["low"], row["high"])
    p = row.get("p_adjusted", row.get("p_holm"))
    return (
        f"{number(difference.value, decimals, signed=True)} "
        f"{interval(difference, decimals, signed=True)}, {p_text(p)}"
    )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
