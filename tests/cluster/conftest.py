"""One scheduler with two workers, which the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from processes import Meter, Processes


class Shared(NamedTuple):
    """A cluster; all that its scheduler sends and receives goes through the meter."""

    address: str
    meter: Meter


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, _own_cache: None) -> Iterator[Shared]:
    with Processes(tmp_path_factory.mktemp("cluster")) as processes:
        processes.wait_until_up()
        meter = Meter(processes.port)
        for _ in range(2):
            processes.add_worker(meter.address)
        try:
            yield Shared(meter.address, meter)
        finally:
            meter.close()
