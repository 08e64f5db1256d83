"""Looking at many files at once: the results, and the error, of one after the other."""

import threading
import time
from itertools import count

import pytest

from pipeline.corpus.threads import in_threads


@pytest.mark.parametrize("items", [0, 1, 2, 63, 1000, 20_000])
def test_results_come_in_the_order_of_the_items(items: int) -> None:
    assert in_threads(str, range(items)) == [str(item) for item in range(items)]


def test_several_items_are_under_way_at_once() -> None:
    together = threading.Barrier(8, timeout=30)
    in_threads(lambda _: together.wait(), range(8))


def test_the_error_is_that_of_the_first_item_whichever_comes_first() -> None:
    def refuse(item: int) -> None:
        if item == 2:
            time.sleep(0.02)
        if item >= 2:
            raise ValueError(item)

    with pytest.raises(ValueError, match=r"^2$"):
        in_threads(refuse, range(100))


def test_after_an_error_no_further_file_is_begun() -> None:
    begun = count()

    def refuse(item: int) -> None:
        next(begun)
        time.sleep(0.001)
        raise ValueError(item)

    with pytest.raises(ValueError, match=r"^0$"):
        in_threads(refuse, range(100_000))
    assert next(begun) < 1000
