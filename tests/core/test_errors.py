"""No secret in any message: what stands before the host of a URI is left out, whoever has written it."""

import pytest

from nfstudy.core.errors import UserError, without_secrets

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
