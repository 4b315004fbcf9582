"""The full verification of both organisms; its tables go into the model card. About an hour on two cores."""

import pytest

from svdlab.probes import verify

pytestmark = pytest.mark.validate


@pytest.mark.parametrize("checkpoint", ["organism"])
def test_the_organism_obeys_its_laws(checkpoint, tmp_path):
    table = verify.verify(checkpoint, out=tmp_path)
    verify.into_card(table, f"Verification of {checkpoint}", f"svdlab organism verify {checkpoint}")
    failed = table[table.passed.eq(False)]
    assert failed.empty, failed.to_string()


def test_the_fixed_organism_holds_the_law_where_it_was_tuned():
    table = verify.compare_fixed()
    verify.into_card(table, "organism-fixed against organism", "make validate")
    assert table.passed.dropna().all(), table.to_string()
