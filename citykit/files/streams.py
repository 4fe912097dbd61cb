"""The bytes of a file: counted, unpacked within a limit, and as UTF-8."""

from __future__ import annotations

import codecs
import gzip
import io
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import pyarrow as pa

PART_BYTES = 2**20
HEAD_BYTES = 4_096
# Limits against zip bombs: bytes in all, or for each packed byte, whichever allows more.
UNPACKED_BYTES = 2**30
UNPACKED_RATIO = 200

Compression: TypeAlias = Literal["gzip", "zstd", "zip", "none"]
PACKED: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_BOMS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


class ReadError(Exception):
    """Why a file cannot be read, what to do about it, and the options with which it can."""

    def __init__(self, what: str, hint: str = "", **options: Any) -> None:
        super().__init__(what)
        self.what, self.hint, self.options = what, hint, options


class Stream(io.RawIOBase):
    """A binary file made of parts; `head` looks at the next bytes without taking them."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts = parts
        self.rest, self.start = b"", 0  # the part that is being read, and where its next byte is

    def head(self, size: int = HEAD_BYTES) -> bytes:
        """Return the next bytes without taking them; fewer than `size` only at the end."""
        while len(self.rest) - self.start < size and (part := next(self.parts, b"")):
            self.rest, self.start = self.rest[self.start :] + part, 0
        return self.rest[self.start : self.start + size]

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return as many bytes as are asked for, fewer only at the end."""
        if size < 0:
            rest, self.rest, self.start = self.rest[self.start :], b"", 0
            return b"".join([rest, *self.parts])
        taken = self.head(size)
        self.start += len(taken)
        return taken

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as `io.BufferedReader` asks for."""
        taken = self.read(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)


def parts_of(
    file: IO[Any], count: Callable[[int], object] = int, encoding: str | None = None
) -> Iterator[bytes]:
    """Yield the bytes of an open file, in UTF-8 if it is open as text; `count` is called with each length.

    `encoding` is the one that was given, which a file that is open as text cannot have.
    """
    while True:
        try:
            part = file.read(PART_BYTES)
        except UnicodeDecodeError as exc:
            raise ReadError(
                f"it is open as text in {exc.encoding}, and byte 0x{exc.object[exc.start]:02x} is invalid",
                "Open it as bytes, open(path, 'rb'), or give open() its encoding.",
            ) from exc
        if not part:
            return
        if isinstance(part, str):
            if encoding is not None:
                raise ReadError("it is open as text, which is decoded already", "Leave encoding= out.")
            try:
                part = part.encode()
            except UnicodeEncodeError as exc:
                raise ReadError("its text has a lone surrogate, which is no character") from exc
        count(len(part))
        yield part


def on_disk(stream: Stream, stack: ExitStack) -> Path:
    """Copy a stream to a temporary file, for readers that need a path."""
    file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="citykit-"))  # noqa: SIM115
    for part in iter(lambda: stream.read(PART_BYTES), b""):
        file.write(part)
    file.flush()
    return Path(file.name)


def is_utf8(stream: Stream, encoding: str | None) -> bool:
    """Tell whether a text is UTF-8, by its byte order mark and the encoding that was given."""
    begin = stream.head(4)
    marked = next((name for bom, name in _BOMS.items() if begin.startswith(bom)), None)
    return {marked, encoding and codecs.lookup(encoding).name.removesuffix("-sig")} <= {None, "utf-8"}


def unpacked(file: Stream, packing: Compression, size: int | None) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file that is gzip or zstd.

    `size` is how many bytes the packed file has; None where that is not known.
    """
    opened: Any = gzip.GzipFile(fileobj=io.BufferedReader(file))
    if packing == "zstd":
        opened = pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    return _within_limit(opened, packing, size)


