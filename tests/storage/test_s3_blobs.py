from collections.abc import AsyncIterator, Callable

import pytest

from kumiai.storage.s3_blobs import S3BlobStore
from kumiai.testing.blob_contract import BlobStoreContract

pytestmark = pytest.mark.integration


class TestS3BlobStore(BlobStoreContract):
    @pytest.fixture
    async def store(self, new_s3_store: Callable[..., S3BlobStore]) -> AsyncIterator[S3BlobStore]:
        return new_s3_store()
