"""Which photographs has somebody sent, as files and in ZIPs? Nothing that a ZIP says of itself is trusted."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo, is_zipfile

from runtime.errors import UserError
from runtime.images import PHOTOGRAPHS, shown
from runtime.jobs import Report
from runtime.limits import limit, max_bytes

_AT_ONCE = 4_000_000  # bytes that a ZIP may have read in one go: its list of names, of some ten thousand files
_MOST_NAMES = 100_000  # in all ZIPs together: each takes half a kilobyte of memory, and may be left out by name
_LONGEST = 250  # bytes of a file's or a folder's name
_DEEPEST = 1000  # bytes of all of them
_NAMES_ARE_UTF8, _ENCRYPTED = 0x800, 0x1  # flags of a ZIP's entry


def gather(files: Sequence[Path], folder: Path, report: Report = lambda _: None) -> list[tuple[str, str]]:
    """Put photographs into a folder: image files, and those inside of ZIPs, which keep the folders they have there.

    Hidden files are passed over. Of two of one name the second gets a number. Whether a file really is a photograph is
    not looked at here, only its name.

    Args:
        files: image files and ZIPs.
        folder: in which nothing else lies.
        report: called before each photograph; what it raises ends the work.

    Returns:
        (name, why not) of the files that were left out.

    Raises:
        UserError: if there is no photograph, or more than `runtime.limits` allow; nothing has been unpacked then.
    """
    if not files:
        raise UserError("There is nothing to work on yet. Upload a ZIP of photographs, or the photographs themselves.")
    most = limit("GENDEG_MAX_PHOTOGRAPHS")
    if len(files) > most:  # the same ZIP may be named a thousand times
        raise UserError(f"You sent {len(files)} files; here a data set is made of at most {most}. Send fewer.")
    skipped: list[tuple[str, str]] = []
    found: list[tuple[str, Path | tuple[ZipFile, ZipInfo]]] = []
    names = 0  # in all ZIPs
    with ExitStack() as opened:
        for file in files:
            name = shown(file.name)
            try:
                if file.suffix.lower() in PHOTOGRAPHS:
                    found.append((_safe_name(file.name), file))
                elif file.suffix.lower() == ".zip" or is_zipfile(file):
                    with ExitStack() as mine:
                        archive = mine.enter_context(_opened(mine.enter_context(_Guarded(file))))
                        if names + len(archive.infolist()) > _MOST_NAMES:
                            raise UserError("it holds too many files: send fewer at once")
                        names += len(archive.infolist())
                        found += [(inside, (archive, entry)) for inside, entry in _photographs(archive, name, skipped)]
                        opened.enter_context(mine.pop_all())
                else:
                    raise UserError("neither a photograph nor a ZIP")
            except UserError as error:
                skipped.append((name, str(error).rstrip(".")))
        _check_amount(found, skipped)
        for name, source in found:
            report(None)
            place = _free_place(folder, name)
            if isinstance(source, Path):
                place.unlink()
                try:
                    os.link(source, place)  # it stays there if the upload is deleted meanwhile
                except OSError:
                    shutil.copyfile(source, place)
            elif not _unpacked(*source, place):
                skipped.append((name, "damaged in the ZIP"))
    if not any(path.is_file() for path in folder.rglob("*")):
        raise nothing_left(skipped)
    return skipped


def nothing_left(skipped: Sequence[tuple[str, str]]) -> UserError:
    """The error that there is no photograph among what was sent, with the first few reasons why not."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
    return UserError(f"There is no photograph to work on in what you sent{f' ({reasons})' if reasons else ''}.")


class _Guarded(io.FileIO):
    """A file of which not too much is read at once: `zipfile` would read a list of names of any size into memory."""

    def read(self, size: int | None = -1) -> bytes:
        asked = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if asked > _AT_ONCE:
            raise UserError("it holds too many files: send fewer at once")
        return super().read(size)


