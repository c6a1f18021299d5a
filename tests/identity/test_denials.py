from kumiai.identity import Denial, Identity, NoDenials, Role


def test_who_keeps_no_sites_denies_nobody() -> None:
    identity = Identity("hospitals", Role.CLIENT, "site-1", serial=7, not_after=1e9)

    assert NoDenials().is_denied(identity) is None


def test_the_words_that_stand_in_the_database_stay() -> None:
    assert [*Denial] == ["suspended", "removed", "revoked"]
