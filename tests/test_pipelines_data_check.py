"""Checking, describing and getting datasets: every known flaw is found, sound data has none."""

import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import InputError
from pipelines.data import prepare
from pipelines.data_check import check, identify
from pipelines.data_cli import DATASETS, data
from pipelines.data_get import DOWNLOADS, explain, get
from pipelines.describe import describe, describe_data, gini, spread

HEADER = (
    "article_id,product_code,prod_name,product_type_name,graphical_appearance_name,"
    "colour_group_name,detail_desc"
)
ARTICLES = [
    "0100000001,1,Top,Top,Solid,Black,Jersey top.",
    "0100000002,2,Socks,Socks,Stripe,Blue,Ribbed socks in cotton.",
    "0100000003,3,Hat,Hat/beanie,Solid,Black,",
]
PURCHASES = [
    "2020-01-01,a,0100000001,0.1,1",
    "2020-01-09,a,0100000002,0.1,1",
    "2020-01-09,b,0100000001,0.1,1",
]
TODAY = date(2024, 1, 1)


def shop(
    folder: Path,
    articles: list[str] = ARTICLES,
    purchases: list[str] = PURCHASES,
    pictures: dict[str, int] | None = None,
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "articles.csv").write_text("\n".join([HEADER, *articles]) + "\n")
    (folder / "customers.csv").write_text("customer_id\na\nb\n")
    head = "t_dat,customer_id,article_id,price,sales_channel_id"
    (folder / "transactions_train.csv").write_text("\n".join([head, *purchases]) + "\n")
    for id, shade in (pictures or {f"010000000{i}": i for i in (1, 2, 3)}).items():
        path = folder / "images" / id[:3] / f"{id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 12), (shade * 20, 0, 0)).save(path)
    return folder


def found(folder: Path, **options: Any) -> dict[str, tuple[int, bool]]:
    return {f.kind: (f.count, f.wrong) for f in check(folder, today=TODAY, **options).findings}


SOUND = {"article without description": (1, False), "article without purchases": (1, False)}


def test_a_sound_shop(tmp_path: Path) -> None:
    page = check(shop(tmp_path), today=TODAY)
    assert {f.kind: (f.count, f.wrong) for f in page.findings} == SOUND
    assert page.counts == {"articles": 3, "photos": 3, "customers": 2, "purchases": 3}
    assert "nothing found that would make results wrong" in page.text()
    assert json.loads(page.json())["findings"][0]["count"] == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"purchases": [*PURCHASES, "2031-01-01,a,0100000003,0.1,1"]},
            {"purchase in the future": (1, True)},
        ),
        (
            {"purchases": [*PURCHASES, "0202-01-01,a,0100000003,0.1,1"]},
            {"purchase before 1990": (1, True)},
        ),
        (
            {"purchases": [*PURCHASES, "2020-13-01,a,0100000003,0.1,1"]},
            {"purchase with an unreadable date": (1, True)},
        ),
        (
            {"articles": [row.removeprefix("0") for row in ARTICLES]},
            {"article_id that lost its leading zero": (3, True)},
        ),
        (
            {"articles": [*ARTICLES[:2], "0100000003,3,Hat,Hat,Solid,Black,like 100000002"]},
            {"caption that names another example's id": (1, True)},
        ),
        (
            {"purchases": [*PURCHASES, PURCHASES[0], "2020-01-02,a,0100000003,,1"]},
            {
                "purchase of the same article by the same customer on the same day": (1, False),
                "purchase without a price": (1, False),
            },
        ),
        (
            {"pictures": {"0100000001": 1, "0100000002": 1, "0100000009": 3}},
            {
                "article without photo": (1, False),
                "photo of an unknown article": (1, False),
                "photo that articles of several products share": (1, False),
            },
        ),
    ],
)
def test_flaws_of_tables_are_found(
    tmp_path: Path, change: dict[str, Any], expected: dict[str, tuple[int, bool]]
) -> None:
    kinds = found(shop(tmp_path, **change))
    assert {k: v for k, v in kinds.items() if k not in SOUND} == expected


def test_broken_photos_are_found_without_decoding_all(tmp_path: Path) -> None:
    shop(tmp_path)
    photos = sorted((tmp_path / "images").rglob("*.jpg"))
    photos[0].write_bytes(photos[0].read_bytes()[:-30])
    photos[1].write_bytes(b"")
    assert found(tmp_path)["photo that can't be read"] == (2, False)
    assert "photo that can't be read" not in found(tmp_path, photos=False)


def test_tables_that_cannot_be_read_are_a_finding(tmp_path: Path) -> None:
    shop(tmp_path, ["../../etc,1,a,b,c,d,e"])
    page = check(tmp_path)
    assert [(f.kind, f.wrong) for f in page.findings] == [("H&M tables that can't be read", True)]
    assert "no article id" in page.text()


