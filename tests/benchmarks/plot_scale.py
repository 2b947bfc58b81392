"""What grows with the data and how: the lines of bench_recsys.py and bench_similarity.py as a plot.

    python tests/benchmarks/bench_recsys.py --scale 0.01 0.1 1 --ours > scale.jsonl
    python tests/benchmarks/plot_scale.py scale.jsonl [more.jsonl] --out tests/benchmarks/scale.svg

One line a job, processor seconds and memory against scale, both axes logarithmic; the exponent in
the legend is the slope between the two largest scales (1: linear). Prints the same as a table.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

NAMES = {
    "csv_to_csr": "CSV to CSR",
    "mostpop_top12_all_users": "MostPop, all users",
    "itemknn_fit_top12_all_users": "ItemKNN, all users",
    "rp3beta_fit_top12_all_users": "RP3beta, all users",
    "userknn_fit_top12_all_users": "UserKNN, all users",
}
Points = dict[float, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("scale.svg"))
    options = parser.parse_args()
    jobs = read(options.files)
    print("| job | scale | processor s | MB | exponent |\n|---|---|---|---|---|")
    for job, points in jobs.items():
        for scale, found in sorted(points.items()):
            last = f"{slope(points, 'cpu'):.2f}" if scale == max(points) else ""
            memory = f"{found['mb']:.0f}" if "mb" in found else ""
            print(f"| {job} | {scale:g} | {found['cpu']:.3g} | {memory} | {last} |")
    draw(jobs, options.out)


def read(files: list[Path]) -> dict[str, Points]:
    """job -> scale -> best processor seconds and memory in MB."""
    jobs: dict[str, Points] = defaultdict(dict)
    for line in "\n".join(path.read_text() for path in files).splitlines():
        found = json.loads(line) if line.startswith("{") else {}
        if found.get("scale") is None or "ours_cpu_s" not in found:
            continue
        name = found.get("name") or NAMES.get(found["job"], found["job"])
        point = jobs[name].setdefault(found["scale"], {})
        point["cpu"] = min(point.get("cpu", math.inf), found["ours_cpu_s"])
        # Below 5 MB it is noise; of a job with a name it is the peak of both sides.
        if found.get("rss_mb", 0) >= 5 and "name" not in found:
            point["mb"] = max(point.get("mb", 0.0), found["rss_mb"])
    return jobs


def slope(points: Points, what: str) -> float:
    """d log(cost) / d log(scale) between the two largest scales; nan where there is one."""
    low, high = ([math.nan] * 2 + sorted(s for s in points if what in points[s]))[-2:]
    if math.isnan(low):
        return math.nan
    return math.log(points[high][what] / points[low][what]) / math.log(high / low)


def draw(jobs: dict[str, Points], out: Path) -> None:
    plt.rcParams |= {"svg.hashsalt": "fcr", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    for panel, what, title in zip(
        panels, ("cpu", "mb"), ("processor seconds", "memory, MB beyond the data"), strict=True
    ):
        panel.set(xscale="log", yscale="log", title=title)
        for place, (job, points) in enumerate(jobs.items()):
            scales = sorted(s for s in points if what in points[s])
            if not scales:
                continue
            panel.plot(
                scales,
                [points[s][what] for s in scales],
                marker="osD^v<>P"[place % 8],
                label=f"{job}: {slope(points, what):.2f}",
            )
        low, high = panel.get_ylim()
        scales = sorted({s for points in jobs.values() for s in points})
        panel.plot(scales, [high * s for s in scales], "k--", lw=0.8, label="linear: 1.00")
        panel.set_ylim(low, high)
        panel.set_xlabel("scale (1: 1.36 M customers, 31.8 M purchases)")
        panel.legend(title="job: exponent", fontsize=7)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
