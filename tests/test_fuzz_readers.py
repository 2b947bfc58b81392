"""Every reader under inputs that nobody wrote; those that once made one stumble stay here."""

import resource
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import fuzz

SURROGATES = (
    b'{"images": [{"id": "\\ud800"}], '
    b'"annotations": [{"image_id": "\\ud800", "caption": "\\udfff"}]}'
)
STUMBLED = [
    ("interactions", b"\x03user_id,item_id,time,rating\nu1,1\x00\x802018-09-25007,2018-09-21,1\n"),
    ("interactions", b"d,item_id,time,rating\nu1,1,2018-09-20,5\nu2,007,2018-09-21,1.5\n"),
    ("interactions", b'\x00user_id,item_id\r\n2",2\n'),
    ("catalog", b"\x00\t,"),
    ("catalog", b"karticle_id, article_id \n1,2\n"),
    ("saved", b"tuser\titem\tscore\tsettin,u\ta\t1\ts\n\n===\nuser\titem\trelevance\nu\ta\t1"),
    ("coco", b'{"images": [{"id": 1, "file_name": 7}], "annotations": [{"image_id": 1}]}'),
    ("coco", SURROGATES),
    ("coco", b'{"images":' + b"[" * 100_000),
    ("coco", b'{"images": [], "annotations": [], "info": [1]}'),
    ("caption lines", b'\x03raw,split,filename\n"[""a dog"", ""a cat"",,train,a.jpg\n'),
    ("caption lines", b'\x03raw,split,filename\n"[""a dog"", ""a cat""]",a.\xef\xbb\xbfjpg\n'),
    ("facad", b'w{"<start>": 1e9991, "<end>": 2}\n===\n[[1, 2]]\n===\n[2]\n===\n[[2]]\n===\n[1]'),
    ("facad", b'w{"a":' + b"[" * 100_000 + b"\n===\n[[1, 2]]\n===\n[2]\n===\n[[2]]\n===\n[1]"),
    ("config", b"seed=2001-99-99"),
    ("config", b"!!timestamp"),
    ("config", b"seed: " + b"9" * 5000),
    ("config", b"\xff"),
    ("config", b"a: &a [" + b"[" * 3000),
    ("run files", b'{"fil{es": {"../x": "0"}}\n===\n{"data": "."}'),
    ("run files", b'{}\n===\n{"data": "/nowhere", "config": "hm-small"}{'),
    ("run files", b'{}\n===\n{"data": 3}'),
    ("ratings", b"v" + b"," * 2000 + b"\n"),
    ("tokenizer", b"#\xc2\xad\xc2\xad"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data"), STUMBLED, ids=[f"{n}-{i}" for i, (n, _) in enumerate(STUMBLED)]
)
def test_what_once_made_a_reader_stumble(name: str, data: bytes) -> None:
    chosen = fuzz.target(name)
    fuzz.check(
        chosen, chosen.samples[0]
    )  # the first call compiles kernels, for as long as it takes
    with fuzz.patience():
        assert fuzz.check(chosen, data) in ("taken", "refused")


def test_half_of_a_surrogate_pair_can_be_written_again(tmp_path: Path) -> None:
    from caption.records import CaptionSet

    path = tmp_path / "captions.json"
    path.write_bytes(SURROGATES)
    CaptionSet.load(path).save(path)
    assert CaptionSet.load(path).examples[0].captions == ("?",)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_samples_of_each_format_are_taken(name: str) -> None:
    chosen = fuzz.target(name)
    assert "taken" in {fuzz.check(chosen, sample) for sample in chosen.samples}


@pytest.mark.parametrize("name", fuzz.TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken TIFF tags
def test_any_input_is_taken_or_refused_in_our_own_words(name: str) -> None:
    chosen = fuzz.target(name)
    for sample in chosen.samples:
        fuzz.check(chosen, sample)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(fuzz.inputs(chosen))
    def tried(data: bytes) -> None:
        with fuzz.patience():
            assert fuzz.check(chosen, data) in ("taken", "refused")

    tried()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < fuzz.ROOM


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=4000))
def test_a_refusal_stays_readable_however_long_what_it_names(text: str) -> None:
    import caption
    import pipelines
    import recsys

    for kind in (caption.InputError, recsys.InputError, pipelines.InputError):
        said = str(kind(text))
        assert len(said) <= fuzz.LONGEST_MESSAGE
        assert said == text or (said[:1000], said[-400:]) == (text[:1000], text[-400:])


def test_a_page_of_fewer_values_than_none_is_refused(tmp_path: Path) -> None:
    """polars asks for exabytes then, and the process is gone."""
    from caption.metrics.files import read_hypotheses
    from recsys.readers import read_interactions
    from recsys.saved import read_recommendations

    path = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": ["1", "2"], "item_id": ["a", None]}).write_parquet(path)
    data = path.read_bytes()
    at = data.rindex(b"\x2c\x15\x04\x15") + 2  # a data page's header, and in it 2 as zigzag
    path.write_bytes(data[:at] + b"\x05" + data[at + 1 :])  # -3: one bit
    for read in (read_hypotheses, read_recommendations, read_interactions):
        with pytest.raises(ValueError, match=r"page of column item_id states an impossible number"):
            read(path)  # type: ignore[operator]


@pytest.mark.parametrize(
    "options",
    [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"data_page_size": 500},
     {"compression": "NONE", "version": "1.0"}, {"write_page_index": True}],
    ids=str,
)  # fmt: skip
def test_pages_of_other_writers_are_followed_to_the_end(
    tmp_path: Path, options: dict[str, object]
) -> None:
    import mmap

    from recsys import parquet

    pq = pytest.importorskip("pyarrow.parquet")
    table = pl.DataFrame(
        {"n": range(3000), "t": ["a", None, "long text"] * 1000, "l": [[1, 2], []] * 1500}
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table.to_arrow(), path, row_group_size=1000, **options)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert parquet._impossible(data) is None
    assert pl.read_parquet(parquet.checked_parquet(path))["n"].to_list() == list(range(3000))