def flickr(folder: Path, n: int = 10) -> Path:
    folder.mkdir()
    lines = [f"{i}.jpg,caption {j} of {i}" for i in range(n) for j in range(2)]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    for i in range(n):
        Image.new("RGB", (4, 2), (i * 10, 0, 0)).save(folder / f"{i}.jpg")
    return folder


def test_prepared_sets_are_checked_against_their_manifest_and_across_parts(tmp_path: Path) -> None:
    raw, out = flickr(tmp_path / "raw"), tmp_path / "out"
    assert found(raw) == {}
    sizes = {"train": 5, "test": 5}
    prepare("flickr8k", raw, out, split="random", sizes=sizes, say=lambda line: None)
    assert found(out) == {}
    document = json.loads((out / "captions.json").read_text())
    parts = {i["id"]: i["split"] for i in document["images"]}
    train, test = (next(i for i, p in parts.items() if p == part) for part in ("train", "test"))
    shutil.copy(raw / f"{train}.jpg", raw / f"{test}.jpg")
    assert found(out) == {"photo that stands in two splits": (1, True)}
    by_image = {a["image_id"]: a for a in document["annotations"]}
    by_image[test]["caption"] = by_image[train]["caption"]
    (out / "captions.json").write_text(json.dumps(document))
    assert found(out) == {
        "photo that stands in two splits": (1, True),
        "file that is not what was prepared": (1, True),
        "caption of split 'test' that stands in train word for word": (1, True),
    }
    (out / "manifest.json").unlink()
    assert found(out)["missing manifest"] == (1, True)


