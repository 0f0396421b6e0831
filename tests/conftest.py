"""Hypothesis profiles, and where the shared data is when it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# A red `make test` must be the change's own doing, so it draws the same examples every time;
# `make nightly` looks for new ones.
settings.register_profile("default", max_examples=100, derandomize=True, **_COMMON)
settings.register_profile("nightly", max_examples=2000, **_COMMON)
# A planted bug has to be found; its smallest example interests nobody.
_FOUND = [Phase.explicit, Phase.generate]
settings.register_profile("mutants", derandomize=True, phases=_FOUND, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder with the large data files; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared data is not here")
    return SHARED
