"""Items that are read when they are needed, of which as many are kept as a bound in bytes allows.

    kept + awaited <= limit

Where an item does not fit, those used last are dropped. Every epoch visits all items once, in an order of its own, so
what was used last is needed again latest. With a share c of the items kept, a share c of the visits reads nothing;
dropping what was used longest ago would spare c^2 / 2 of them. Items that are expected are read by threads meanwhile.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")


class OnDemand(Generic[Item]):
    """Items by their number.

    read: of an item; threads call it.  size: bytes of an item before it is read, at least those that it will have.
    measure: bytes of an item.  limit: in bytes; the item in use is not counted.
    """

    def __init__(
        self, read: Callable[[int], Item], size: Callable[[int], int], measure: Callable[[Item], int], limit: float
    ) -> None:
        self._read, self._size, self._measure, self._limit = read, size, measure, limit
        self._kept: OrderedDict[int, tuple[Item, int]] = OrderedDict()  # used last comes last
        self._awaited: dict[int, Future[Item]] = {}
        self._bytes = 0  # of both
        self._pool: ThreadPoolExecutor | None = None

    def __getitem__(self, n: int) -> Item:
        """Return an item. Raises what reading it raises."""
        if n in self._kept:
            self._kept.move_to_end(n)
            return self._kept[n][0]
        item = self._forget(n).result() if n in self._awaited else self._read(n)
        size = self._measure(item)
        if self._makes_room(size):
            self._kept[n] = item, size
            self._bytes += size
        return item

    def expect(self, numbers: Iterable[int]) -> None:
        """Begin to read what is needed next, in this order, as far as it fits; nothing outside `reading_ahead`."""
        if self._pool is None:
            return
        numbers = dict.fromkeys(numbers)
        for n in self._awaited.keys() - numbers.keys():
            self._forget(n).cancel()
        for n in numbers:
            if n not in self._kept and n not in self._awaited:
                if not self._makes_room(self._size(n)):
                    return
                self._awaited[n] = self._pool.submit(self._read, n)
                self._bytes += self._size(n)

    @contextmanager
    def reading_ahead(self, threads: int) -> Iterator[None]:
        """Read what is expected on threads, for as long as the context lasts."""
        with ThreadPoolExecutor(threads, "reading") as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None
                for n in list(self._awaited):
                    self._forget(n).cancel()

    def _forget(self, n: int) -> Future[Item]:
        self._bytes -= self._size(n)
        return self._awaited.pop(n)

    def _makes_room(self, size: int) -> bool:
        """Drop what was used last until so many bytes fit, and return whether they do."""
        while self._kept and self._bytes + size > self._limit:
            _, (_, dropped) = self._kept.popitem()
            self._bytes -= dropped
        return self._bytes + size <= self._limit
