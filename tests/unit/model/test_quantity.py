"""Resource quantities."""

from __future__ import annotations

import pytest

from kops_py.model.quantity import millis, whole


@pytest.mark.parametrize(
    ("text", "thousandths"),
    [("0", 0), ("1", 1000), ("0.5", 500), (".5", 500), ("250m", 250), ("1500m", 1500), ("100u", 1), ("1n", 1),
     ("2k", 2_000_000), ("1.", 1000), ("1e1", 10_000)],
)  # fmt: skip
def test_cpu(text: str, thousandths: int) -> None:
    assert millis(text) == thousandths


@pytest.mark.parametrize(
    ("text", "units"),
    [("0", 0), ("128Mi", 128 << 20), ("1.5Gi", 3 << 29), ("1Ki", 1024), ("1M", 10**6), ("2E", 2 * 10**18),
     ("1E3", 1000), ("1e3", 1000), ("12e-1", 2), ("128974848000m", 128974848), ("1Ei", 1 << 60)],
)  # fmt: skip
def test_memory(text: str, units: int) -> None:
    assert whole(text) == units


@pytest.mark.parametrize("text", ["", "m", "1mi", "1 Gi", "one", "1ki", "1Gi2"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a resource quantity"):
        whole(text)
