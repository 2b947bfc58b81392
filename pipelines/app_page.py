"""The app's pages: Streamlit runs this file anew at every click (`fcr app` starts it).

What a shop or a captioner wrote reaches the browser in two ways only: through the templates, which
escape it, and as options of a list, which Streamlit shows as text. Never as Markdown, where a name
could become a link, a picture of another site or a formula.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
import streamlit as st

from pipelines import InputError
from pipelines.explore import (
    ENCODERS,
    INPUT_ERRORS,
    TASTE,
    Explorer,
    matching,
    open_to_read,
)
from pipelines.page import clip, data_uri, sentence_case
from pipelines.ratings import rate, read_ratings, summary
from pipelines.results import label, manifest_hashes

TEMPLATES = Path(__file__).with_name("templates")
LISTED = 300
"""Matches offered for choice; more are found by searching."""
RATED = 50
"""Articles of the test part that are rated."""
REASONLESS = {
    "mostpop": "It shows everybody what was bought most.",
    "random": "It draws by chance.",
    "als": "It multiplies learned factors: no purchase carries an article alone.",
    "bpr": "It multiplies learned factors: no purchase carries an article alone.",
}


def show(runs: Path, name: str) -> None:
    """The whole app for run `name` below `runs`."""
    st.set_page_config(page_title=f"fcr {name}", layout="wide")
    st.html(f"<style>{(TEMPLATES / 'app.css').read_text(encoding='utf-8')}</style>")
    pages = [
        st.Page(partial(look, article, runs, name), title="Article", url_path="article"),
        st.Page(partial(look, customer, runs, name), title="Customer", url_path="customer"),
        st.Page(partial(look, rating, runs, name), title="Rate captions", url_path="rate"),
    ]
    st.navigation(pages, position="top").run()


def look(page: Callable[[Explorer], None], runs: Path, name: str) -> None:
    """One page of run `name`; what is wrong with the run is said in its place."""
    try:
        run = open_to_read(name, runs)
        hashes = tuple(sorted(manifest_hashes(run.workspace).items()))
        page(_explorer(runs, name, hashes))
    except INPUT_ERRORS as error:
        st.error(_plain(str(error)))


def article(explorer: Explorer) -> None:
    """An article or an uploaded photo: captions, attention, scores, neighbours."""
    st.title("Article")
    source = st.sidebar.radio("Look at", ["An article", "Your own photo"])
    if source == "Your own photo":
        _own_photo(explorer)
        return
    found = _filtered(explorer)
    if not found.height:
        st.info("No article matches. Search for fewer words, or take a filter back.")
        return
    names = dict(zip(found["article_id"], found["prod_name"], strict=True))
    chosen = st.selectbox(
        f"{found.height:,} articles match" if found.height > 1 else "One article matches",
        found["article_id"].head(LISTED).to_list(),
        format_func=lambda i: f"{i}  {clip(names[i] or '', 80)}",
        help=f"The first {LISTED} are listed." if found.height > LISTED else None,
    )
    card = explorer.card(chosen, 360)
    _html("article", card, explorer.references(chosen))
    if card["photo"] is None:
        st.info("Without a photo that can be read, nothing describes this article.")
    else:
        st.header("What captioners say")
        for captioner in explorer.captioners():
            with _Told(), st.spinner(f"{captioner} looks at the photo"):
                photo = explorer.catalog.photo(chosen)
                _html("description", explorer.describe(captioner, photo, article_id=chosen))
        others = {
            who: text
            for who, text in explorer.said(chosen).items()
            if who not in explorer.captioners()
        }
        for who, text in others.items():
            _html("description", {"captioner": who, "caption": text, "verdicts": ()})
    _scores(explorer, chosen)
    st.header("Nearest articles")
    for encoder in _encoders(explorer):
        with _Told(), st.spinner(f"{encoder} compares"):
            near = explorer.nearest(encoder, chosen)
            _near(explorer, encoder, near)


def customer(explorer: Explorer) -> None:
    """A customer: what they bought, what each recommender shows and why, what they bought next."""
    st.title("Customer")
    users = explorer.customers
    if not users:
        st.info(
            "This run has no recommendations yet. Make some with "
            f"`fcr recommend --run {explorer.run.folder.name}`, then reload this page."
        )
        return
    search = st.sidebar.text_input("Customer id begins with").strip()
    found = [user for user in users if user.startswith(search)]
    if not found:
        st.info("No customer of the test part has such an id.")
        return
    user = st.selectbox(
        f"{len(found):,} customers bought something in the test weeks", found[:LISTED]
    )
    before, later = explorer.bought(user)
    next_ids = [article_id for article_id, _ in later]
    lists = explorer.lists(user)
    st.header("Bought before")
    _purchases(explorer, before, "Nothing: a new customer.")
    st.header("Bought next")
    if explorer.cutoff is None:
        st.info("This run's split has no one day that parts before from after.")
    else:
        _purchases(explorer, later, "Nothing in the test weeks.")
    st.header("Recommended, and why")
    names = {key: _row_name(*key) for key in lists}
    hits = {key: sum(i in next_ids for i in ids) for key, ids in lists.items()}
    chosen = st.selectbox(
        "Recommender",
        list(lists),
        format_func=lambda key: f"{names[key]}: {hits[key]} of {len(lists[key])} bought next",
        # Most hits first; of equal ones somebody who has reasons.
        index=max(
            range(len(lists)),
            key=lambda i: (list(hits.values())[i], list(lists)[i][0] not in REASONLESS),
        ),
    )
    with _Told(), st.spinner(f"{names[chosen]} learns from the purchases again"):
        _explained(explorer, chosen, user, lists[chosen], next_ids)
    st.header("All recommenders")
    for key, ids in lists.items():
        st.subheader(f"{names[key]}: {hits[key]} of {len(ids)} bought next")
        cards = [
            {**explorer.card(i, 112, "bought next" if i in next_ids else ""), "hit": i in next_ids}
            for i in ids
        ]
        _html("row", cards, f"Recommended by {names[key]}")


def rating(explorer: Explorer) -> None:
    """People rate captions; every rating is kept at once."""
    st.title("Rate captions")
    captions = explorer.results.captions
    if captions is None:
        st.info(
            "This run has no captions side by side yet. Write and score them with "
            f"`fcr caption-items --run {explorer.run.folder.name}` and "
            f"`fcr score-captions --run {explorer.run.folder.name}`, then reload this page."
        )
        return
    rater = st.sidebar.text_input("Your name or initials", value="me", max_chars=60)
    way = st.sidebar.radio("Give", ["1 to 5 stars", "The best one"])
    blinded = st.sidebar.toggle("Hide who wrote which", value=True)
    kind = "stars" if way == "1 to 5 stars" else "best"
    ids = captions["article_id"].unique(maintain_order=True).head(RATED).to_list()
    captions = captions.filter(pl.col("article_id").is_in(ids))
    ratings = read_ratings(explorer.run.folder)
    own = ratings.join(
        captions.select("article_id", "captioner", "caption"),
        on=["article_id", "captioner", "caption"],
        how="semi",
    ).filter((pl.col("rater") == " ".join(rater.split())) & (pl.col("kind") == kind))
    whole = captions.group_by("article_id").len().rename({"len": "all"})
    rated = own.group_by("article_id").len().join(whole, on="article_id")
    done = set(rated.filter(pl.col("len") == pl.col("all"))["article_id"])
    # Where somebody left off; the list keeps its choice while they rate.
    first = next((i for i, article_id in enumerate(ids) if article_id not in done), 0)
    key = f"rating of {rater} {kind}"
    st.session_state.setdefault(key, ids[first])
    if st.session_state[key] not in ids:
        st.session_state[key] = ids[first]
    st.progress(
        len(done) / len(ids), f"{len(done)} of {len(ids)} articles rated by {_plain(rater)}"
    )
    st.selectbox(
        "Article to rate",
        ids,
        key=key,
        format_func=lambda i: f"{ids.index(i) + 1}. {i}" + ("  (rated)" if i in done else ""),
    )
    chosen: str = st.session_state[key]
    texts: dict[str, list[str]] = {}
    said = captions.filter(pl.col("article_id") == chosen)
    for captioner, text in said.select("captioner", "caption").iter_rows():
        texts.setdefault(text, []).append(captioner)
    order = list(texts)
    if blinded:
        random.Random(f"{explorer.run.config.seed} {chosen}").shuffle(order)
    given = {
        row["caption"]: row["rating"]
        for row in own.filter(pl.col("article_id") == chosen).iter_rows(named=True)
    }
    photo, form = st.columns([1, 2])
    with photo:
        _html("picture", explorer.photo(chosen, 480), "Photo of the article to rate")
    keep = partial(_keep, explorer, rater, chosen, texts, kind, blinded)
    with form:
        _rating_form(order, texts, given, kind, blinded, f"{rater} {kind} {chosen}", keep)
        here = ids.index(chosen)
        back, on = st.columns(2)
        back.button("Previous", disabled=here == 0, on_click=_go, args=(key, ids, here - 1))
        on.button("Next", disabled=here == len(ids) - 1, on_click=_go, args=(key, ids, here + 1))
    st.header("So far, by everybody")
    _summary(explorer, captions)


def _rating_form(
    order: list[str],
    texts: dict[str, list[str]],
    given: dict[str, int],
    kind: str,
    blinded: bool,
    key: str,
    keep: Callable[..., None],
) -> None:
    letters = [chr(ord("A") + number % 26) for number in range(len(order))]
    for letter, text in zip(letters, order, strict=True):
        who = f"Caption {letter}" if blinded else ", ".join(texts[text])
        _html("description", {"captioner": who, "caption": text, "verdicts": ()})
        if kind == "stars":
            place = f"{key} {letter} {blinded}"
            before = given.get(text)
            st.radio(
                f"Stars of caption {letter}",
                [1, 2, 3, 4, 5],
                index=None if before is None else before - 1,
                horizontal=True,
                key=place,
                format_func=lambda n: {1: "1 wrong", 5: "5 perfect"}.get(n, str(n)),
                on_change=lambda place=place, text=text: keep({text: st.session_state[place]}),
            )
    if kind == "best":
        place = f"{key} {blinded}"
        best = next((number for number, text in enumerate(order) if given.get(text) == 1), None)
        st.radio(
            "The best caption",
            letters,
            index=best,
            horizontal=True,
            key=place,
            on_change=lambda: keep(
                {
                    text: int(letter == st.session_state[place])
                    for letter, text in zip(letters, order, strict=True)
                }
            ),
        )


def _keep(
    explorer: Explorer,
    rater: str,
    article_id: str,
    texts: dict[str, list[str]],
    kind: str,
    blinded: bool,
    given: dict[str, int],
) -> None:
    """One text that several captioners wrote is one rating of each."""
    try:
        rate(
            explorer.run.folder,
            rater=rater,
            article_id=article_id,
            captions=[(who, text, n) for text, n in given.items() for who in texts[text]],
            kind=kind,
            blinded=blinded,
        )
    except InputError as error:
        st.error(_plain(str(error)))


def _go(key: str, ids: list[str], number: int) -> None:
    st.session_state[key] = ids[number]


def _summary(explorer: Explorer, captions: pl.DataFrame) -> None:
    ratings = read_ratings(explorer.run.folder)
    if not ratings.height:
        st.info("Nobody has rated yet.")
        return
    rows = []
    for row in summary(ratings, captions, seed=explorer.run.config.seed).iter_rows(named=True):
        between = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        stars = "-" if row["stars"] is None else f"{row['stars']:.2f}"
        best = "-" if row["best"] is None else f"{row['best']:.0%}"
        rows.append([row["captioner"], stars, between, row["rated"], best, row["compared"]])
    columns = ["Captioner", "Stars", "95 % interval", "Articles", "Chosen best", "Articles"]
    _html("scores", rows, columns, "Ratings of these captions, averaged over articles")
    raters = ratings["rater"].n_unique()
    st.text(f"{raters} rater{'s' * (raters != 1)}; kept in {explorer.run.folder}/ratings")


def _own_photo(explorer: Explorer) -> None:
    from caption.images import UnreadableImage, open_image

    upload = st.file_uploader("A photo of one piece of clothing", ["jpg", "jpeg", "png", "webp"])
    if upload is None:
        st.info("JPEG, PNG or WebP. It stays on this machine, and only as long as you look at it.")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo"
        path.write_bytes(upload.getvalue())
        try:
            image = open_image(path, at_least=(360, 360))
        except UnreadableImage as error:
            st.error(_plain(f"This photo can't be used: {error.reason}"))
            return
        _html("picture", data_uri(image, 360), "Your photo")
        st.header("What captioners say")
        text = ""
        for captioner in explorer.captioners():
            with _Told(), st.spinner(f"{captioner} looks at the photo"):
                said = explorer.describe(captioner, path)
                text = said.caption
                _html("description", said)
        st.header("Nearest articles")
        for encoder in _encoders(explorer):
            with _Told(), st.spinner(f"{encoder} compares"):
                near = explorer.nearest_to_photo(encoder, path, text)
                _near(explorer, encoder, near)


def _filtered(explorer: Explorer) -> pl.DataFrame:
    articles = explorer.articles
    side = st.sidebar
    words = side.text_input("Search", placeholder="id, name, description, caption")
    kinds = side.multiselect(
        "Category", articles["product_type_name"].drop_nulls().unique().sort().to_list()
    )
    verdict, metric, between = None, None, (float("-inf"), float("inf"))
    if articles["verdict"].null_count() < articles.height:
        choice = side.selectbox("Audit of its caption", ["any", *TASTE])
        verdict = None if choice == "any" else choice
    if explorer.metrics:
        choice = side.selectbox("Caption score", ["any", *explorer.metrics], format_func=label)
        values: list[float] = [] if choice == "any" else articles[choice].drop_nulls().to_list()
        if values and min(values) < max(values):
            metric = choice
            low, high = min(values), max(values)
            between = side.slider(label(choice), low, high, (low, high))
    return matching(
        articles, words=words, kinds=kinds, verdict=verdict, metric=metric, between=between
    )


def _encoders(explorer: Explorer) -> list[str]:
    known = explorer.encoded()
    chosen: list[str] = st.multiselect(
        "Compared by",
        list(ENCODERS),
        default=known,
        help="clip: photo and text. sbert: text. resnet: photo. resbert: photo and text. hog: "
        "shape and colour. The first time, a catalogue's vectors are computed and kept.",
    )
    return chosen


def _near(explorer: Explorer, encoder: str, near: list[tuple[str, float]]) -> None:
    st.subheader(encoder)
    cards = [explorer.card(i, 112, f"cosine {cosine:.3f}") for i, cosine in near]
    _html("strip", cards, f"Nearest by {encoder}")


def _scores(explorer: Explorer, article_id: str) -> None:
    scores = explorer.scores(article_id)
    if not scores:
        return
    st.header("Scores")
    metrics = list(dict.fromkeys(metric for by in scores.values() for metric in by))
    rows = [
        [label(metric), *(_number(by.get(metric)) for by in scores.values())] for metric in metrics
    ]
    _html("scores", rows, ["Metric", *scores], "This article's captions against its description")


def _purchases(explorer: Explorer, bought: list[tuple[str, Any]], none: str) -> None:
    if not bought:
        st.text(none)
        return
    cards = [explorer.card(i, 112, day.isoformat()) for i, day in bought[:12]]
    _html("strip", cards, "Bought")
    if len(bought) > 12:
        st.text(f"and {len(bought) - 12:,} more")


def _explained(
    explorer: Explorer, key: tuple[str, str], user: str, ids: list[str], later: list[str]
) -> None:
    found = explorer.explain(*key, user)
    if not found.same:
        st.warning(
            "Learned again it gives another list than the run holds (it was made with other "
            "settings or another version): the reasons below are those of the new one."
        )
    shown = []
    for article_id in ids:
        because = []
        for reason in found.because[article_id]:
            if reason.kind == "item":
                card = explorer.card(reason.id, 60)
                because.append({**card, "note": f"bought before, {reason.share:.0%} of the score"})
            else:
                who = {"photo": None, "name": f"customer {reason.id[:10]}"}
                because.append({**who, "note": f"bought it, {reason.share:.0%} of the score"})
        hit = article_id in later
        card = explorer.card(article_id, 112, "bought next" if hit else "")
        shown.append({**card, "hit": hit, "because": because})
    if not any(item["because"] for item in shown):
        st.text(REASONLESS.get(key[0], "It gives no reasons for single articles."))
    _html("reasons", shown)


def _row_name(name: str, setting: str) -> str:
    return name if setting == "-" else f"{name} ({setting})"


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _html(macro: str, *arguments: Any) -> None:
    st.html(str(getattr(_templates(), macro)(*arguments)))


@lru_cache(1)
def _templates() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Shown alike whoever wrote it: small letters would tell the raters who it was.
    environment.filters["sentence_case"] = sentence_case
    return environment.get_template("app.html.j2").module


def _plain(text: str) -> str:
    """Markdown that shows as `text`."""
    return "".join(f"\\{c}" if c.isascii() and not c.isalnum() and c != " " else c for c in text)


class _Told:
    """What is wrong with one part of a page is said there; the rest of the page stays."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, INPUT_ERRORS):
            st.warning(_plain(str(error)))
            return True
        return False


@st.cache_resource(max_entries=1, show_spinner="Reading the run")  # type: ignore[untyped-decorator]
def _explorer(runs: Path, name: str, hashes: tuple[tuple[str, str], ...]) -> Explorer:
    """One reader for everybody who looks; a new one when a stage was made anew (`hashes`)."""
    return Explorer(open_to_read(name, runs))


if __name__ == "__main__":
    # Streamlit puts this folder first, where `tables` or `data` would hide packages of that name.
    sys.path[:] = [place for place in sys.path if Path(place) != Path(__file__).parent]
    show(Path(sys.argv[1]), sys.argv[2])
