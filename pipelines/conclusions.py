"""What a run found, in plain words, and how sure it is: sentences computed from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pipelines.results import BASELINES, CATALOGUE, Results, label
from pipelines.tables import Estimate, interval, number

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
    """What was found, in plain words."""
    evidence: str
    """Interval, p-value, and what the data could have shown."""
    certainty: Literal["shown", "not shown", "measured"]
    """A difference beyond chance; one that may be chance; a value without a comparison."""


def conclusions(
    results: Results, reach: Mapping[str, tuple[int, int]] | None = None
) -> list[Conclusion]:
    """Everything the run can say, most important first; empty for an empty run.

    Args:
        results: what the run holds.
        reach: text setting -> how many articles it gives another text, of how many.
    """
    return [
        *_captions(results),
        *_audit(results),
        *_ranking(results),
        *_texts(results, reach or {}),
    ]


def opening(results: Results, *, is_demo: bool) -> str:
    """What was found and how sure it is, in one paragraph that names no metric; "" without results.

    Args:
        results: what the run holds.
        is_demo: the catalogue is drawn, the networks are tiny.
    """
    said = [*_plain_texts(results), *_plain_captions(results), *_plain_audit(results)]
    if said:
        said.append(
            "All of it comes from the demo, a drawn catalogue and tiny networks, and shows the way "
            "rather than what a shop may expect."
            if is_demo
            else "All of it comes from one run on one shop’s articles; another season or seed can "
            "differ by more than the intervals below."
        )
    return " ".join(said)


def _plain_texts(results: Results) -> Iterator[str]:
    metric = results.ranking_metric()
    if results.differences is None or metric is None:
        return
    rows = results.differences.filter(pl.col("metric") == metric)
    values = results.estimates(metric)
    for (setting, _), part in rows.group_by(["setting", "against"], maintain_order=True):
        found = part.to_dicts()
        doing = DOINGS.get(str(setting), f"The text setting “{setting}”")
        up = sum(significant(row) and row["difference"] > 0 for row in found)
        down = sum(significant(row) and row["difference"] < 0 for row in found)
        among = f" of the {len(found)} recommenders that read text" if len(found) > 1 else ""
        if up or down:
            parts = [f"better for {up}"] * bool(up) + [f"worse for {down}"] * bool(down)
            yield f"{doing} made recommendations {_and(parts)}{among}, and not by chance."
            continue
        sentence = (
            f"{doing} made no difference to recommendations that could be told from chance, for "
            f"{'any' + among if among else 'the recommender that reads text'}"
        )
        sizes = [row["detectable"] for row in found if _finite(row["detectable"])]
        base = sum(values[row["recommender"], row["against"]].value for row in found) / len(found)
        if sizes and max(sizes) > 0 and base > 0:
            sentence += (
                f"; with {found[0]['n_users']:,} customers to test on, a change of less than about "
                f"{100 * max(sizes) / base:.0f} % would go unnoticed, so that is no proof of none"
            )
        yield sentence + "."


def _plain_captions(results: Results) -> Iterator[str]:
    metric, own = results.headline(), results.captioner
    if metric is None or own is None:
        return
    gain = _pair(results, own, "pretrained", metric)
    known = {
        b: score.value
        for b in BASELINES
        if b != own and isinstance(score := results.scores.get(b, {}).get(metric), Estimate)
    }
    best = max(known, key=lambda b: known[b], default="")
    against = _pair(results, own, best, metric)
    sentence = ""
    if gain is not None:
        sentence = "Fine-tuning did not change the captions beyond chance"
        if significant(gain):
            how = "closer to" if gain["difference"] > 0 else "further from"
            sentence = f"Fine-tuning brought the captions {how} what people wrote, beyond chance"
    if against is not None:
        told = significant(against)
        verdict = (
            "are better than"
            if told and against["difference"] > 0
            else "are worse than"
            if told
            else "can’t be told apart from"
        )
        link = "; they" if sentence else "The captions"
        sentence += f"{link} {verdict} what the best method without a language model, {best}, gives"
    if sentence:
        yield sentence + "."


def _plain_audit(results: Results) -> Iterator[str]:
    wrong = {
        field: rate["contradicting"]["value"]
        for field, rate in results.audit.get(CATALOGUE, {}).items()
        if rate["contradicting"]["n"]
    }
    if not wrong:
        return
    worst = max(wrong, key=lambda field: wrong[field])
    in_hundred = round(100 * wrong[worst])
    if in_hundred:
        yield (
            f"About {in_hundred} of 100 captions name another {worst} than the article has: what a "
            "shop shows to people should be checked first."
        )
    else:
        yield "Hardly any caption contradicts what the shop knows of the article."


def significant(row: Mapping[str, Any]) -> bool:
    """Whether a comparison shows a difference (adjusted p-value and interval agree)."""
    p = row.get("p_adjusted", row.get("p_holm"))
    low, high = row["low"], row["high"]
    if p is None or math.isnan(p) or low is None or high is None:
        return False
    return bool(p < SIGNIFICANT and (low > 0 or high < 0))


def p_value(p: float | None) -> str:
    """A p-value as it is read: never a naked 0."""
    if p is None or math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _captions(results: Results) -> Iterator[Conclusion]:
    metric, own = results.headline(), results.captioner
    if metric is None or own is None:
        return
    value = results.scores.get(own, {}).get(metric)
    if not isinstance(value, Estimate):
        return
    name, texts = label(metric), results.references
    where = (
        ""
        if texts is None
        else f"on {texts['article_id'].n_unique():,} articles kept from training, "
    )
    now, figure = number(value.value, 3), number(value.value, 2)
    unit = f"{name} of the {own} captioner"
    before = results.scores.get("pretrained", {}).get(metric)
    pair = _pair(results, own, "pretrained", metric)
    if own != "pretrained" and isinstance(before, Estimate) and pair is not None:
        shown = significant(pair)
        verdict = "No effect of fine-tuning on the captions is shown"
        if shown:
            change = "improved" if pair["difference"] > 0 else "worsened"
            verdict = f"Fine-tuning {change} the captions"
        yield Conclusion(
            "captions",
            figure,
            unit,
            f"{verdict}: {where}{name} went from {number(before.value, 3)} to {now}.",
            _evidence(pair),
            "shown" if shown else "not shown",
        )
    else:
        sentence = f"The {own} captioner’s {name} is {now}{where and ' ' + where[:-2]}."
        yield Conclusion("captions", figure, unit, sentence, _span(value, 3), "measured")
    varied = results.record("score-captions").get("collapsed", {}).get(own)
    if varied is not None:
        yield Conclusion(
            "captions",
            "!",
            f"the {own} captioner has collapsed",
            f"The {own} captioner says the same few things whatever it is shown; its scores are "
            "those of a stock phrase.",
            varied,
            "measured",
        )
    known = {
        b: score
        for b in BASELINES
        if b != own and isinstance(score := results.scores.get(b, {}).get(metric), Estimate)
    }
    best = max(known, key=lambda b: known[b].value, default="")
    pair = _pair(results, own, best, metric)
    if pair is None:
        return
    shown = significant(pair)
    verb = "beats" if pair["difference"] > 0 else "stays behind"
    yield Conclusion(
        "captions",
        number(pair["difference"], 2, signed=True),
        f"{name} against {best}",
        f"The {own} captioner {verb if shown else 'can’t be told apart from'} the best method "
        f"without a language model, {best}, whose {name} is {number(known[best].value, 3)}.",
        _evidence(pair),
        "shown" if shown else "not shown",
    )


def _audit(results: Results) -> Iterator[Conclusion]:
    wrong = {
        field: rate["contradicting"]
        for field, rate in results.audit.get(CATALOGUE, {}).items()
        if rate["contradicting"]["n"]
    }
    if not wrong:
        return
    order = sorted(wrong, key=lambda field: -wrong[field]["value"])
    said = [
        f"{number(100 * wrong[field]['value'], 1)} % "
        f"{'its' if i else 'contradict the article’s own'} {field}"
        for i, field in enumerate(order)
    ]
    n = int(max(rate["n"] for rate in wrong.values()))
    ends = "; ".join(
        f"{field} {interval(Estimate(0, 100 * rate['low'], 100 * rate['high']), 1)}"
        for field, rate in ((field, wrong[field]) for field in order)
    )
    yield Conclusion(
        "audit",
        f"{number(100 * wrong[order[0]]['value'], 1)} %",
        f"of captions contradict the article’s {order[0]}",
        f"Of {n:,} captions written for the catalogue, {_and(said)}.",
        f"95 % intervals in per cent: {ends}.",
        "measured",
    )


def _ranking(results: Results) -> Iterator[Conclusion]:
    metric = results.ranking_metric()
    if metric is None:
        return
    ranked = results.estimates(metric)
    best = next(iter(ranked))
    lines = [best]
    sentence = (
        f"Of {len({name for name, _ in ranked})} recommenders, {_line(best)} ranks the next "
        f"purchases best, with {label(metric)} {number(ranked[best].value, 4)}"
    )
    other = next(
        (k for k in (("mostpop", "-"), ("random", "-")) if k in ranked and k != best), None
    )
    if other is not None:
        lines.append(other)
        sentence += f"; {other[0]} reaches {number(ranked[other].value, 4)}"
    sentence += "."
    reader = next((key for key in ranked if key[1] != "-"), None)
    if reader is not None and best[1] == "-":
        lines.append(reader)
        sentence += (
            f" The best of those that read the article texts is {_line(reader)} with "
            f"{number(ranked[reader].value, 4)}."
        )
    spans = "; ".join(f"{_line(key)} {interval(ranked[key], 4)}" for key in lines)
    yield Conclusion(
        "recommendation",
        number(ranked[best].value, 3),
        f"{label(metric)} of {best[0]}",
        sentence,
        f"95 % intervals: {spans}. Rows were not tested against each other.",
        "measured",
    )


def _texts(results: Results, reach: Mapping[str, tuple[int, int]]) -> Iterator[Conclusion]:
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
        if shown:
            changes = [
                f"{'raised' if row['difference'] > 0 else 'lowered'} it for {row['recommender']}"
                for row in shown
            ]
            sentence = f"{doing} changed {label(metric)}: it {_and(changes)}."
            if rest := len(found) - len(shown):
                sentence += f" No effect is shown for {_those(rest, 'other ')}."
            evidence = " ".join(f"{row['recommender']}: {_evidence(row, 4)}" for row in shown)
        else:
            sentence = f"{doing}: no effect is shown for {_those(len(found))}."
            evidence = (
                f"Largest change of {label(metric)}, for {largest['recommender']}: "
                f"{_evidence(largest, 4)}"
            )
        sizes = [row["detectable"] for row in found if _finite(row["detectable"])]
        if not any(row["low"] or row["high"] for row in found):
            # A bootstrap of zeros has no width; that is no evidence of an effect of zero.
            evidence = f"{label(metric)} is the same for each of {largest['n_users']:,} customers."
        elif sizes and len(shown) < len(found):
            base = sum(values[row["recommender"], row["against"]].value for row in found)
            ends = dict.fromkeys((number(min(sizes), 4), number(max(sizes), 4)))
            share = f", up to {max(sizes) * len(found) / base:.0%} of the value" if base else ""
            evidence += (
                f" {largest['n_users']:,} customers would show a change of {' to '.join(ends)}"
                f"{share}, four times out of five; a smaller one may exist unseen."
            )
        if str(setting) in reach:
            changed, total = reach[str(setting)]
            evidence += (
                f" {changed:,} of {total:,} articles ({changed / max(1, total):.1%}) have another "
                f"text than under “{against}”."
            )
        yield Conclusion(
            "text",
            number(largest["difference"], 4, signed=True),
            f"largest change of {label(metric)}, “{setting}” against “{against}”",
            sentence,
            evidence,
            "shown" if shown else "not shown",
        )


def _line(key: tuple[str, str]) -> str:
    name, setting = key
    return name if setting == "-" else f"{name} (text “{setting}”)"


def _and(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _those(n: int, other: str = "") -> str:
    if n == 1:
        return f"the one {other}recommender that reads text"
    return f"any of the {n} {other}recommenders that read text"


def _pair(results: Results, own: str, against: str, metric: str) -> dict[str, Any] | None:
    for pair in results.comparisons:
        if (pair["captioner"], pair["against"], pair["metric"]) == (own, against, metric):
            return pair
    return None


def _span(estimate: Estimate, decimals: int, *, signed: bool = False) -> str:
    ends = interval(estimate, decimals, signed=signed)
    return f"95 % interval {ends}." if ends else "No interval."


def _evidence(row: Mapping[str, Any], decimals: int = 3) -> str:
    difference = Estimate(row["difference"], row["low"], row["high"])
    return (
        f"Difference {number(difference.value, decimals, signed=True)}, 95 % interval "
        f"{interval(difference, decimals, signed=True)}, adjusted p "
        f"{p_value(row.get('p_adjusted', row.get('p_holm')))}."
    )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
