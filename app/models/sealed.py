"""Safetensors files with a checksum: whoever reads one knows that it is what was written.

    sha256(header without the checksum, in canonical JSON; tensor data)

The same contents give the same bytes. Files without a checksum, which earlier versions and other programs write, are
read as they are.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

META = "__metadata__"
SEALS = ("sha256", "sha256 again")  # twice: a damaged name would hide the only one


def sealed(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return the bytes of a file with tensors by name (...) and metadata."""
    plain = safetensors.torch.save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    header, data = _parts(plain)
    header[META] = metadata
    header[META] = metadata | dict.fromkeys(SEALS, _digest(header, data))
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata, with SEALS if there is a checksum, and tensors by name (...). Raises OSError, and
    SafetensorError where the file is damaged."""
    whole = path.read_bytes()
    try:
        header, data = _parts(whole)
        metadata = dict(header.get(META, {}))
        seals = {metadata[name] for name in SEALS if name in metadata}
        header[META] = {name: text for name, text in metadata.items() if name not in SEALS}
        if seals and seals != {_digest(header, data)}:
            raise SafetensorError("by its checksum, its weights, architecture or facts were changed")
        return metadata, safetensors.torch.load(whole)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SafetensorError(" ".join(str(error).split())) from None


def _parts(whole: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + size]), whole[8 + size :]


def _digest(header: dict[str, Any], data: bytes) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + data).hexdigest()
