"""What a method carries from step to step: a dataclass of its own, which a checkpoint holds as flat tensors.

    HoagState(eps_0=0.03, warm=WarmStart(...))  <->  {"value.eps_0": ..., "image.x.17": ..., "image.q.17": ...}

A field NAME (metadata["name"] where the checkpoint has another name for it) is one of

    float, int, Tensor                 value.NAME
    tuple[float, ...]                  value.NAME, one tensor
    tuple[Tensor, ...]                 value.NAME.0, value.NAME.1, ...
    PerImage                           image.NAME.17 for image 17
    a dataclass of floats alone        value.NAME, one tensor in the order of its fields
    any other dataclass                the names of its own fields

or one of these and None. Neither None nor () is written. Tensors are replaced, never changed in place: a copy of a
state and its flat form share them, and cost nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor

from app.upper.share import Share

State = TypeVar("State")


class StateError(ValueError):
    """A checkpoint lacks a number or tensor that the state of a method needs, or holds one that it does not know."""


@dataclass
class PerImage:
    """A tensor of each image, remembered from visit to visit if `kept`.

    It is kept for a finite sum only. Fresh noise must not meet a warm start: the solver would average the noise of
    many visits away, and the training error would no longer be that of one measurement.
    """

    kept: bool
    tensors: dict[int, Tensor] = field(default_factory=dict)

    def recall(self, images: tuple[int, ...], cold: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        """Return the tensors of these images, or `cold` where nothing is remembered."""
        return torch.stack([self.tensors.get(i, c).to(c) for i, c in zip(images, cold, strict=True)])

    def remember(self, images: tuple[int, ...], tensors: Tensor) -> None:  # (B, C, H, W)
        if self.kept:
            self.tensors.update((i, t.clone()) for i, t in zip(images, tensors, strict=True))


@dataclass
class WarmStart:
    """The last solutions of each image: x of the lower level and q of the linear system."""

    x: PerImage
    q: PerImage

    @staticmethod
    def empty(finite_sum: bool) -> "WarmStart":
        return WarmStart(PerImage(finite_sum), PerImage(finite_sum))

    def recall(self, images: tuple[int, ...], cold: Tensor) -> tuple[Tensor, Tensor | None]:  # (B, C, H, W) each
        """Return (x, q) of these images; x = `cold` where nothing is remembered, no q where there is none at all."""
        q = self.q.recall(images, torch.zeros_like(cold)) if self.q.tensors else None
        return self.x.recall(images, cold), q

    def remember(self, images: tuple[int, ...], x: Tensor, q: Tensor) -> None:  # (B, C, H, W) each
        self.x.remember(images, x)
        self.q.remember(images, q)


def copy(state: State) -> State:
    """Return a copy that later steps leave as it is."""
    if isinstance(state, PerImage):
        return replace(state, tensors=dict(state.tensors))
    inner = {f.name: getattr(state, f.name) for f in fields(state)}  # type: ignore[arg-type]
    return replace(state, **{n: copy(v) for n, v in inner.items() if is_dataclass(v)})  # type: ignore[type-var]


def per_image(state: Any) -> list[PerImage]:
    """Return all that a state remembers of images, in the order of its fields; a method may do without a state."""
    if isinstance(state, PerImage):
        return [state]
    inner = [getattr(state, f.name) for f in fields(state)] if is_dataclass(state) else []
    return [found for value in inner for found in per_image(value)]


def keep(state: Any, wanted: Callable[[int], bool]) -> None:
    """Keep what is remembered of the wanted images alone."""
    for memory in per_image(state):
        memory.tensors = {image: t for image, t in memory.tensors.items() if wanted(image)}


def settle(state: Any, images: tuple[int, ...], share: Share) -> None:
    """Move what is remembered of the images of a whole mini-batch to the ranks that have them, and forget it on the
    others. Most of it is there already."""
    memories = [memory for memory in per_image(state) if memory.kept]
    if share.processes.count == 1 or not memories:
        return
    own = {images[place] for place in share.own}
    arrived = _arrivals(memories, images, share)
    for m, memory in enumerate(memories):
        stays = {i: t for i, t in memory.tensors.items() if i in own or i not in images}
        memory.tensors = {i: t for (n, i), t in arrived.items() if n == m and i in own} | stays


def _arrivals(memories: list[PerImage], images: tuple[int, ...], share: Share) -> dict[tuple[int, int], Tensor]:
    """What ranks lack of their images, from the first rank that has it, by number of the memory and image."""
    held = torch.tensor([[i in memory.tensors for i in images] for memory in memories], dtype=torch.uint8)
    ranks = [flags.tolist() for flags in share.processes.exchange(held)]
    sent, needed = {}, False
    for rank, places in enumerate(share.places):
        for m, place in ((m, place) for m in range(len(memories)) for place in places):
            holder = next((r for r, flags in enumerate(ranks) if flags[m][place]), rank)
            if holder != rank and not ranks[rank][m][place]:
                needed = True
                if holder == share.processes.rank:
                    sent[m, images[place]] = memories[m].tensors[images[place]].cpu()
    return {key: t for part in share.processes.objects(sent) for key, t in part.items()} if needed else {}


def tensors(state: Any) -> dict[str, Tensor]:
    """Return the flat form of a state; numbers become float64 or int64 tensors of shape [], tuples of them (N,)."""
    flat: dict[str, Tensor] = {}
    for name, _, value in _entries(state):
        if isinstance(value, Tensor):
            flat[f"value.{name}"] = value
        elif isinstance(value, int):
            flat[f"value.{name}"] = torch.tensor(value)
        elif isinstance(value, PerImage):
            flat |= {f"image.{name}.{i}": t for i, t in value.tensors.items()}
        elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
            flat |= {f"value.{name}.{i}": t for i, t in enumerate(value)}
        elif is_dataclass(value) and not _numbers_alone(type(value)):
            flat |= tensors(value)
        elif value not in (None, ()):
            numbers = [v for _, _, v in _entries(value)] if is_dataclass(value) else value
            flat[f"value.{name}"] = torch.tensor(numbers, dtype=torch.float64)
    return flat


def restore(state: Any, flat: dict[str, Tensor], device: torch.device) -> None:
    """Replace all that `state` holds by what `tensors` gave, with its tensors on `device`.

    What is not kept of images (PerImage.kept) is passed over. Raises StateError, and leaves the state as it was, where
    anything is missing or left over.
    """
    left = dict(flat)
    restored = _read(type(state), state, left, device)
    if left:
        raise StateError(f"{type(state).__name__} has no {', '.join(sorted(left))}")
    vars(state).update(vars(restored))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _numbers_alone(kind: type) -> bool:
    return all(hint is float for hint in _hints(kind).values())


def _entries(state: Any) -> list[tuple[str, Any, Any]]:
    """Return (name in a checkpoint, type, value) of each field of a record, or without values of a class of records."""
    hints = _hints(state if isinstance(state, type) else type(state))
    return [(f.metadata.get("name", f.name), hints[f.name], getattr(state, f.name, None)) for f in fields(state)]


def _read(kind: Any, present: Any, left: dict[str, Tensor], device: torch.device) -> Any:
    """Return a record of this kind from what is `left` of a checkpoint, and take that away."""
    return _record(kind, [_value(*e, left, device) for e in _entries(kind if present is None else present)])


def _record(kind: Any, values: list[Any]) -> Any:
    return kind(**dict(zip((f.name for f in fields(kind)), values, strict=True)))


def _value(name: str, hint: Any, present: Any, left: dict[str, Tensor], device: torch.device) -> Any:
    key = f"value.{name}"
    if NoneType in get_args(hint):
        before, (kind, *_) = dict(left), (a for a in get_args(hint) if a is not NoneType)
        try:
            return _value(name, kind, present, left, device)
        except _Missing:  # what there is of an incomplete record is then left over
            left.update(before)
            return None
    if hint is PerImage:
        found = [k for k in left if k.startswith(f"image.{name}.")]
        images = {int(k.rpartition(".")[2]): left.pop(k).to(device) for k in found}
        return PerImage(present.kept, images if present.kept else {})
    if hint == tuple[Tensor, ...]:
        count = sum(k.startswith(f"{key}.") for k in left)
        return tuple(_pop(left, f"{key}.{i}").to(device) for i in range(count))
    if hint == tuple[float, ...]:
        return tuple(left.pop(key).tolist()) if key in left else ()
    if is_dataclass(hint):
        alone = _numbers_alone(hint)  # type: ignore[arg-type]
        return _record(hint, _pop(left, key).tolist()) if alone else _read(hint, present, left, device)
    if hint in (float, int):
        return hint(_pop(left, key))
    if hint is Tensor:
        return _pop(left, key).to(device)
    raise TypeError(f"a state cannot hold {name} of type {hint}")


class _Missing(StateError):
    """A name is not in the checkpoint."""


def _pop(left: dict[str, Tensor], key: str) -> Tensor:
    if key not in left:
        raise _Missing(f"the state lacks {key}")
    return left.pop(key)
