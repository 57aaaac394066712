"""No secret in any message: what stands before the host of a URI is left out, whoever has written it."""

import pytest

from nfstudy.core.errors import UserError, keep_secret, without_secrets
from nfstudy.core.project import Project

SECRET = {
    "http://alice:pw@127.0.0.1:5000": "http://127.0.0.1:5000",
    "tracking store https://alice@host/x: no answer": "tracking store https://host/x: no answer",
    "postgresql+psycopg://u:p/w@db.example/mlflow": "postgresql+psycopg://db.example/mlflow",
    "postgresql://u:p@ss:w@rd@[::1]:5432/db": "postgresql://[::1]:5432/db",
    "mysql://u:%40%2F@h/db?charset=utf8": "mysql://h/db?charset=utf8",
    "HTTP://A:B@h": "HTTP://h",
    "(http://a:b@h) and 'ftp://c:d@k'": "(http://h) and 'ftp://k'",
    "postgresql://h/db?user=u&password=pw&sslmode=require": "postgresql://h/db?user=u&password=...&sslmode=require",
    "http://h/api?access_token=abc#x": "http://h/api?access_token=...#x",
    "http://h/api?X-Amz-Signature=abc&sig=abc&my-key=abc&author=x": (
        "http://h/api?X-Amz-Signature=...&sig=...&my-key=...&author=x"
    ),
    "http://h/#token=abc": "http://h/#token=...",
    "http://5000:pw@h": "http://h",
    "http://a:5000pw@h": "http://h",
}
PLAIN = (
    "http://127.0.0.1:5000/#/experiments/1/runs/2 by alice@example.com",
    "http://host:5000/mail/alice@example.com",
    "sqlite:////home/a@b/mlruns/mlflow.db",
    "see https://docs.ray.io, or write to me@example.com",
    "a sum of 1://2 @ 3",
)


@pytest.mark.parametrize("text", SECRET)
def test_user_information_is_left_out(text):
    assert without_secrets(text) == SECRET[text]
    assert str(UserError(text)) == SECRET[text]


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text):
    assert without_secrets(text) == text


ADDRESSES = {
    "http://alice:123/hunter2@127.0.0.1:1": "http://127.0.0.1:1",
    "http://alice:hunter2 it's \"me@h:1": "http://h:1",
    "postgresql://alice:123/hunter2@h:1/db": "postgresql://h:1/db",
    "postgresql+psycopg:///db?user=a&sslkey=hunter2": "postgresql+psycopg:///db?user=...&sslkey=...",
    "http://h/?pass%77ord=hunter2=": "http://h/?pass%77ord=...",
    "http://h/?hunter2": "http://h/?...",
    "alice:hunter2@h:5000": "h:5000",
    "http:/alice:hunter2@h": "h",
    "//alice:hunter2@h": "h",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_of_an_address_that_was_given_is_shown_whatever_its_password_holds(address, monkeypatch):
    monkeypatch.setattr("nfstudy.core.errors._addresses", {})
    Project.find().tracking_uri(f" {address} ")
    assert (
        str(UserError(f"store {address}: no ({address!s})."))
        == f"store {ADDRESSES[address]}: no ({ADDRESSES[address]})."
    )


def test_an_address_without_secrets_is_shown_as_it_is(monkeypatch):
    known = {}
    monkeypatch.setattr("nfstudy.core.errors._addresses", known)
    for address in ("http://127.0.0.1:5000", "databricks", "postgresql://h/db"):
        keep_secret(address)
    Project.find().tracking_uri("sqlite:////home/a@b/x.db?timeout=5")
    assert not known
