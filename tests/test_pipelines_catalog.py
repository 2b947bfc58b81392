"""Tables: what is repaired, what is counted and dropped, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import InputError
from pipelines.catalog import image_path, interactions_of, read_catalog, read_purchases
from recsys import readers

HEADER = (
    "article_id,product_code,prod_name,product_type_name,graphical_appearance_name,"
    "colour_group_name,detail_desc"
)
ROWS = [
    "0108775015,0108775,Top,Vest top,Solid,Black,Jersey top.",
    "0108775044,0108775,Top,Vest top,Solid,White,Jersey top.",
    '0118458003,0118458,Socks,Socks,Stripe,Blue,"Fine-knit socks, ribbed."',
]
PURCHASES = ["2020-01-02,aa,0108775015,0.02,1", "2020-01-01,bb,0118458003,0.01,2"]


def shop(
    folder: Path,
    articles: list[str] = ROWS,
    purchases: list[str] = PURCHASES,
    header: str = HEADER,
    customers: list[str] | None = None,
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "articles.csv").write_text("\n".join([header, *articles]) + "\n")
    people = ["aa", "bb"] if customers is None else customers
    (folder / "customers.csv").write_text("\n".join(["customer_id", *people]) + "\n")
    head = "t_dat,customer_id,article_id,price,sales_channel_id"
    (folder / "transactions_train.csv").write_text("\n".join([head, *purchases]) + "\n")
    return folder


def kinds(folder: Path) -> dict[str, int]:
    return {f.kind: f.count for f in read_catalog(folder).findings}


def test_a_sound_shop_reads_without_findings(tmp_path: Path) -> None:
    catalog = read_catalog(shop(tmp_path))
    assert catalog.findings == ()
    assert catalog.articles["article_id"].to_list() == ["0108775015", "0108775044", "0118458003"]
    assert catalog.articles["detail_desc"][2] == "Fine-knit socks, ribbed."
    assert catalog.purchases["customer_id"].to_list() == ["bb", "aa"]  # in order of date


def test_ids_that_lost_their_zero_are_padded_everywhere(tmp_path: Path) -> None:
    folder = shop(
        tmp_path,
        [row.removeprefix("0") for row in ROWS],
        [row.replace(",0", ",", 1) for row in PURCHASES],
    )
    findings = read_catalog(folder).findings
    assert [f.count for f in findings] == [3, 2]
    assert {f.kind for f in findings} == {"article_id that lost its leading zero"}
    assert read_catalog(folder).articles["article_id"][0] == "0108775015"
    assert read_catalog(folder).purchases.height == 2


def test_unnamed_index_column_is_ignored(tmp_path: Path) -> None:
    rows = [f"{i},{row}" for i, row in enumerate(ROWS)]
    assert kinds(shop(tmp_path, rows, header=f",{HEADER}")) == {"unnamed index column": 1}
    assert kinds(shop(tmp_path, rows, header=f"Unnamed: 0,{HEADER}")) == {"unnamed index column": 1}


def test_duplicates_unknowns_and_missing_texts_are_counted(tmp_path: Path) -> None:
    folder = shop(
        tmp_path,
        [*ROWS, ROWS[0], "0200000001,0200000,Hat,Hat,Solid,Red,"],
        [*PURCHASES, "2020-01-03,zz,0108775015,0.1,1", "2020-01-03,aa,0999999999,0.1,1"],
    )
    assert kinds(folder) == {
        "article row whose article_id came before": 1,
        "article without description": 1,
        "purchase of an unknown article_id": 1,
        "purchase of an unknown customer_id": 1,
    }
    catalog = read_catalog(folder)
    assert catalog.articles["detail_desc"][3] is None
    assert catalog.purchases.height == 2


def test_duplicate_purchase_rows_are_quantities(tmp_path: Path) -> None:
    assert read_catalog(shop(tmp_path, purchases=[PURCHASES[0]] * 3)).purchases.height == 3


def test_without_customers_file_they_come_from_the_purchases(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    (folder / "customers.csv").unlink()
    assert read_catalog(folder).customers["customer_id"].sort().to_list() == ["aa", "bb"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"header": HEADER.replace("detail_desc", "detail_dsc")}, "did you mean .*'detail_dsc'"),
        ({"articles": ["../../etc/passwd,1,a,b,c,d,e"]}, "no article id"),
        ({"articles": [",1,a,b,c,d,e"]}, "row 2 has article_id"),
        ({"articles": []}, "no rows"),
        ({"purchases": ["02/01/2020,aa,0108775015,1,1"]}, "t_dat that is no date"),
        ({"purchases": ["2020-01-01,zz,0108775015,1,1"]}, "no purchase is left"),
    ],
)
def test_what_would_make_results_wrong_is_refused(
    tmp_path: Path, change: dict[str, list[str]], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        read_catalog(shop(tmp_path, **change))  # type: ignore[arg-type]


def test_bad_dates_can_be_dropped(tmp_path: Path) -> None:
    folder = shop(tmp_path, purchases=[*PURCHASES, "2020-13-01,aa,0108775015,1,1"])
    assert read_catalog(folder, drop_bad_rows=True).purchases.height == 2


def test_missing_and_empty_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_catalog(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is empty"):
        read_catalog(tmp_path)
    shop(tmp_path)
    (tmp_path / "articles.csv").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        read_catalog(tmp_path)
    (tmp_path / "articles.csv").unlink()
    with pytest.raises(InputError, match=r"articles\.csv is missing"):
        read_catalog(tmp_path)


@pytest.mark.parametrize("bad", ["../x", "a/b", "", ".hidden", "a\\b", "0108775015\n"])
def test_photo_paths_never_leave_the_folder(bad: str) -> None:
    with pytest.raises(InputError, match="not an id"):
        image_path(Path("data"), bad)


def test_real_articles(shared: Path) -> None:
    catalog = read_catalog(shared / "hm-sample")
    assert catalog.articles.height == 105_542
    assert {f.kind: f.count for f in catalog.findings} == {"article without description": 416}
    assert sum(p is not None for p in catalog.photos()) == 17_033


def many(n: int = 400) -> list[str]:
    rng = np.random.default_rng(0)
    ids = ["0108775015", "0108775044", "0118458003"]
    return [
        f"2020-0{rng.integers(1, 10)}-1{rng.integers(10)},{rng.choice(['aa', 'bb', 'cc'])},"
        f"{rng.choice(ids)},0.02,1"
        for _ in range(n)
    ]


@pytest.mark.parametrize(
    "case",
    ["sound", "unsorted articles", "lost zeros", "strangers", "no customers", "future", "quoted"],
)
def test_purchases_parsed_straight_are_those_of_the_table(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    articles, purchases, customers = ROWS, many(), ["cc", "aa", "bb", "idle"]
    if case == "unsorted articles":
        articles = ROWS[::-1]
    elif case == "lost zeros":
        purchases = [row.replace(",0", ",", 1) for row in purchases]
        purchases[7] = purchases[7].replace(",1", ", 01", 1)
    elif case == "strangers":
        articles, customers = ROWS[:2], ["aa", "cc"]
    elif case == "future":
        purchases[3] = "2999-01-01,aa,0108775015,1,1"
    elif case == "quoted":
        purchases[3] = '2020-01-01,"aa",0108775015,1,1'
    folder = shop(tmp_path, articles, purchases, customers=customers)
    if case == "no customers":
        (folder / "customers.csv").unlink()
    whole = read_catalog(folder)
    want = interactions_of(whole)
    straight = []
    plain = readers.read_plain
    monkeypatch.setattr(readers, "SMALL", 0)
    monkeypatch.setattr(
        readers, "read_plain", lambda *a, **b: straight.append(plain(*a, **b)) or straight[-1]
    )
    catalog = read_catalog(folder, purchases=False)
    found, findings = read_purchases(catalog)
    assert (straight[0] is None) == (case == "quoted")
    assert found.user_ids.to_list() == want.user_ids.to_list()
    assert found.item_ids.to_list() == want.item_ids.to_list()
    for name in ("event_ptr", "event_items", "event_times", "indptr", "indices", "counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name))
    assert found.dropped == want.dropped
    assert [(f.kind, f.count, f.done) for f in (*catalog.findings, *findings)] == [
        (f.kind, f.count, f.done) for f in whole.findings
    ]


@pytest.mark.parametrize(
    "line",
    ["20.01.2020,aa,0108775015,1,1", "2020-01-01,aa,../x,1,1", "2020-01-01,aa,,1,1", "2020-01-01"],
)
def test_purchases_parsed_straight_refuse_what_the_table_refuses(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shop(tmp_path, purchases=[*many(), line])
    with pytest.raises(InputError) as before:
        read_catalog(folder)
    monkeypatch.setattr(readers, "SMALL", 0)
    with pytest.raises(InputError) as after:
        read_purchases(read_catalog(folder, purchases=False))
    assert str(after.value) == str(before.value)
