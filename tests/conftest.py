"""Fixtures every test file may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A submission is judged on the cases it was tested with; everybody else's run looks for new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Research data beside the checkout (`../shared`); tests that need it skip without."""
    if not SHARED.is_dir():
        pytest.skip("needs the research data in ../shared, which is not here")
    return SHARED
