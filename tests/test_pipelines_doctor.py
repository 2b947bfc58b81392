"""The doctor: never raises, never calls out, and every missing thing has a cost and a remedy."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines import doctor
from pipelines.doctor import Check, examine, to_json, to_table

HEADER = "t_dat,customer_id,article_id,price,sales_channel_id\n"
ROW = f"2020-09-22,{'a' * 64},0108775015,0.0508,2\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[Check]:
    """This machine, with every way out closed."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the doctor called out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        return examine(run=tmp_path_factory.mktemp("runs") / "new")


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_check_is_complete(here: list[Check]) -> None:
    assert len({check.name for check in here}) == len(here)
    for check in here:
        assert check.found, check
        assert "could not be examined" not in check.found, check
        assert (check.status == "ok") == (not check.cost), check
        assert (check.status == "ok") == (not check.remedy), check


def test_what_the_suite_itself_needs_is_found(here: list[Check]) -> None:
    import faiss
    import torch

    found = by_name(here)
    for name in ("Python", "packages", "FAISS", "run folder"):
        assert found[name].status == "ok", found[name]
    assert torch.__version__ in found["torch"].found
    assert faiss.__version__ in found["FAISS"].found
    gpus = [
        name for name, check in found.items() if name.startswith("GPU") and check.status == "ok"
    ]
    assert len(gpus) == torch.cuda.device_count()
    assert "2,000 articles, 2,000 customers, 60,000 purchases" in found["memory"].found


def test_json_and_table_show_every_check(here: list[Check]) -> None:
    assert [Check(**entry) for entry in json.loads(to_json(here))] == here
    console = Console(record=True, width=300, file=open(os.devnull, "w"))  # noqa: SIM115
    odd = Check("pip install 'ray[tune]'", "missing", "[/red] no", "costs", "do [bold]")
    console.print(to_table([*here, odd]))
    text = console.export_text()
    for check in [*here, odd]:
        assert check.name in text
    assert "[/red] no" in text


def test_without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    (check,) = doctor._java()
    assert check.status == "missing"
    assert "METEOR" in check.cost


def test_corenlp_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FCR_CORENLP", raising=False)
    assert [check.status for check in doctor._corenlp()] == ["missing"]
    monkeypatch.setenv("FCR_CORENLP", str(tmp_path))
    assert [check.status for check in doctor._corenlp()] == ["missing"]
    (tmp_path / "stanford-corenlp-3.6.0.jar").write_bytes(b"PK")
    models = tmp_path / "stanford-corenlp-3.6.0-models.jar"
    models.write_bytes(b"PK")
    (check,) = doctor._corenlp()
    assert (check.status, "only 2 B" in check.found) == ("warning", True)
    os.truncate(models, 360_000_000)
    assert [check.status for check in doctor._corenlp()] == ["ok"]


def test_checkpoint_counts_only_when_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "Salesforce/blip-image-captioning-base"
    folder = tmp_path / "models--Salesforce--blip-image-captioning-base" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    weights.symlink_to(tmp_path / "blob")
    found = by_name(list(doctor._hub()))
    assert "offline by HF_HUB_OFFLINE=1" in found["hub access"].found
    assert found[f"checkpoint {name}"].status == "missing"
    assert "blip-base: can't be used while offline" in found[f"checkpoint {name}"].cost
    (tmp_path / "blob").write_bytes(bytes(5_000_000))
    check = by_name(list(doctor._hub()))[f"checkpoint {name}"]
    assert (check.status, check.found) == ("ok", "5 MB in the cache")


def test_cache_is_where_huggingface_hub_has_it() -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    assert doctor._hub_cache() == Path(constants.HF_HUB_CACHE)


def test_rows_are_counted_or_estimated(tmp_path: Path) -> None:
    table = tmp_path / "transactions_train.csv"
    table.write_text(HEADER + ROW * 10_000)
    assert doctor._rows(table) == 10_000
    assert doctor._rows(table, window=4096) == pytest.approx(10_000, rel=0.02)
    table.write_text("")
    assert doctor._rows(table) == 0


def test_job_larger_than_the_machine(tmp_path: Path) -> None:
    (tmp_path / "articles.csv").write_text("article_id\n0108775015\n")
    (tmp_path / "customers.csv").write_text("customer_id\n")
    table = tmp_path / "transactions_train.csv"
    table.write_text(HEADER + ROW * 20_000)
    os.truncate(table, 2 * 10**12)  # sparse: 18 billion purchases by its first megabyte
    found = by_name(list(doctor._job(tmp_path, tmp_path)))
    assert found["memory"].status == "warning"
    assert found["images"].status == "missing"


def test_missing_data(tmp_path: Path) -> None:
    (check,) = doctor._job(tmp_path / "nowhere", tmp_path)
    assert (check.name, check.status) == ("data", "missing")
    found = by_name(list(doctor._job(tmp_path, tmp_path)))
    for name in ("articles.csv", "customers.csv", "transactions_train.csv", "images"):
        assert found[name].status == "missing"
    assert found["memory"].status == "ok"


def test_real_sample_is_counted(shared: Path, tmp_path: Path) -> None:
    sample = shared / "hm-sample"
    if not sample.is_dir():
        pytest.skip("needs ../shared/hm-sample")
    found = by_name(list(doctor._job(sample, tmp_path)))
    assert "105,542 articles, 1,364 customers, 31,443 purchases" in found["memory"].found


def test_run_folder(tmp_path: Path) -> None:
    (check,) = doctor._run_folder(tmp_path / "a" / "b")
    assert check.status == "ok"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("x")
    (check,) = doctor._run_folder(tmp_path / "file" / "run")
    assert check.status == "missing"
    if os.geteuid() != 0:  # root may write anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        (check,) = doctor._run_folder(closed)
        assert check.status == "missing"


def test_a_broken_probe_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> list[Check]:
        raise RuntimeError("driver says no")

    monkeypatch.setattr(doctor, "_gpu", broken)
    check = by_name(examine(run=tmp_path))["GPU"]
    assert check.status == "warning"
    assert "driver says no" in check.found
