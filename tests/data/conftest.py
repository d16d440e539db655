"""What tests of the data share."""

from __future__ import annotations

import pytest


@pytest.fixture
def minari(tmp_path, monkeypatch):
    """Minari, with a folder of datasets of its own."""
    module = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return module
