"""Fixtures of the registry's tests; `outrider_registry.testing` says what they give."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from outrider.testing.fixtures import Database
from outrider_registry.context import Registry
from outrider_registry.testing import Api, running_api, running_registry


@pytest.fixture
async def registry(database: Database) -> AsyncIterator[Registry]:
    """A registry on a database of this test's own."""
    async with running_registry(database.service_urls["registry"]) as registry:
        yield registry


@pytest.fixture
async def api(registry: Registry) -> AsyncIterator[Api]:
    """The API with somebody of every kind signed in, in tenants `acme` and `other`."""
    async with running_api(registry) as api:
        yield api
