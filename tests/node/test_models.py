"""Orders about models that cannot be carried out: they fail by themselves, and the node goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import prime
from prime.dht.blob.content import text_of
from prime.errors import PrimeError, WorldError
from prime.node.models import Models, open_models
from prime.store.manifest import ContentId
from prime.trainer.publish.messages import PullModel, PushModel, TransferShown
from tests.dht.swarm import open_node

TOO_LONG = "a" * 300
CONTENT = text_of(ContentId(bytes(32)))


async def error_of(models: Models, shown: TransferShown) -> PrimeError:
    with trio.fail_after(20), pytest.raises(PrimeError) as caught:
        while True:
            models.show(shown.number)
            await trio.sleep(0.01)
    return caught.value


async def test_a_file_that_no_disk_takes_ends_its_transfer_alone(tmp_path: Path) -> None:
    file = str(tmp_path / TOO_LONG)
    async with (
        open_node(1, prime.Memory()) as node,
        open_models(node.system, node.dht, tmp_path, size_bytes_max=None, bytes_per_s=1e9) as models,
    ):
        for shown in (
            models.push(PushModel(file, "name", "", -1, -1, None, "")),
            models.pull(PullModel(CONTENT, file, False)),
        ):
            error = await error_of(models, shown)
            assert isinstance(error, WorldError)
            assert "too long" in str(error)
            assert error.hint
