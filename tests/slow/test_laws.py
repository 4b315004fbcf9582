"""The organism that ships obeys its world: what every instrument here is checked against."""

import pytest

from svdlab.probes import verify


@pytest.mark.slow
def test_the_shipped_organism_obeys_its_laws() -> None:
    table = verify.verify("organism", quick=True)
    assert len(table) >= 17
    failed = table[table.passed.eq(False)]
    assert failed.empty, failed.to_string()
