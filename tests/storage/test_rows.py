"""What text becomes before it is stored."""

from kumiai.storage.rows import clean


def test_text_of_other_machines_can_not_steer_a_terminal() -> None:
    shown = clean("bad \x1b]0;title\x07 \x9b2J \r \u202egnp.exe\tfine\nfine")

    assert shown == "bad �]0;title� �2J � �gnp.exe\tfine\nfine"