def test_facad_files_are_checked_row_by_row(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs h5py: pip install 'fcr[facad]'")
    from tests import facad_files as files

    pixels = {row: files.picture(row) for row in range(6)}
    files.write_part(tmp_path, "TRAIN", 6, pixels=pixels)
    assert found(tmp_path) == {"missing part": (1, False)}
    pixels = {0: files.picture(0), 1: files.picture(3), 2: files.picture(9)}
    files.write_part(tmp_path, "TEST", 4, pixels=pixels, first=6)
    assert found(tmp_path) == {
        "missing part": (1, False),
        "photo that stands under different captions": (2, True),
        "blank photo": (1, True),
    }
    files.write_part(tmp_path, "TEST", 4, pixels=pixels, CAPTIONS=[files.encode(["dress"])] * 3)
    assert found(tmp_path, photos=False)["file out of step in TEST"] == (1, True)


def test_unknown_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        check(tmp_path / "nowhere")
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(InputError, match="no dataset that is known"):
        check(tmp_path)
    (tmp_path / "prepare.json").write_text("{}")
    with pytest.raises(InputError, match="interrupted"):
        check(tmp_path)
    (tmp_path / "prepare.json").unlink()
    (tmp_path / "captions.txt").write_text("")
    assert identify(tmp_path) == ("Flickr captions",)


CELLS = st.text('0123456789ab-, ."\n\r\x00é', max_size=12)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(articles=st.lists(CELLS, max_size=4), purchases=st.lists(CELLS, max_size=4))
def test_no_tables_break_the_check(
    tmp_path: Path, articles: list[str], purchases: list[str]
) -> None:
    shop(tmp_path, [*ARTICLES, *articles], [*PURCHASES, *purchases])
    page = check(tmp_path, today=TODAY, photos=False)
    assert page.text()


def test_spread_and_gini() -> None:
    assert spread([]) is None
    found = spread([1, 2, 3, 4, 100])
    assert found == pytest.approx(
        {"n": 5, "min": 1, "p5": 1.2, "median": 3, "mean": 22, "p95": 80.8, "max": 100}
    )
    assert gini([5, 5, 5]) == pytest.approx(0)
    assert gini([0, 0, 0, 1]) == pytest.approx(0.75)  # 1 - 1/n
    assert gini([1, 3]) == pytest.approx(0.25)
    assert gini([]) == 0


def test_the_description_counts_what_is_there(tmp_path: Path) -> None:
    facts = describe_data(shop(tmp_path))
    assert facts["captions"]["captions"] == 2
    assert facts["captions"]["missing"] == 1
    assert facts["captions"]["a_photo"] == {"0": 1, "1": 2}
    assert facts["captions"]["words"]["median"] == 3.0  # 2 and 4 words
    assert facts["captions"]["of_words"] == [0, 0, 1, 0, 1]
    common = dict(facts["captions"]["common"]["top"])
    assert common == dict.fromkeys(("cotton", "jersey", "ribbed", "socks", "top"), 1)
    assert facts["categories"]["top"] == [("Hat/beanie", 1), ("Socks", 1), ("Top", 1)]
    assert facts["tables"]["colour_group_name"]["top"][0] == ("Black", 2)
    assert facts["photos"]["sizes"]["top"] == [("8 x 12", 3)]
    assert facts["photos"]["ratio"]["max"] == pytest.approx(8 / 12)
    bought = facts["purchases"]
    assert bought["by_week"] == [["2019-12-30", 1], ["2020-01-06", 2]]
    assert (bought["articles"], bought["articles_without"]) == (2, 1)
    assert bought["popularity"][0] == 0
    assert bought["popularity"][50] == pytest.approx(2 / 3)  # one of two articles has two of three
    assert bought["popularity"][100] == 1
    assert bought["of_history"] == [0, 1, 1]


def test_the_page_shows_texts_as_texts(tmp_path: Path) -> None:
    rows = ["0100000001,1,Top,<script>alert(1)</script>,Solid,Black,<b>Bold</b> top.", ARTICLES[1]]
    path = describe(shop(tmp_path / "raw", rows), tmp_path / "out")
    html = path.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "http" not in html.replace("http-equiv", "")  # nothing is fetched
    assert html.count("<svg") == 4
    first = (tmp_path / "out" / "description.json").read_bytes()
    describe(tmp_path / "raw", tmp_path / "out")
    assert (tmp_path / "out" / "description.json").read_bytes() == first
    assert path.read_text() == html


def test_text_only_and_empty_parts_are_described(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("1.jpg,a dog\n2.jpg,a dog\n")
    facts = describe_data(tmp_path)
    assert facts["photos"]["missing"] == 2
    assert facts["photos"]["width"] is None
    assert facts["captions"]["repeated"] == 2
    assert describe(tmp_path, tmp_path / "out").is_file()


def run(*arguments: str) -> Any:
    return CliRunner().invoke(data, list(arguments))


def test_commands(tmp_path: Path) -> None:
    raw, out = str(flickr(tmp_path / "raw")), str(tmp_path / "out")
    done = run("prepare", "flickr8k", "--source", raw, "--out", out, "--size", "train=6,test=4")
    assert done.exit_code == 0, done.output
    assert "train 6, test 4" in done.output
    done = run("check", out)
    assert (done.exit_code, "nothing found" in done.output) == (0, True)
    done = run("describe", out, "--out", str(tmp_path / "page"))
    assert (tmp_path / "page" / "description.html").is_file(), done.output
    (tmp_path / "out" / "captions.json").write_text("{}")
    done = run("check", out, "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["findings"][0]["wrong"] is True
    done = run("prepare", "flickr8k", "--source", raw, "--out", out, "--size", "many")
    assert isinstance(done.exception, InputError)


def test_commands_import_nothing_heavy() -> None:
    heavy = {"torch", "polars", "numpy", "PIL", "transformers", "matplotlib", "jinja2"}
    code = f"import pipelines.data_cli, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_getting_explains_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is called without the user's word; with it, Kaggle's gets exactly its arguments."""
    client = tmp_path / "bin" / "kaggle"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\nexit ${{KAGGLE_CODE:-0}}\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:/usr/bin:/bin")
    assert set(DOWNLOADS) == set(DATASETS)
    for name in DATASETS:
        told = run("get", name).output
        assert told.strip() == explain(name)
        assert DOWNLOADS[name].home in told
        assert "terms" in told
    assert run("get").output.count("home") == len(DATASETS)
    assert not (tmp_path / "called").exists()
    out = tmp_path / "out"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10**12))
    assert run("get", "hm", "--out", str(out), "--accept-terms").exit_code == 0
    assert (tmp_path / "called").read_text().split() == [
        "competitions", "download", "-c", "h-and-m-personalized-fashion-recommendations",
        "-p", str(out),
    ]  # fmt: skip
    monkeypatch.setenv("KAGGLE_CODE", "3")
    with pytest.raises(InputError, match="ended with code 3"):
        get("flickr8k", out)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(InputError, match="pip install kaggle"):
        get("hm", out)
    with pytest.raises(InputError, match="on request by e-mail"):
        get("facad", out)
    with pytest.raises(InputError, match="use --client kaggle"):
        get("hm", out, client="huggingface")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 10**9))
    with pytest.raises(InputError, match="1 GB free"):
        get("hm", out)


def test_real_data_is_sound(shared: Path) -> None:
    page = check(shared / "hm-sample", today=date(2026, 1, 1), photos=False)
    assert page.wrong == ()
    assert page.counts["articles"] == 105_542
    kinds = {f.kind: f.count for f in page.findings}
    assert kinds["article without description"] == 416
    assert kinds["article without photo"] == 105_542 - 17_033
    assert check(shared / "flickr8k-sample").findings == ()
