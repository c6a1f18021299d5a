from collections.abc import AsyncIterator

import pytest

from kumiai.storage import MemoryBlobStore
from kumiai.testing.blob_contract import BlobStoreContract


class TestMemoryBlobStore(BlobStoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[MemoryBlobStore]:
        store = MemoryBlobStore()
        yield store
        await store.close()