def member_of(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """Return the one file in a zip archive."""
    members = [
        each
        for each in archive.infolist()
        if not each.is_dir()
        and not each.filename.startswith("__MACOSX/")
        and ".DS_Store" not in each.filename
    ]
    if len(members) != 1:
        names = ", ".join(each.filename for each in members[:5]) + (", …" if len(members) > 5 else "")
        raise ReadError(
            f"it is a zip archive of {len(members) or 'no'} files{f' ({names})' if members else ''}",
            "Unpack it, and name one of its files." if members else "",
        )
    if members[0].flag_bits & 1:
        raise ReadError(
            f"it is a zip archive whose {members[0].filename} needs a password", "Unpack it yourself."
        )
    return members[0]


def unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the bytes of a file in a zip archive."""
    try:
        opened = archive.open(member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as exc:
        raise ReadError(f"its {member.filename} cannot be unpacked ({exc})") from exc
    return _within_limit(opened, "zip", member.compress_size)


def _within_limit(file: Any, packing: str, size: int | None) -> Iterator[bytes]:
    most = max(UNPACKED_BYTES, UNPACKED_RATIO * (size or 0))
    done = 0
    while True:
        try:
            part = file.read(PART_BYTES)
        except (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile, pa.ArrowException) as exc:
            if isinstance(exc.__cause__ or exc.__context__, ReadError):
                raise
            raise ReadError(f"its {packing} data is damaged or not complete") from exc
        if not part:
            return
        done += len(part)
        if done > most:
            raise ReadError(
                f"its {packing} data unpacks to more than {most:,} bytes",
                "Unpack it yourself if you trust it.",
            )
        yield part


def check_encoding(name: str) -> None:
    """Check that Python has an encoding of text of this name.

    Raises
    ------
    ValueError
        If there is no such encoding.
    """
    try:
        "".encode(name)  # refuses codecs that are not of text, too: hex
    except (LookupError, TypeError) as exc:
        raise ValueError(f"encoding is a name such as 'cp1252' or 'utf-16', not {name!r}") from exc


def in_utf8(stream: Stream, encoding: str | None) -> Stream:
    """Return a text in UTF-8, without its byte order mark.

    Raises
    ------
    ReadError
        If a byte is invalid in the encoding (with its line), or the byte order mark is of another encoding.
    """
    begin = stream.head(4)
    mark, marked = next(((bom, name) for bom, name in _BOMS.items() if begin.startswith(bom)), (b"", None))
    if marked and encoding and not codecs.lookup(encoding).name.startswith(marked):
        raise ReadError(
            f"it begins with the byte order mark of {marked}, which is not {encoding}", encoding=marked
        )
    encoding = codecs.lookup(marked or encoding or "utf-8").name.removesuffix("-sig")
    if encoding == "utf-8":
        stream.read(len(mark))
    return Stream(_decoded(stream, encoding, len(mark) if encoding == "utf-8" else 0))


def _decoded(stream: Stream, encoding: str, position: int) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    line, beyond_ascii = 1, False
    while True:
        part = stream.read(PART_BYTES)
        kept = decoder.getstate()[0]
        try:
            text = decoder.decode(part, final=not part)
        except UnicodeDecodeError as exc:
            raise _undecodable(exc, encoding, line, position - len(kept), beyond_ascii) from exc
        if not part and not text:
            return
        position += len(part)
        line += text.count("\n")
        beyond_ascii = beyond_ascii or not text.isascii()
        yield part if encoding == "utf-8" else text.encode(errors="surrogatepass")


def _undecodable(
    exc: UnicodeDecodeError, encoding: str, line: int, position: int, beyond_ascii: bool
) -> ReadError:
    before, byte = exc.object[: exc.start], exc.object[exc.start]
    earlier = before.decode(encoding, "replace")
    line += earlier.count("\n")
    around = exc.object[max(before.rfind(b"\n") + 1, exc.start - 20) : exc.start + 20].split(b"\n")[0]
    shown = around.decode("cp1252", "replace").strip()
    what = (
        f"line {line} has byte 0x{byte:02x} ({position + exc.start:,} bytes from the beginning), which is no "
        f"{encoding.upper()}"
    )
    if not encoding.startswith("utf-8"):
        return ReadError(f"{what} ({shown!r})")
    if beyond_ascii or not earlier.isascii():
        hint = "Letters before it are UTF-8: it has two encodings, so write it again in one."
        return ReadError(f"{what} (in Windows-1252 it is {shown!r})", hint)
    return ReadError(f"{what} (in Windows-1252 it is {shown!r})", encoding="cp1252")
