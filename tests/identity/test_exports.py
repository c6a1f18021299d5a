import kumiai.identity


def test_every_public_name_is_there_and_in_order() -> None:
    names = kumiai.identity.__all__

    assert sorted(names) == list(names)
    assert all(hasattr(kumiai.identity, name) for name in names)
