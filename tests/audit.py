"""Known vulnerabilities of the pinned versions, by pip-audit; exceptions stand in pyproject.toml.

    python tests/audit.py [--requirement constraints.txt] [--osv-url URL] [--index URL]
                          [--unless-unanswered]

pip-audit counts a package that its service does not know as no finding, so an index without
advisories looks clean. Here a run that audited nothing is no success: exit code 3, or 0 with
`--unless-unanswered` (for machines that reach no advisory service), and it says so. Findings that
have no exception: exit code 1.

Some copies of the package index have a page for each project and none for each version, which is
what pip-audit asks for. The page of a project carries the advisories of its newest version: where
that is the pinned one, they are taken from there. What stays unknown is named.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import requests
from packaging.utils import canonicalize_version
from pip._internal.models.index import PyPI

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requirement", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--osv-url", help="ask this service instead of the package index")
    parser.add_argument("--index", default=PyPI.pypi_url, help="where the pages of projects are")
    parser.add_argument("--unless-unanswered", action="store_true")
    args = parser.parse_args()
    service = ["--vulnerability-service", "osv", "--osv-url", args.osv_url] if args.osv_url else []
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(args.requirement), "--no-deps",
        "--disable-pip", "--format", "json", "--progress-spinner", "off", *service,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packages = known(done.stdout)
    with ThreadPoolExecutor(8) as pool:
        packages = list(pool.map(partial(completed, index=args.index), packages))
    audited = [p for p in packages if "vulns" in p]
    if not audited:
        why = "it knows none of the packages" if packages else last_line(done.stderr)
        print(f"NOT AUDITED: no advisory service answered ({why})")
        sys.exit(0 if args.unless_unanswered else 3)
    excepted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["fcr"]["audit"]
    findings, used = [], set()
    for package in audited:
        for found in package["vulns"]:
            names = {found["id"], *found.get("aliases", ())}
            if reason := next((excepted[name] for name in sorted(names) if name in excepted), None):
                used |= names & excepted.keys()
                print(f"excepted: {found['id']}, {reason}")
            else:
                fixed = ", ".join(found.get("fix_versions", ())) or "no version"
                findings.append(
                    f"{package['name']} {package['version']}: {'/'.join(sorted(names))}, fixed in "
                    f"{fixed}"
                )
    unknown = [package["name"] for package in packages if "vulns" not in package]
    if unknown:
        print(f"not known to the service: {', '.join(unknown)}")
    for name in sorted(excepted.keys() - used):
        print(f"excepted in pyproject.toml, and not found by this service: {name}")
    print(f"{len(audited)} of {len(packages)} packages audited, {len(findings)} findings")
    print("\n".join(findings))
    sys.exit(1 if findings else 0)


def known(text: str) -> list[dict[str, Any]]:
    """The packages of pip-audit's report; none where it wrote no report."""
    try:
        found: list[dict[str, Any]] = json.loads(text)["dependencies"]
    except (ValueError, KeyError):
        return []
    return found


def completed(package: dict[str, Any], index: str) -> dict[str, Any]:
    """`package` with the advisories of its project's newest version, if that is the pinned one."""
    pinned = re.search(r"\((\S+)\)$", package.get("skip_reason", ""))
    if not pinned:
        return package
    try:
        answer = requests.get(f"{index}/{package['name']}/json", timeout=30)
        answer.raise_for_status()
        page = answer.json()
        newest, advisories = page["info"]["version"], page["vulnerabilities"]
    except (requests.RequestException, KeyError, TypeError):
        return package
    if canonicalize_version(newest) != canonicalize_version(pinned[1]):
        return package
    found = [
        {**advisory, "fix_versions": advisory.get("fixed_in") or ()}
        for advisory in advisories
        if not advisory.get("withdrawn")
    ]
    return {"name": package["name"], "version": newest, "vulns": found}


def last_line(text: str) -> str:
    return (text.strip() or "pip-audit said nothing").splitlines()[-1][:200]


if __name__ == "__main__":
    main()
