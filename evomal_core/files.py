"""Files that are written whole or not at all, by one writer at a time, and strict JSON: no pickle, no NaN, no key twice."""

import contextlib
import hashlib
import json
import math
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from .checks import check

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None

MOST_BYTES = 50_000_000  # of a file of JSON
LONGEST_NAME = 180  # bytes; leaves room for what a temporary name adds, in the 255 that most disks allow
ABANDONED = 3600.0  # seconds after which a temporary file has no writer any more


class RecordError(RuntimeError):
    """A record or checkpoint that is damaged, misplaced or of another run; the message names its path."""


class NewerSchemaError(ValueError):
    """A file of a later version of the package."""


@contextlib.contextmanager
def reading(path) -> Iterator[None]:
    """A block that reads a file; whatever is wrong with it is raised as RecordError that names the file."""
    try:
        yield
    except RecordError:
        raise
    except NewerSchemaError as error:
        raise RecordError(f"{path}: {error}") from None
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error!r}); move it away to compute this run again") from None


def write_bytes(path, content: bytes) -> None:
    """Write a file through a temporary one that is renamed; missing folders are made, what killed writers left goes.

    Raises:
        OSError: it cannot be written, on a full disk for example; a file that was there is as it was.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path, ABANDONED)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        reason = f"{error.strerror}; {len(content)} bytes were to be written, what was there is as it was"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)  # there only if one of the two failed


def remove_leftovers(path: Path, seconds: float = 0.0) -> None:
    """Remove temporary files of `path` that are older. At 0 seconds the caller is the only writer, by `locked`."""
    for left in path.parent.glob(f".{_literal(path.name)}.*"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - left.stat().st_mtime >= seconds:
                left.unlink()


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@contextlib.contextmanager
def locked(path: Path, say: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A block in which no other process or thread is under the same lock; `say` is called before a wait.

    The lock belongs to an open file: the system drops it when its owner ends, however that happens. On a disk that knows no
    locks the block runs without one.

    Raises:
        RecordError: the folder cannot be written, which so is known before anything is computed for it.
    """
    with _locked_file(path, say):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _locked_file(path: Path, say):
    while True:
        with contextlib.ExitStack() as closing:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = closing.enter_context(path.open("ab"))
            except OSError as error:
                raise RecordError(f"{path.parent} must be a folder that can be written, got {error!r}") from None
            with contextlib.suppress(OSError):  # a disk without locks
                _lock(file, say)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    closing.pop_all()
                    return file  # else its owner removed it while this one waited


def _lock(file, say) -> None:
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say()
            fcntl.flock(file, fcntl.LOCK_EX)


def short(name: str) -> str:
    """A name of a file or folder that a disk takes: the end of a long one is replaced with a digest of all of it."""
    content = name.encode()
    return name if len(content) <= LONGEST_NAME else f"{content[:140].decode(errors='ignore')}~{digest(name)}"


def write_text(path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path, data) -> None:
    """`write_text` of strict JSON. Raises ValueError for NaN and infinities."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False))


def read_bytes(path, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a regular file. Raises ValueError for another kind of file or a larger one, and OSError."""
    with open(Path(path).expanduser(), "rb", opener=_at_once) as file:
        size = _size_of_regular(os.fstat(file.fileno()), most_bytes)  # of this file, whatever takes its name meanwhile
        return file.read(size)


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(path: Path, most_bytes: int) -> int:
    """The size of a regular file. Raises ValueError for a folder, pipe, device or larger file, which are not opened."""
    return _size_of_regular(path.stat(), most_bytes)


def _size_of_regular(facts: os.stat_result, most_bytes: int) -> int:
    check(stat.S_ISREG(facts.st_mode), "it", "a regular file", stat.filemode(facts.st_mode))
    check(facts.st_size <= most_bytes, "its size", f"at most {most_bytes} bytes", facts.st_size)
    return facts.st_size


def read_json(path, schema: int | tuple[int, ...], most_bytes: int = MOST_BYTES) -> dict:
    """Read an object of a schema. Raises ValueError or OSError, and the former for anything that is not strict JSON."""
    return parse_json(read_bytes(path, most_bytes), schema)


def parse_json(content: bytes, schema: int | tuple[int, ...]) -> dict:
    """The object of a schema that this is in strict JSON. Raises ValueError for anything else."""
    rules = {"parse_constant": _refuse, "parse_float": _number, "object_pairs_hook": _object}
    try:
        data = json.loads(content.decode(), **rules)
        json.dumps(data, ensure_ascii=False).encode()  # raises UnicodeEncodeError for half a character
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    schemas = schema if isinstance(schema, tuple) else (schema,)
    found = data.get("schema") if isinstance(data, dict) else None
    if type(found) is int and found > max(schemas):
        known = f"schema {' or '.join(map(str, schemas))}"
        raise NewerSchemaError(f"it has schema {found}, this version of evomal-core reads {known}: use a later version")
    if type(found) is not int or found not in schemas:
        raise ValueError(f"expected an object of schema {' or '.join(map(str, schemas))}, got {str(data)[:80]!r}")
    return data


def digest(data) -> str:
    """What names plain data: a digest of its JSON."""
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=16).hexdigest()


def sealed(data: dict) -> dict:
    """The same with a digest of it, by which `unsealed` sees any change."""
    return data | {"digest": digest(data)}


def unsealed(data: dict) -> dict:
    """What `sealed` was given. Raises ValueError if it is something else."""
    content = {name: value for name, value in data.items() if name != "digest"}
    check(
        data.get("digest") == digest(content),
        "its digest",
        f"{digest(content)}, that of its content",
        data.get("digest"),
    )
    return content


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


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text[:80])


def _object(pairs: list) -> dict:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError(f"an object must have each key once, got {[key for key, _ in pairs][:20]}")
    return data
