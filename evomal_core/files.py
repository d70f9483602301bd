"""Files that are written whole or not at all, and strict JSON: no pickle, no NaN."""

import json
import math
import os
import uuid
from pathlib import Path


def write_bytes(path, content: bytes) -> None:
    """Write a file through a temporary one that is renamed; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # there only if one of the two failed


def write_text(path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path, data) -> None:
    """`write_text` of strict JSON. Raises ValueError for NaN and infinities."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False))


def read_json(path, schema: int | tuple[int, ...], most_bytes: int = 1 << 30) -> dict:
    """Read an object of a schema. Raises ValueError or OSError, and the former for anything that is not strict JSON."""
    if (size := Path(path).stat().st_size) > most_bytes:
        raise ValueError(f"it has {size} bytes, at most {most_bytes} are read")
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    schemas = schema if isinstance(schema, tuple) else (schema,)
    if not isinstance(data, dict) or data.get("schema") not in schemas:
        raise ValueError(f"expected an object of schema {' or '.join(map(str, schemas))}, got {str(data)[:80]!r}")
    return data


def finite(value: float) -> float | None:
    """A number as strict JSON has it: None for NaN and infinities."""
    return value if math.isfinite(value) else None


def strict(data):
    """Plain data (dicts, lists, tuples, numbers, text) with None for every number that is not finite."""
    if isinstance(data, dict):
        return {key: strict(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [strict(value) for value in data]
    return finite(data) if isinstance(data, float) else data


def _refuse(name):
    raise ValueError(f"{name} is no JSON number")