def _opened(file: _Guarded) -> ZipFile:
    try:
        return ZipFile(file)
    except UserError:
        raise
    except UnicodeDecodeError:
        raise UserError("the names in it are in no encoding that can be read: pack it anew") from None
    except Exception:  # zipfile raises almost anything on damaged files
        raise UserError("no ZIP, or damaged: pack it anew") from None


def _photographs(archive: ZipFile, of: str, skipped: list[tuple[str, str]]) -> list[tuple[str, ZipInfo]]:
    """(safe name, entry) of what may be photographs in a ZIP called `of`; `skipped` gets the others."""
    found = []
    for entry in archive.infolist():
        name = _name(entry)
        folder = not name or name.endswith("/")  # zipfile's own is_dir fails for an entry without a name
        if folder or any(part.startswith(".") or part == "__MACOSX" for part in _parts(name) if part != ".."):
            continue
        try:
            _check_entry(entry, name)
            found.append((_safe_name(name), entry))
        except UserError as error:
            skipped.append((f"{of}: {shown(name)[:_LONGEST]}", str(error)))
    return found


def _name(entry: ZipInfo) -> str:
    """An entry's name. Most programs write UTF-8 and do not say so; Python takes that for an encoding of 1981."""
    name = entry.filename
    if not entry.flag_bits & _NAMES_ARE_UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name


def _check_entry(entry: ZipInfo, name: str) -> None:
    suffix = Path(name).suffix.lower()
    if suffix not in PHOTOGRAPHS:
        raise UserError("a ZIP inside of a ZIP: unpack it first" if suffix == ".zip" else "not an image file")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise UserError("a link or a device, not a file")
    if entry.flag_bits & _ENCRYPTED:
        raise UserError("locked with a password: pack it without one")
    if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others unpack as much at once as they like
        raise UserError("compressed in a rare way: pack it as an ordinary ZIP")
    if entry.file_size > max_bytes():
        raise UserError(f"more than {max_bytes() / 1e6:g} megabytes")


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]


def _safe_name(name: str) -> str:
    """A name that stays inside of the folder it is put into, on every system.

    Raises:
        UserError: for one that would not, or is too long.
    """
    parts = _parts(name)
    if ".." in parts:
        raise UserError("its name leads out of the ZIP")
    safe = "/".join(re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", part) for part in parts)
    encoded = safe.encode(errors="surrogateescape")
    if len(encoded) > _DEEPEST or any(len(part) > _LONGEST for part in encoded.split(b"/")):
        raise UserError("its name is too long")
    return safe


def _check_amount(found: Sequence[tuple[str, Path | tuple[ZipFile, ZipInfo]]], skipped: list[tuple[str, str]]) -> None:
    """Refuse too many photographs, or too large ones, before any is unpacked."""
    if not found:
        raise nothing_left(skipped)
    most = limit("GENDEG_MAX_PHOTOGRAPHS")
    if len(found) > most:
        raise UserError(f"You sent {len(found)} photographs; here a data set is made of at most {most}. Send fewer.")
    size = sum(source[1].file_size for _, source in found if not isinstance(source, Path)) / 1e6
    most = limit("GENDEG_MAX_UNPACKED_MEGABYTES")
    if size > most:
        raise UserError(
            f"Unpacked, your photographs have {size:.0f} megabytes; the limit here is {most}. Send fewer, or scale "
            f"them down first."
        )


def _free_place(folder: Path, name: str) -> Path:
    """An empty file of that name, or of one with a number behind it where there is such a file or folder."""
    for number in count(1):
        path = folder / name if number == 1 else folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
        with suppress(FileExistsError, NotADirectoryError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("xb").close()
            return path
    raise AssertionError


def _unpacked(archive: ZipFile, entry: ZipInfo, place: Path) -> bool:
    """Whether an entry could be unpacked; of a damaged one nothing stays. Never more than it says it holds."""
    try:
        with archive.open(entry) as source, place.open("wb") as target:
            shutil.copyfileobj(source, target)
        return True
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # of the disk; a damaged ZIP names places that are none
            raise
    except Exception:  # zipfile and zlib raise almost anything on damaged files
        pass
    place.unlink()
    return False
