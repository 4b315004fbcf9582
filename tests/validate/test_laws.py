"""The organism that ships obeys its world, by `svdlab organism verify --quick`.

In every run tests/organism/test_weights.py sees that weights and clips are still the verified ones.
"""

import pytest

from svdlab.probes import verify


@pytest.mark.validate
def test_the_shipped_organism_obeys_its_laws() -> None:
    table = verify.verify("organism", quick=True)
    assert len(table) >= 17
    failed = table[table.passed.eq(False)]
    assert failed.empty, failed.to_string()
