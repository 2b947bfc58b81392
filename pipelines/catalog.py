"""H&M tables: read, repaired where that is safe, refused where it is not, and every finding said.

Memory: articles and customers are small; purchases cost about 150 bytes a row while reading.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pipelines import InputError, stores
from pipelines.workspace import file_sha256, folder_fingerprint

if TYPE_CHECKING:
    from recsys.interactions import Interactions

ARTICLE_COLUMNS = (
    "article_id",
    "product_code",
    "prod_name",
    "product_type_name",
    "graphical_appearance_name",
    "colour_group_name",
    "detail_desc",
)
CUSTOMER_COLUMNS = ("customer_id",)
PURCHASE_COLUMNS = ("t_dat", "customer_id", "article_id")
ID_DIGITS = 10
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Finding:
    """Something about the data the user should know: what was found, how often, what was done."""

    kind: str
    count: int
    example: str
    done: str

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.count:,} x {self.kind} (e.g. {self.example}): {self.done}"


@dataclass(frozen=True)
class Catalog:
    """A shop's tables.

    Attributes:
        folder: where they were read from.
        articles: one row an article; every column is a string, `detail_desc` null where missing.
        customers: one row a customer; `customer_id` str and whatever else the file has.
        purchases: `t_dat` date, `customer_id` str, `article_id` str, `price` float64 (null where
            the file has none); exact duplicate rows are quantities and are kept.
        findings: what was repaired, dropped or is worth knowing.
    """

    folder: Path
    articles: pl.DataFrame
    customers: pl.DataFrame
    purchases: pl.DataFrame
    findings: tuple[Finding, ...]

    def photo(self, article_id: str) -> Path:
        """Where the article's photo should lie."""
        return image_path(self.folder, article_id)

    def photos(self) -> list[Path | None]:
        """Per article its photo, or None where there is no such file."""
        present = {path.name for path in stores.images(self.folder).glob("*/*.jpg")}
        return [
            self.photo(article_id) if f"{article_id}.jpg" in present else None
            for article_id in self.articles["article_id"]
        ]


