from concurrent.futures import ThreadPoolExecutor

import pytest

from humanpref.studies import compare as comparison


@pytest.fixture
def in_this_process(monkeypatch):
    """Run the trainings of a study in this process, which spares the start of others."""
    monkeypatch.setattr(comparison, "fresh_processes", lambda _: ThreadPoolExecutor(1))
