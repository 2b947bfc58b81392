"""`fcr data get`: where each dataset comes from, its terms and size; and its owner's client.

Nothing is fetched without the user's word that the owner's terms are accepted, and only by the
owner's client with the user's own account. Where the owner asks for a form or an e-mail, that is
the way, and this command says so.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines import InputError

GIGABYTE = 10**9


@dataclass(frozen=True)
class Download:
    """What there is to know before getting a dataset."""

    title: str
    home: str
    """Where the owner describes it and has the terms."""
    terms: str
    size: str
    """As the owner or the files' layout says; not measured here."""
    gigabytes: float
    """Room a download by client needs with its unpacked copy; 0 where there is no client."""
    how: str
    """What to do, in the owner's way."""
    kaggle: tuple[str, ...] = ()
    """Arguments of Kaggle's client."""
    huggingface: str = ""
    """Dataset repository on the Hugging Face hub."""


DOWNLOADS: dict[str, Download] = {
    "hm": Download(
        "H&M Personalized Fashion Recommendations: 105,542 articles, 1,371,980 customers, "
        "31,788,324 purchases",
        "https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations",
        "the competition's rules, accepted on its page with a Kaggle account; no commercial use",
        "about 35 GB packed, nearly all of it photos",
        70,
        "join the competition on its page, put your API token where "
        "Kaggle's client looks for it, then use the client",
        kaggle=("competitions", "download", "-c", "h-and-m-personalized-fashion-recommendations"),
    ),
    "facad": Download(
        "FACAD (Yang et al. 2020): fashion photos with descriptions, attributes and categories",
        "https://github.com/xuewyang/Fashion_Captioning",
        "the LICENSE file of the repository: no commercial use",
        "196,608 bytes a photo in the preprocessed HDF5 files: 20 GB for every 100,000 photos",
        0,
        "the authors send the preprocessed files on request by e-mail, and link the crawled "
        "meta_all_129927.json in their README; both are read",
    ),
    "flickr30k": Download(
        "Flickr30k (Young et al. 2014): 31,783 photos, 158,915 captions",
        "https://shannon.cs.illinois.edu/DenotationGraph/",
        "non-commercial research and education; the photos stay under Flickr's terms",
        "about 4.5 GB of photos",
        20,
        "fill in the form on the owner's page; once you may use it, copies on Kaggle and the "
        "Hugging Face hub hold the same photos and captions",
        kaggle=("datasets", "download", "-d", "hsankesara/flickr-image-dataset"),
        huggingface="nlphuji/flickr30k",
    ),
    "flickr8k": Download(
        "Flickr8k (Hodosh et al. 2013): 8,091 photos, 40,455 captions",
        "https://forms.illinois.edu/sec/1713398",
        "non-commercial research and education; the photos stay under Flickr's terms",
        "about 1.1 GB",
        3,
        "fill in the owner's form; once you may use it, a copy on Kaggle holds the same photos and "
        "captions",
        kaggle=("datasets", "download", "-d", "adityajn105/flickr8k"),
    ),
    "coco": Download(
        "COCO captions (Chen et al. 2015): 123,287 photos with five captions or more",
        "https://cocodataset.org/#download",
        "annotations CC BY 4.0; the photos stay under Flickr's terms",
        "19 GB of photos (2014), 0.2 GB of annotations",
        0,
        "get train2014.zip, val2014.zip and annotations_trainval2014.zip from the owner's page and "
        "unpack them side by side; put Karpathy's dataset_coco.json beside them for his parts",
    ),
}


def explain(name: str) -> str:
    """What to know before getting the dataset, for the terminal.

    Raises:
        InputError: unknown name.
    """
    found = _named(name)
    lines = [
        found.title, f"  home     {found.home}", f"  terms    {found.terms}",
        f"  size     {found.size}", f"  how      {found.how}",
    ]  # fmt: skip
    if found.kaggle:
        lines.append(f"  kaggle   kaggle {' '.join(found.kaggle)} -p DIR")
    if found.huggingface:
        lines.append(f"  hub      hf download --repo-type dataset {found.huggingface}")
    if found.kaggle or found.huggingface:
        lines.append(f"  or       fcr data get {name} --out DIR --accept-terms")
    lines.append(f"  then     fcr data prepare {name} --source DIR --out PREPARED")
    return "\n".join(lines)


def get(
    name: str, out: Path, *, client: str = "kaggle", say: Callable[[str], None] = print
) -> Path:
    """Call the owner's client; the caller has the user's word that the terms are accepted.

    Args:
        name: a key of `DOWNLOADS`.
        out: folder to download to; created. Both clients go on where they were interrupted.
        client: "kaggle" (its command must be installed) or "huggingface".
        say: receives lines for the user.

    Raises:
        InputError: unknown name, no such way to get it, client missing or failing, disk too small.
    """
    found = _named(name)
    ways = {"kaggle": bool(found.kaggle), "huggingface": bool(found.huggingface)}
    if not ways.get(client):
        have = [way for way, there in ways.items() if there]
        raise InputError(
            f"{name} can't be had by {client}"
            + (f": use --client {have[0]}" if have else f" or any client: {found.how}")
        )
    free = shutil.disk_usage(_existing(out)).free / GIGABYTE
    if free < found.gigabytes:
        raise InputError(
            f"{out} has {free:,.0f} GB free; {name} needs about {found.gigabytes:,.0f} GB with its "
            "unpacked copy: give another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    say(f"{found.title}\nterms: {found.terms} ({found.home})")
    if client == "kaggle":
        _kaggle([*found.kaggle, "-p", str(out)], found)
    else:
        _huggingface(found.huggingface, out)
    return out


def _kaggle(arguments: list[str], found: Download) -> None:
    command = shutil.which("kaggle")
    if command is None:
        raise InputError("Kaggle's client is not installed: pip install kaggle")
    code = subprocess.run([command, *arguments], check=False).returncode
    if code:
        raise InputError(
            f"Kaggle's client ended with code {code}; what it said stands above. Usual reasons: "
            f"the terms are not accepted at {found.home}, or there is no API token"
        )


def _huggingface(repository: str, out: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError("huggingface_hub is not installed: pip install huggingface_hub") from None
    try:
        snapshot_download(repository, repo_type="dataset", local_dir=out)
    except Exception as error:  # the hub's own errors, the network's, the disk's
        raise InputError(f"{repository} can't be downloaded from the hub: {error}") from error


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _named(name: str) -> Download:
    if name not in DOWNLOADS:
        raise InputError(f"unknown dataset {name!r}: expected one of {', '.join(DOWNLOADS)}")
    return DOWNLOADS[name]