def read_catalog(folder: Path, *, purchases: bool = True, drop_bad_rows: bool = False) -> Catalog:
    """Read `articles.csv`, `customers.csv` and `transactions_train.csv` in Kaggle's H&M layout.

    Args:
        folder: the data folder.
        purchases: read customers and purchases too (the caption commands don't need them).
        drop_bad_rows: drop purchase rows whose date can't be read instead of refusing the file.

    Raises:
        InputError: folder or file missing or empty, a required column missing, an article id that
            can't be one (a path, empty), unreadable dates.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"data folder {folder} does not exist: give a folder in Kaggle's H&M layout with "
            "--data DIR (articles.csv, customers.csv, transactions_train.csv, images/), or leave "
            "--data out to use the embedded demo"
        )
    if not any(folder.iterdir()):
        raise InputError(f"data folder {folder} is empty: expected articles.csv and images/ in it")
    articles, findings = _articles(folder / "articles.csv")
    catalog = Catalog(folder, articles, pl.DataFrame(), pl.DataFrame(), tuple(findings))
    return _with_purchases(catalog, drop_bad_rows) if purchases else catalog


def read_purchases(
    catalog: Catalog, *, drop_bad_rows: bool = False
) -> tuple[Interactions, tuple[Finding, ...]]:
    """The purchases of known articles by known customers, without a table of them.

    At full H&M size this takes 1 GB of memory where `read_catalog` takes 7: a plain file is parsed
    straight into numbers, and ids are repaired and looked up once each instead of once a row. Any
    other file is read by `read_catalog`; purchases and findings are the same, but for the examples.

    Args:
        catalog: its articles, read without purchases.
        drop_bad_rows: as in `read_catalog`.

    Returns:
        The interactions, whose items are the catalogue's articles in their order, and what was
        found in the purchases and customers.

    Raises:
        InputError: as `read_catalog`.
    """
    found = _plain_purchases(catalog.folder / "transactions_train.csv")
    if found is not None:
        return _looked_up(catalog, found)
    whole = _with_purchases(replace(catalog, findings=()), drop_bad_rows)
    return interactions_of(whole), whole.findings


def interactions_of(catalog: Catalog) -> Interactions:
    """The purchases of a catalogue that was read with them; its articles are the items."""
    from recsys.interactions import Interactions

    return Interactions.from_frame(
        catalog.purchases,
        user="customer_id",
        item="article_id",
        time="t_dat",
        item_ids=catalog.articles["article_id"],
    )


def image_path(folder: Path, article_id: str) -> Path:
    """`images/<first three characters of the id>/<id>.jpg` below `folder`.

    Raises:
        InputError: the id could lead out of the folder.
    """
    if not SAFE_ID.fullmatch(article_id):
        raise InputError(
            f"article_id {article_id!r} is not an id: expected letters, digits, '-', '_' or '.'"
        )
    return stores.images(Path(folder)) / article_id[:3] / f"{article_id}.jpg"


def fingerprints(folder: Path, *, purchases: bool = True) -> dict[str, str]:
    """Content hashes of the tables, and a fingerprint of the photos (names, sizes, times)."""
    names = ["articles.csv"] + (["customers.csv", "transactions_train.csv"] if purchases else [])
    found = {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
    found["images"] = folder_fingerprint(stores.images(folder), "*/*.jpg")
    return found


def photos_stay(folder: Path, inputs: Mapping[str, str]) -> bool:
    """Whether the photos are still those whose fingerprint stands in `inputs`."""
    return folder_fingerprint(stores.images(folder), "*/*.jpg") in inputs.values()


def _articles(path: Path) -> tuple[pl.DataFrame, list[Finding]]:
    frame, findings = _table(path, ARTICLE_COLUMNS)
    frame = frame.with_columns(pl.col("article_id").str.strip_chars())
    frame, found = _repair_ids(frame, path)
    findings += found
    rows = frame.height
    frame = frame.unique(subset="article_id", keep="first", maintain_order=True)
    if rows > frame.height:
        findings.append(
            Finding(
                "article row whose article_id came before",
                rows - frame.height,
                path.name,
                "kept the first of each",
            )
        )
    text = pl.col("detail_desc").str.strip_chars()
    frame = frame.with_columns(pl.when(text == "").then(None).otherwise(text).alias("detail_desc"))
    missing = frame.filter(pl.col("detail_desc").is_null())
    if missing.height:
        findings.append(
            Finding(
                "article without description",
                missing.height,
                missing["article_id"][0],
                "a caption can fill it",
            )
        )
    return frame, findings


def _with_purchases(catalog: Catalog, drop_bad_rows: bool) -> Catalog:
    findings = list(catalog.findings)
    path = catalog.folder / "transactions_train.csv"
    frame, found = _table(path, PURCHASE_COLUMNS)
    findings += found
    frame, found = _repair_ids(frame.with_columns(pl.col("article_id").str.strip_chars()), path)
    findings += found
    price = pl.col("price").cast(pl.Float64, strict=False) if "price" in frame.columns else None
    frame = frame.select(
        pl.col("t_dat").str.strip_chars().str.to_date("%Y-%m-%d", strict=False).alias("date"),
        pl.col("t_dat"),
        "customer_id",
        "article_id",
        (pl.lit(None, pl.Float64) if price is None else price).alias("price"),
    )
    bad = frame.filter(pl.col("date").is_null())
    if bad.height:
        if not drop_bad_rows:
            raise InputError(
                f"{path}: {bad.height:,} rows have a t_dat that is no date, the first "
                f"{bad['t_dat'][0]!r}: expected YYYY-MM-DD. Mend them, or drop such rows with "
                "--set data.drop_bad_rows=true"
            )
        findings.append(
            Finding(
                "purchase with an unreadable date", bad.height, repr(bad["t_dat"][0]), "dropped"
            )
        )
        frame = frame.filter(pl.col("date").is_not_null())
    frame = frame.select(pl.col("date").alias("t_dat"), "customer_id", "article_id", "price")
    frame, found = _known(frame, "article_id", catalog.articles["article_id"])
    findings += found
    customers_path = catalog.folder / "customers.csv"
    if customers_path.is_file():
        customers, found = _table(customers_path, CUSTOMER_COLUMNS)
        findings += found
        customers = customers.unique("customer_id", keep="first", maintain_order=True)
        frame, found = _known(frame, "customer_id", customers["customer_id"])
        findings += found
    else:
        customers = frame.select("customer_id").unique(maintain_order=True)
        findings.append(_no_customers())
    if not frame.height:
        raise _nothing_left(path)
    frame = frame.sort("t_dat", maintain_order=True)
    return replace(catalog, customers=customers, purchases=frame, findings=tuple(findings))


def _plain_purchases(path: Path) -> Interactions | None:
    """The purchases of a large, sound file; None where rows need a closer look."""
    import recsys
    from recsys.readers import SMALL, read_plain

    if not path.is_file() or path.stat().st_size < SMALL:
        return None
    user, item, time = "customer_id", "article_id", "t_dat"
    try:
        found = read_plain(path, user=user, item=item, time=time)
    except (recsys.InputError, pl.exceptions.PolarsError):
        return None  # the other reader says it in the words of this layout
    header = pl.read_csv(path, n_rows=0, infer_schema=False).columns
    if found is None or found.time_unit != "D" or any(_is_index(name) for name in header):
        return None
    ids = found.item_ids.str.strip_chars()
    sound = ids.str.contains(f"^{SAFE_ID.pattern}$").all()
    # A row without an id or a date is refused or dropped in the words of this layout.
    return found if sound and not set(found.dropped) - {"dated in the future"} else None


def _looked_up(catalog: Catalog, found: Interactions) -> tuple[Interactions, tuple[Finding, ...]]:
    """Events by the catalogue's numbers, as `_with_purchases` would leave them."""
    from recsys.interactions import Interactions, position_of

    path = catalog.folder / "transactions_train.csv"
    findings: list[Finding] = []
    events = np.bincount(found.event_items, minlength=found.n_items)
    plain = found.item_ids.str.strip_chars()
    short = _is_short(plain)
    if short.any():
        findings.append(_lost_zero(int(events[short.to_numpy()].sum()), path, plain.filter(short)))
    items = plain.zip_with(~short, plain.str.zfill(ID_DIGITS))
    columns = position_of(items, catalog.articles["article_id"]).to_numpy()
    kept = columns[found.event_items] >= 0
    if not kept.all():
        strange = plain.filter(pl.Series(columns < 0))
        findings.append(_unknown("article_id", int((~kept).sum()), strange[0]))
        found = found.select(kept)
    customers = catalog.folder / "customers.csv"
    if customers.is_file():
        frame, odd = _table(customers, CUSTOMER_COLUMNS, only=True)
        findings += odd
        lost = position_of(found.user_ids, frame["customer_id"].unique()).to_numpy() < 0
        strange_events = int(np.diff(found.event_ptr)[lost].sum())
        if strange_events:
            buyers = pl.Series(lost & (np.diff(found.event_ptr) > 0))
            example = found.user_ids.filter(buyers)[0]
            findings.append(_unknown("customer_id", strange_events, example))
            found = found.select(~np.repeat(lost, np.diff(found.event_ptr)))
    else:
        findings.append(_no_customers())
    if not found.n_events:
        raise _nothing_left(path)
    found = found.without_empty()
    numbers = columns[found.event_items]
    ids = catalog.articles["article_id"]
    if (np.diff(columns[columns >= 0]) > 0).all():  # the order inside each row stays
        return replace(found, item_ids=ids, event_items=numbers), tuple(findings)
    moved = Interactions.from_events(
        found.user_ids, ids, found.event_users, numbers, found.event_times, dropped=found.dropped
    )
    return moved, tuple(findings)


