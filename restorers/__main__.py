"""Restore a photograph, or a folder of them.

python -m restorers photo.png --restorer nafnet -o restored.png
python -m restorers photos/ --restorer promptir -o restored/

Of a folder, photographs whose result exists are skipped, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from restorers.registry import Restorer, available, load_restorer
from runtime.errors import UserError
from runtime.images import PHOTOGRAPHS, SUFFIXES, check_output, image_files, open_image, shown, write_image


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 if everything was restored, else 2 with a sentence on stderr for each failure."""
    parser = argparse.ArgumentParser(
        prog="python -m restorers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, help="a photograph or a folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="where the result goes: a file, or a folder")
    names = ", ".join(available()) or "none bundled yet"
    parser.add_argument("--restorer", default="nafnet", help=f"{names}; or a weights file, folder or Hub repository")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    args = parser.parse_args(arguments)
    try:
        if not os.path.exists(args.input):  # unlike Path.exists, takes names that are too long
            raise UserError(f"There is no {shown(args.input)}.")
        jobs = _folder_jobs(args.input, args.output) if args.input.is_dir() else [_single_job(args.input, args.output)]
        waiting = [(source, target) for source, target in jobs if args.input.is_file() or not target.exists()]
        if len(jobs) > len(waiting):
            print(f"{len(jobs) - len(waiting)} of {len(jobs)} are done already.", file=sys.stderr)
        if not waiting:
            return 0
        restorer = load_restorer(args.restorer, args.device)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (RuntimeError, AssertionError) as error:  # torch, about the device
        print(f"The device {args.device!r} cannot be used: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    failed = 0
    with tqdm(waiting, unit="photo", disable=None if len(waiting) > 1 else True) as photos:
        for source, target in photos:
            try:
                restore_file(restorer, source, target)
            except UserError as error:
                failed += 1
                photos.clear()
                print(error, file=sys.stderr)
    return 2 if failed else 0


def _single_job(source: Path, target: Path) -> tuple[Path, Path]:
    if os.path.isdir(target):
        target = target / result_name(source)
    check_output(target)
    if target.resolve() == source.resolve():
        raise UserError("Choose another output: the photograph would be replaced.")
    return source, target


def _folder_jobs(folder: Path, output: Path) -> list[tuple[Path, Path]]:
    """Every photograph below `folder`, and where its result goes: the same place below `output`."""
    if folder.resolve() == output.resolve():
        raise UserError("Choose an output folder other than the input: the photographs would be replaced.")
    inside = output.resolve().is_relative_to(folder.resolve())  # then it holds results of an earlier run
    if output.is_file():
        raise UserError(f"The output {shown(output)} is a file; of a folder the results need a folder.")
    sources = [file for file in image_files(folder) if not (inside and file.resolve().is_relative_to(output.resolve()))]
    if not sources:
        raise UserError(f"The folder {shown(folder)} holds no photographs ({', '.join(PHOTOGRAPHS)}).")
    return [(source, output / source.relative_to(folder).with_name(result_name(source))) for source in sources]


def result_name(source: Path) -> str:
    """What a result is called: as its photograph; a PNG beside that name, where its format can only be read."""
    return source.name if source.suffix.lower() in SUFFIXES else f"{source.name}.png"


def restore_file(restorer: Restorer, source: Path, target: Path) -> None:
    """Restore one image file; `target` appears only when it is complete.

    Raises:
        UserError: if `source` cannot be read or restored, or `target` not be written; the message says why.
    """
    try:
        photo = open_image(source, keep_alpha=True)
    except UserError as error:
        raise UserError(f"{shown(source)} cannot be read: {error}") from error
    for note in photo.info["notes"]:
        tqdm.write(f"{shown(source)}: {note}.", file=sys.stderr)
    with tqdm(desc=shown(source.name), unit="tile", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            restored = restorer(photo, progress=progress)
        except (RuntimeError, MemoryError) as error:  # torch's out-of-memory errors are RuntimeErrors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{shown(source)} could not be restored: {reason.rstrip('.')}.") from error
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{shown(target)} cannot be written: {error.strerror or error}.") from error
    write_image(restored, target)


if __name__ == "__main__":
    sys.exit(main())
