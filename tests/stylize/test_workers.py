import gc

import pytest
import torch

from stylize.workers import start_workers


@pytest.mark.parametrize(("threads", "streams", "share"), [(4, 2, 2), (3, 3, 1), (2, 3, 1), (3, 1, 3)])
def test_streams_share_the_threads_and_leave_them_as_they_were(threads: int, streams: int, share: int) -> None:
    before, frozen = torch.get_num_threads(), gc.get_freeze_count()
    torch.set_num_threads(threads)
    try:
        with start_workers(streams) as workers:
            found = [workers.network.submit(torch.get_num_threads) for _ in range(2 * streams)]
            assert {one.result() for one in found} == {share}
        assert torch.get_num_threads() == threads
        with start_workers(1) as workers:
            assert workers.network.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    assert gc.get_freeze_count() == frozen
