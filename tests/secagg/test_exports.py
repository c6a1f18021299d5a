"""The room offers what its pages promise."""

import kumiai.secagg


def test_the_public_name_is_there() -> None:
    assert "SecureAggregationProtocol" in kumiai.secagg.__all__