def _table(
    path: Path, required: tuple[str, ...], *, only: bool = False
) -> tuple[pl.DataFrame, list[Finding]]:
    """Every column as a string, so that no id loses its leading zero here.

    `only` keeps the required columns alone.
    """
    if not path.is_file():
        raise InputError(
            f"{path} is missing: expected Kaggle's H&M layout (articles.csv, customers.csv, "
            "transactions_train.csv, images/)"
        )
    try:
        frame = pl.read_csv(path, infer_schema=False, encoding="utf8-lossy")
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty: expected a header and rows") from error
    except (pl.exceptions.ComputeError, pl.exceptions.ShapeError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"{path} is not a CSV table that can be read: {first}. Expected comma-separated "
            "values with a header and quotes around texts that hold commas"
        ) from error
    plain = [name.strip().lstrip("\ufeff") for name in frame.columns]
    twice = [name for i, name in enumerate(plain) if name in plain[:i]]
    if twice:
        raise InputError(
            f"{path}: the column {twice[0]!r} stands twice, but for spaces around its name: "
            "rename one of them"
        )
    frame.columns = plain
    missing = [name for name in required if name not in frame.columns]
    if missing:
        near = difflib.get_close_matches(missing[0], frame.columns, n=1)
        hint = f" (did you mean the column {near[0]!r}?)" if near else ""
        raise InputError(
            f"{path}: missing column {', '.join(missing)}{hint}; found "
            f"{', '.join(map(repr, frame.columns[:30]))}. Rename or add it"
        )
    if not frame.height:
        raise InputError(f"{path} has a header but no rows")
    findings = []
    index = [name for name in frame.columns if _is_index(name)]
    if only:
        frame = frame.select(required)
    elif index:
        frame = frame.drop(index)
    if index:
        findings.append(
            Finding("unnamed index column", len(index), f"{path.name} {index[0]!r}", "ignored")
        )
    return frame, findings


