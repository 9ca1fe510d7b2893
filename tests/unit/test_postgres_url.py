from __future__ import annotations

import pytest

from langflow_sluice.errors import InvalidInput
from langflow_sluice.postgres import url as urls

SECRET = "s3cr3t-canary"


def parts(text: str) -> tuple[object, ...]:
    url = urls.read_database_url(text)
    return (url.username, url.password, url.host, url.port, url.database)


@pytest.mark.parametrize(
    "scheme",
    ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "PostgreSQL"],
)
def test_every_scheme_that_users_paste_means_psycopg_3(scheme: str) -> None:
    url = urls.read_database_url(f"{scheme}://ann:pw@db.example.org:6543/shop")
    assert url.drivername == "postgresql+psycopg"
    assert parts(f"{scheme}://ann:pw@db.example.org:6543/shop") == ("ann", "pw", "db.example.org", 6543, "shop")


@pytest.mark.parametrize("password", ["a@b", "a:b", "a/b", "a@b:c/d", "p?#/w", "p@ss?w=x", "100%", "@:/?#[]"])
def test_a_password_may_hold_special_characters_as_they_are(password: str) -> None:
    assert parts(f"postgresql://ann:{password}@host:5432/shop") == ("ann", password, "host", 5432, "shop")


def test_percent_escapes_are_decoded() -> None:
    assert parts("postgresql://an%40n:p%40%2Fw@host/sh%20op") == ("an@n", "p@/w", "host", None, "sh op")


def test_stock_langflow_reads_the_same_password_out_of_the_same_text() -> None:
    from lfx.utils.connection_string_parser import transform_connection_string
    from sqlalchemy import make_url

    text = "postgresql://ann:p@ss/w@rd@host:5432/shop"
    assert make_url(transform_connection_string(text)).password == parts(text)[1] == "p@ss/w@rd"


def test_parameters_of_libpq_are_kept_and_that_of_asyncpg_is_translated() -> None:
    assert dict(urls.read_database_url("postgres://u:p@h/d?sslmode=require&options=-c%20x%3D1").query) == {
        "sslmode": "require",
        "options": "-c x=1",
    }
    assert dict(urls.read_database_url("postgresql+asyncpg://u:p@h/d?ssl=true").query) == {"sslmode": "require"}
    with_at = urls.read_database_url("postgresql://u:p@h/d?application_name=a@b")
    assert dict(with_at.query) == {"application_name": "a@b"}


def test_user_and_password_may_stand_among_the_parameters() -> None:
    assert parts(f"postgresql://h/d?user=ann&password={SECRET}") == ("ann", SECRET, "h", None, "d")


@pytest.mark.parametrize(
    "text",
    [
        "'postgres://ann:pw@h:5433/d'",
        '"postgres://ann:pw@h:5433/d"',
        "  psql 'postgres://ann:pw@h:5433/d'\n",
        "psql postgres://ann:pw@h:5433/d",
        "DATABASE_URL=postgres://ann:pw@h:5433/d",
        'export DATABASE_URL="postgres://ann:pw@h:5433/d"',
        "jdbc:postgresql://h:5433/d?user=ann&password=pw",
        "postgres://ann:pw@h:5433/d?pgbouncer=true",
    ],
)
def test_what_stands_around_an_address_where_it_is_copied_from_is_left_out(text: str) -> None:
    assert parts(text) == ("ann", "pw", "h", 5433, "d")
    assert not urls.read_database_url(text).query


def test_a_quote_in_a_password_is_no_quote_around_the_address() -> None:
    assert parts("postgres://ann:p'w\"@h/d'") == ("ann", "p'w\"", "h", None, "d'")


@pytest.mark.parametrize(
    ("address", "pooled"),
    [
        ("ep-cool-12-pooler.eu-central-1.aws.neon.tech/d", True),
        ("ep-cool-12.eu-central-1.aws.neon.tech/d", False),
        ("aws-0-eu.pooler.supabase.com:5432/d", True),
        ("db.abc.supabase.co:6543/d", True),
        ("db.abc.supabase.co:5432/d", False),
        ("pgbouncer:5432/d", True),
        ("h:6432/d", True),
        ("pooler/d", False),
    ],
)
def test_a_pooler_is_known_by_its_name_or_port(address: str, pooled: bool) -> None:  # noqa: FBT001 - a column
    assert urls.is_pooled(urls.read_database_url(f"postgres://u:p@{address}")) is pooled


def test_the_folder_of_a_socket_may_stand_in_place_of_the_host() -> None:
    url = urls.read_database_url("postgresql://u:p@%2Frun%2Fpostgresql/d")
    assert (url.host, dict(url.query)) == (None, {"host": "/run/postgresql"})


