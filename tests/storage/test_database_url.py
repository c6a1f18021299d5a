import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.core.errors import ConfigError
from kumiai.storage.database_url import Host, parse_url


def test_a_url_of_one_host_is_taken_apart() -> None:
    url = parse_url("postgresql://olga:s%40fe@db.example.org:5433/kumiai?sslmode=require")

    assert (url.user, url.password, url.database) == ("olga", "s@fe", "kumiai")
    assert url.hosts == (Host("db.example.org", 5433),)
    assert (url.target, url.connect_seconds) == ("any", 10.0)
    assert dict(url.options) == {"sslmode": "require"}
    assert url.driver_options == "postgresql://?sslmode=require"


def test_several_hosts_are_asked_for_the_one_that_takes_writes() -> None:
    url = parse_url("postgres://u@h1:5433,h2,[::1]:5434/db")

    assert url.hosts == (Host("h1", 5433), Host("h2", 5432), Host("::1", 5434))
    assert (url.target, url.connect_seconds) == ("read-write", 3.0)
    assert str(url) == "postgresql://u@h1:5433,h2:5432,[::1]:5434/db"


def test_what_is_asked_for_counts() -> None:
    url = parse_url("postgresql://h1,h2/db?target_session_attrs=primary&connect_timeout=7")

    assert (url.target, url.connect_seconds) == ("primary", 7.0)
    assert not url.options


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql:///db", (Host(None, None),)),
        ("postgresql:///db?host=/run/postgresql", (Host("/run/postgresql", 5432),)),
        ("postgresql:///db?host=a,b&port=1,2", (Host("a", 1), Host("b", 2))),
        ("postgresql:///db?host=a,b&port=7", (Host("a", 7), Host("b", 7))),
        ("postgresql://%2Frun%2Fpostgresql/db", (Host("/run/postgresql", 5432),)),
    ],
)
def test_hosts_may_stand_in_the_options(url: str, hosts: tuple[Host, ...]) -> None:
    assert parse_url(url).hosts == hosts


def test_the_default_host_has_a_name_for_people() -> None:
    assert str(Host(None, None)) == "the default host"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hunter2", "something that is no URL"),
        ("mysql://u:hunter2@h/db", "got 'mysql'"),
        ("hunter2 @x://h/db", "got another scheme"),
        ("sqlite://hunter2@/a.db", "name a file"),
        ("sqlite:///a.db?mode=hunter2", "nothing else"),
        ("sqlite:///a\0.db", "nothing else"),
        ("postgresql://u:hun/ter2@h/db", "percent-encode"),
        ("postgresql://u:hun#ter2@h/db", "percent-encode"),
        ("postgresql://u:hun[ter2@h/db", "percent-encode"),
        ("postgresql://u:hun?ter2@h/db", "percent-encode"),
        ("postgresql://u:hunter2@[::1/db", "got something else"),
        ("postgresql://u:hunter2@h1,/db", "name a host between its commas"),
        ("postgresql://u:hunter2@h1:0/db", "a port of 1 to 65535"),
        ("postgresql://u:hunter2@h1:65536/db", "a port of 1 to 65535"),
        ("postgresql://u:hunter2@h1:/db", "a port of 1 to 65535"),
        ("postgresql://u:hunter2@h1,[::1]x/db", "bracket"),
        ("postgresql://u:hunter2@h1/db?host=h2", "in one place"),
        ("postgresql:///db?host=a,b,c&port=1,2", "got 2"),
        ("postgresql://h/db?target_session_attrs=standby", "must be any, read-write or primary"),
        ("postgresql://h/db?target_session_attrs=any&target_session_attrs=any", "got one twice"),
        ("postgresql://h/db?sslmode=maybe", "sslmode must be one of disable"),
        ("postgresql://h/db?connect_timeout=0", "1 to 3600 seconds"),
        ("postgresql://h/db?connect_timeout=soon", "1 to 3600 seconds"),
        ("postgresql://h/db?pool=3", "got 'pool'"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url") as caught:
        parse_url(url)

    assert words in str(caught.value)
    assert "hunter" not in str(caught.value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_user_and_password_survive_their_encoding(user: str, password: str) -> None:
    quoted = f"{quote(user.encode('utf-8', 'ignore'), safe='')}"
    secret = f"{quote(password.encode('utf-8', 'ignore'), safe='')}"

    url = parse_url(f"postgresql://{quoted}:{secret}@host/db")

    assert url.user == (user.encode("utf-8", "ignore").decode() or None)
    assert url.password == (password.encode("utf-8", "ignore").decode() or None)


@given(st.text(alphabet="aZ0-.:,@/?#[]%=& ", max_size=40))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_url(f"postgresql://{text}").hosts


def test_nothing_that_is_shown_holds_the_password() -> None:
    url = parse_url("postgresql://u:hunter2@h/db?sslpassword=hunter3")

    assert "hunter" not in f"{url} {url!r}"
