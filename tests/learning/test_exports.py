"""The room's public names."""

import kumiai.learning


def test_the_public_names_are_there_and_in_order() -> None:
    names = kumiai.learning.__all__

    assert all(hasattr(kumiai.learning, name) for name in names)
    assert len(set(names)) == len(names)
