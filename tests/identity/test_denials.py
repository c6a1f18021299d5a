from kumiai.identity import Identity, NoDenials, Role


def test_who_keeps_no_sites_denies_nobody() -> None:
    identity = Identity("hospitals", Role.CLIENT, "site-1", serial=7, not_after=1e9)

    assert NoDenials().is_denied(identity) is None
