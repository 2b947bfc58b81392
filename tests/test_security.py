"""What foreign files must not be able to do: run code, leave their folder, fill the memory."""

import ast
import gzip
import json
import pickle
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

import caption
import pipelines
import recsys
from tests.tiny_blip import make_blip

ROOT = Path(__file__).resolve().parents[1]


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def calls(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Every call of a source file: (dotted name, keyword -> its value where that is constant)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            given = {
                k.arg: k.value.value if isinstance(k.value, ast.Constant) else k.value
                for k in node.keywords
                if k.arg
            }
            found.append((ast.unparse(node.func), given))
    return found


def test_the_code_unpickles_unpacks_and_runs_nothing_foreign() -> None:
    forbidden = {"eval", "exec", "yaml.load", "pickle.load", "pickle.loads", "joblib.load"}
    seen = 0
    for package in ("caption", "recsys", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "import pickle" not in text, path
            for name, given in calls(path):
                seen += 1
                assert name not in forbidden, (path, name)
                assert not name.endswith((".extractall", ".unpack_archive")), (path, name)
                assert given.get("shell") is not True, (path, name)
                assert given.get("allow_pickle") is not True, (path, name)
                assert given.get("trust_remote_code") is not True, (path, name)
                if name == "torch.load":
                    assert given.get("weights_only") is True, path
                if name.startswith("Auto") and path.name != "probe.py":  # which reads our own alone
                    assert "trust_remote_code" in given, f"{path}: it may ask on the terminal"
    assert seen > 5000


def test_a_pickled_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    from caption.captioners import load_captioner

    folder = make_blip(tmp_path / "blip")
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(caption.InputError, match="cannot be loaded"):
        load_captioner(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "a/b.safetensors"])
def test_an_index_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    from caption.captioners import load_captioner
    from recsys.encoders import encode

    folder, sbert = make_blip(tmp_path / "blip"), tmp_path / "sbert"
    shutil.copytree(ROOT / "data/demo/sbert", sbert)
    for place in (folder, sbert):
        weights = next(place.rglob("model.safetensors"))
        weights.rename(weights.with_name("part.safetensors"))
        index = {"metadata": {}, "weight_map": {"a": "part.safetensors", "b": name}}
        weights.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(caption.InputError, match=r"index\.json names .*files beside it"):
        load_captioner(folder)
    with pytest.raises(recsys.InputError, match=r"index\.json names .*files beside it"):
        encode(f"sbert:{sbert}", texts=["a red shirt"])


def test_pickled_weights_need_a_torch_that_reads_them_safely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caption import trust

    folder = make_blip(tmp_path / "blip")
    (folder / "training_args.bin").write_bytes(b"beside safetensors, which are read")
    monkeypatch.delenv(trust.TRUST, raising=False)
    monkeypatch.setattr(trust, "version", lambda _: "2.9.1+cpu")
    assert trust.checked(folder) == folder
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(caption.InputError, match=r"\.bin holds pickled .*torch 2\.9\.1.*2\.10"):
        trust.checked(folder)
    monkeypatch.setattr(trust, "version", lambda _: "2.13.0+cpu")
    assert trust.checked(folder) == folder


def test_no_library_unpickles_while_a_tagger_is_loaded(tmp_path: Path) -> None:
    import torch

    from caption.attributes import _tensors_only

    mark, real = tmp_path / "ran", torch.load
    torch.save({"word": Payload(mark)}, tmp_path / "model.pt")
    with _tensors_only(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "model.pt", weights_only=False)
    assert not mark.exists()
    assert torch.load is real


def test_the_audit_fails_on_findings_and_on_silence(tmp_path: Path) -> None:
    """pip-audit itself, against a service of ours that knows one weakness."""
    pytest.importorskip("pip_audit")
    from tests.audit import completed

    class Service(BaseHTTPRequestHandler):
        answers = True

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = asked["package"]["name"]
            identifier = {"jinja2": "CVE-1999-0001", "joblib": "CVE-2024-34997"}.get(package)
            found = [{
                "id": identifier, "summary": "s", "details": "d",
                "affected": [{"package": {"name": package, "ecosystem": "PyPI"},
                              "versions": [asked["version"]]}],
            }] if identifier else []  # fmt: skip
            self.send_response(200 if self.answers else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": found} if found else {}).encode())

        def do_GET(self) -> None:
            """The newest version of a project; a page of one version is unknown here."""
            newest = {
                "info": {"version": "1.2.0"},
                "vulnerabilities": [
                    {"id": "PYSEC-1999-1", "aliases": ["CVE-1999-0002"], "fixed_in": []},
                    {"id": "PYSEC-1999-2", "withdrawn": "1999-12-31T00:00:00Z"},
                ],
            }
            self.send_response(200 if self.path == "/pypi/nobodys-package/json" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(newest).encode())

        def log_message(self, *_: object) -> None: ...

    pins = tmp_path / "pins.txt"
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def audit(text: str, *options: str) -> tuple[int, str]:
            pins.write_text(text)
            url = f"http://127.0.0.1:{server.server_port}/v1/query"
            command = [sys.executable, ROOT / "tests/audit.py", "--requirement", pins]
            done = subprocess.run(
                [*command, "--osv-url", url, *options], capture_output=True, text=True, check=False
            )
            return done.returncode, done.stdout

        code, said = audit("jinja2==3.1.6\nclick==8.5.1\n")
        assert code == 1
        assert "jinja2 3.1.6: CVE-1999-0001, fixed in no version" in said
        code, said = audit("joblib==1.6.0\nclick==8.5.1\n")
        assert code == 0
        assert "excepted: CVE-2024-34997, joblib disputes it" in said
        assert "2 of 2 packages audited, 0 findings" in said
        Service.answers = False
        code, said = audit("click==8.5.1\n")
        assert code == 3
        assert said.startswith("NOT AUDITED")
        assert audit("click==8.5.1\n", "--unless-unanswered")[0] == 0
        index = f"http://127.0.0.1:{server.server_port}/pypi"
        skipped = "Dependency not found and could not be audited: nobodys-package"
        package = {"name": "nobodys-package", "skip_reason": f"{skipped} (1.2)"}
        (advisory,) = completed(package, index)["vulns"]
        assert (advisory["id"], advisory["fix_versions"]) == ("PYSEC-1999-1", ())
        older = {**package, "skip_reason": f"{skipped} (1.1)"}
        assert completed(older, index) == older, "the newest version says nothing of an older one"
        elsewhere = {**package, "name": "unknown"}
        assert completed(elsewhere, index) == elsewhere
        server.shutdown()


@pytest.fixture
def own_code(tmp_path: Path) -> tuple[Path, Path]:
    """A sentence encoder whose pooling is a class of its own, and the file that class creates."""
    folder = tmp_path / "sbert"
    shutil.copytree(ROOT / "data/demo/sbert", folder)
    mark = tmp_path / "ran"
    (folder / "mine.py").write_text(
        "from sentence_transformers.sentence_transformer.modules import Pooling as Base\n"
        f"open({str(mark)!r}, 'w').close()\n"
        "class Pooling(Base):\n    pass\n"
    )
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        if module["type"].endswith("Pooling"):
            module["type"] = "mine.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder, mark


def test_code_of_an_encoder_runs_only_where_trusted(
    own_code: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recsys.encoders import encode
    from recsys.trust import TRUST

    folder, mark = own_code
    monkeypatch.delenv(TRUST, raising=False)
    with pytest.raises(recsys.InputError, match=r"mine\.Pooling.*--trust-remote-code"):
        encode(f"sbert:{folder}", texts=["a red shirt"])
    assert not mark.exists()
    monkeypatch.setenv(TRUST, "1")
    found = encode(f"sbert:{folder}", texts=["a red shirt"])
    assert mark.exists()
    assert found.vectors.shape[0] == 1
    said = capsys.readouterr().err
    assert str(folder) in said
    assert "--revision" in said


def test_code_of_a_captioner_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from caption.captioners import load_captioner
    from caption.trust import TRUST

    folder, mark = make_blip(tmp_path / "blip"), tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.delenv(TRUST, raising=False)
    with pytest.raises(caption.InputError, match=r"'mine'.*--trust-remote-code"):
        load_captioner(folder)
    assert not mark.exists()
    monkeypatch.setenv(TRUST, "1")
    with pytest.raises(caption.InputError, match="cannot be loaded"):  # it has no such class
        load_captioner(folder)
    assert mark.exists()
    assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize("module", ["trust.py", "parquet.py"])
def test_both_packages_have_the_same_rules(module: str) -> None:
    """They never import each other, so each has the rule; it must be one rule."""
    mine, theirs = (
        (ROOT / package / module).read_text().replace(f"from {package} ", "")
        for package in ("caption", "recsys")
    )
    assert mine == theirs


def test_only_the_option_trusts_and_for_its_call_alone(
    own_code: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from pipelines.cli import main
    from recsys.trust import TRUST, trusted_code

    monkeypatch.setenv(TRUST, "1")  # of some shell profile
    data = tmp_path / "shop"
    shutil.copytree(ROOT / "tests/golden", data)  # any folder that is no shop's
    seen = []
    monkeypatch.setattr("pipelines.run.open_run", lambda **options: seen.append(trusted_code()))
    for options in ([], ["--trust-remote-code"]):
        CliRunner().invoke(main, ["recommend", f"--runs={tmp_path}", *options])
    assert seen == [False, True]
    assert not trusted_code()
    said = CliRunner().invoke(main, ["config", "--set", "captioner.trust_remote_code=true"])
    assert said.exit_code == 2  # no preset can switch it on


@pytest.mark.parametrize("id", ["../x", "/etc/passwd", "a/b", ".hidden", "..", "a\\b", "a\0b"])
def test_ids_lead_out_of_no_folder(tmp_path: Path, id: str) -> None:
    from pipelines.caption_data import lay_out
    from pipelines.catalog import image_path, read_catalog

    with pytest.raises(pipelines.InputError, match="id"):
        image_path(tmp_path, id)
    header = "article_id,product_code,prod_name,product_type_name,graphical_appearance_name"
    (tmp_path / "articles.csv").write_text(
        f"{header},colour_group_name,detail_desc\n{id},1,a,b,c,d,e\n"
    )
    with pytest.raises(pipelines.InputError):
        read_catalog(tmp_path, purchases=False)
    images = [
        {"id": i, "split": part} for i, part in ((id, "train"), ("v", "validation"), ("t", "test"))
    ]
    notes = [{"image_id": image["id"], "caption": "a shirt"} for image in images]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": notes}))
    with pytest.raises(pipelines.InputError, match="file names"):
        lay_out(tmp_path / "c.json", tmp_path / "laid")
    assert not (tmp_path / "laid").exists()


def test_a_manifest_that_names_files_elsewhere_vouches_for_nothing(tmp_path: Path) -> None:
    from pipelines.workspace import SEAL, Workspace, content_key

    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    workspace = Workspace.open("r", tmp_path)
    (tmp_path / "r/s").mkdir()
    forged = {"key": "k", "files": {"../../kept.txt": "0"}, "record": {}}
    sealed = {**forged, SEAL: content_key(forged)}
    (tmp_path / "r/s/manifest.json").write_text(json.dumps(sealed))
    assert workspace.manifest("s") is None
    with workspace.stage("s", config={}, inputs={}, seed=0, say=str):
        pass
    assert kept.read_text() == "mine"


def test_ratings_hold_no_formula_and_come_back_as_they_were(tmp_path: Path) -> None:
    from pipelines.ratings import rate, read_ratings

    texts = ["=HYPERLINK(1)", "+1", "-x", "@a", "'=quoted", "'plain", "a = b"]
    for n, text in enumerate(texts):
        rate(
            tmp_path, rater="=cmd()", article_id=str(n), captions=[("c", text, 3)], kind="stars",
            blinded=True,
        )  # fmt: skip
    raw = pl.read_csv(tmp_path / "ratings/ratings.csv", infer_schema=False)
    for column in ("rater", "caption"):
        assert not raw[column].str.contains(r"^[=+\-@\t\r]").any()
    assert read_ratings(tmp_path)["caption"].to_list() == texts
    assert set(read_ratings(tmp_path)["rater"]) == {"=cmd()"}


def test_a_gzip_bomb_is_refused_within_little_memory(tmp_path: Path) -> None:
    (tmp_path / "train_images.txt").write_text("a.jpg\n")
    with gzip.open(tmp_path / "train.1.en.gz", "wb") as file:
        for _ in range(400):
            file.write(b"a" * (1 << 20))
    assert (tmp_path / "train.1.en.gz").stat().st_size < 1 << 20
    code = (
        "import resource, sys; from pathlib import Path; import caption\n"
        "from caption.flickr import read_flickr\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_flickr(Path(sys.argv[1]))\n"
        "except caption.InputError as error: print(error)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "longer than" in done.stdout


def test_a_photo_of_100_megapixels_costs_no_memory(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("1", (10_000, 10_001)).save(tmp_path / "large.png")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from caption.images import UnreadableImage, open_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: open_image(Path(sys.argv[1]))\n"
        "except UnreadableImage as error: print(error.reason)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.png")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "pixels" in done.stdout