def _repair_ids(frame: pl.DataFrame, path: Path) -> tuple[pl.DataFrame, list[Finding]]:
    ids = pl.col("article_id")
    bad = frame.with_row_index("row").filter(
        ids.is_null() | ~ids.str.contains(f"^{SAFE_ID.pattern}$")
    )
    if bad.height:
        value = bad["article_id"][0]
        raise InputError(
            f"{path}: row {bad['row'][0] + 2} has article_id {value!r}, which is no article id "
            f"({bad.height:,} such rows): expected letters, digits, '-', '_' or '.', no path. "
            "Mend or remove these rows"
        )
    short = _is_short(frame["article_id"])
    if not short.any():
        return frame, []
    finding = _lost_zero(int(short.sum()), path, frame["article_id"].filter(short))
    return frame.with_columns(pl.when(short).then(ids.str.zfill(ID_DIGITS)).otherwise(ids)), [
        finding
    ]


def _is_short(ids: pl.Series) -> pl.Series:
    return ids.str.contains(r"^\d+$") & (ids.str.len_chars() < ID_DIGITS)


def _is_index(name: str) -> bool:
    """The column that pandas and polars make of a header without a name."""
    return name == "" or bool(re.fullmatch(r"Unnamed: ?\d+|_duplicated_\d+|column_\d+", name))


def _lost_zero(rows: int, path: Path, ids: pl.Series) -> Finding:
    return Finding(
        "article_id that lost its leading zero",
        rows,
        f"{path.name} {ids[0]}",
        f"padded to {ID_DIGITS} digits",
    )


def _unknown(column: str, rows: int, example: str) -> Finding:
    return Finding(f"purchase of an unknown {column}", rows, example, "dropped")


def _no_customers() -> Finding:
    return Finding("missing file", 1, "customers.csv", "took the customers of the purchases")


def _nothing_left(path: Path) -> InputError:
    return InputError(
        f"{path}: no purchase is left of a known article by a known customer: check that the "
        "tables belong together"
    )


def _known(
    frame: pl.DataFrame, column: str, known: pl.Series
) -> tuple[pl.DataFrame, list[Finding]]:
    inside = pl.col(column).is_in(known.implode())
    strange = frame.filter(~inside)
    if not strange.height:
        return frame, []
    return frame.filter(inside), [_unknown(column, strange.height, str(strange[column][0]))]
