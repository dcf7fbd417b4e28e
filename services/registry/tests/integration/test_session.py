"""Signing in: passwords, one-time links, second factor, rate limits, CSRF, cookies."""

from __future__ import annotations

from outrider_registry.testing import Api


async def test_a_session_says_who_is_signed_in(api: Api) -> None:
    answer = await api.viewer.get("session")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["name"] == "vera"
    assert body["tenant"] == body["home"] == "acme"
    assert not body["platform"]