def test_an_ipv6_host_and_a_socket_are_understood() -> None:
    assert parts("postgresql://u:p@[::1]:5433/d") == ("u", "p", "::1", 5433, "d")
    assert urls.redacted(urls.read_database_url("postgresql://u:p@[::1]:5433/d")) == "[::1]:5433/d"
    assert urls.redacted(urls.read_database_url("postgresql://u:p@/d?host=/run/postgresql")) == "/run/postgresql:5432/d"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        f"mysql://u:{SECRET}@h/d",
        f"u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:99999/d",
        f"postgresql://u:{SECRET}@h:0/d",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@h1:1,h2:2/d",
        f"postgresql://u:{SECRET}@h/d?connection_limit=5",
        f"psql 'mysql://u:{SECRET}@h/d'",
        f"postgresql://u:{SECRET}%00@h/d",
        f"postgresql://u:a@b?{SECRET}@h/d?bad=1",
        f"{SECRET}://u:{SECRET} @h",
    ],
)
def test_what_is_no_address_is_refused_without_showing_the_password(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        urls.read_database_url(text.replace(f"{SECRET}://", "x y://"))
    assert str(refused.value).startswith("database_url ")
    assert refused.value.hint
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)


def test_only_text_is_an_address() -> None:
    with pytest.raises(InvalidInput, match="database_url is empty"):
        urls.read_database_url(None)  # type: ignore[arg-type]


def test_what_may_be_shown_holds_no_credential() -> None:
    url = urls.read_database_url(f"postgresql://ann:{SECRET}@host/shop?sslpassword={SECRET}")
    assert urls.redacted(url) == "host:5432/shop"
    assert SECRET not in urls.fingerprint(url)


def test_the_fingerprint_tells_every_difference_and_only_differences() -> None:
    texts = [
        "postgresql://u:p@h/d",
        "postgresql://u:q@h/d",
        "postgresql://v:p@h/d",
        "postgresql://u:p@i/d",
        "postgresql://u:p@h:5433/d",
        "postgresql://u:p@h/e",
        "postgresql://u:p@h/d?sslmode=require",
    ]
    assert len({urls.fingerprint(urls.read_database_url(text)) for text in texts}) == len(texts)
    same = ["postgres://u:p@h/d?a=1", "postgresql+asyncpg://u:p@h/d?a=1"]
    same = [text.replace("?a=1", "?sslmode=require&application_name=x") for text in same]
    same.append("postgresql://u:p@h/d?application_name=x&sslmode=require")
    assert len({urls.fingerprint(urls.read_database_url(text)) for text in same}) == 1


@pytest.mark.filterwarnings("ignore")  # lfx warns of its own code when its settings load
class TestUnderLangflowsOwnCheck:
    @pytest.fixture(autouse=True)
    def _nothing_here_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Unset, it would be what Langflow's settings read when they were loaded.
        monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "allowed.example.org")

    @pytest.mark.parametrize("where", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "[::1]"])
    def test_an_internal_host_is_refused(self, where: str) -> None:
        with pytest.raises(InvalidInput, match="refused by Langflow") as refused:
            urls.parse_database_url(f"postgresql://u:{SECRET}@{where}/d")
        assert SECRET not in str(refused.value)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None

    def test_a_socket_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="network host"):
            urls.parse_database_url(f"postgresql://u:{SECRET}@/d?host=/run/postgresql")

    def test_a_socket_in_place_of_the_host_is_refused_too(self) -> None:
        with pytest.raises(InvalidInput, match="network host"):
            urls.parse_database_url(f"postgresql://u:{SECRET}@%2Frun%2Fpostgresql/d")

    def test_a_parameter_cannot_lead_past_the_host_that_was_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1")
        for parameter in ("host", "hostaddr"):
            with pytest.raises(InvalidInput, match="refused by Langflow"):
                urls.parse_database_url(f"postgresql://u:{SECRET}@127.0.0.1/d?{parameter}=10.0.0.1")

    def test_a_parameter_cannot_read_a_file_of_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1")
        with pytest.raises(InvalidInput, match="refused by Langflow"):
            urls.parse_database_url(f"postgresql://u:{SECRET}@127.0.0.1/d?sslkey=/etc/passwd")

    def test_an_allowed_host_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LANGFLOW_SSRF_ALLOWED_HOSTS", "127.0.0.1")
        url = urls.parse_database_url(f"postgres://u:{SECRET}@127.0.0.1/d")
        assert url.password == SECRET
        assert SECRET not in str(url)
        assert SECRET not in repr(url)
