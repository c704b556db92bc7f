"""Captions a folder of photographs: python -m training.captions DIR

Writes a line of JSON for each, {"file_name": path below DIR, "caption": sentence}, which `--captions` of
`python -m training.create_dataset` reads. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import transformers
from PIL import Image
from tqdm import tqdm

from gendeg.captions import MODEL, Captioner
from runtime.errors import UserError
from runtime.images import open_image, shown
from training.command_line import command_line, listing
from training.dataset.store import AppendLog
from training.photos import Photos


def caption_folder(folder: Path, captioner: Captioner, log: AppendLog, batch_size: int) -> list[tuple[str, str]]:
    """Caption every image below `folder` that `log` has no line of yet.

    Returns:
        (file name, why) of the files that could not be read.

    Raises:
        UserError: if there is no such folder, no image in it, the log is damaged or the model is not available.
    """
    names = [file.relative_to(folder).as_posix() for file in Photos(folder).files]
    done = {str(row.get("file_name")) for row in log.read()}
    todo = [name for name in names if name not in done]
    skipped: list[tuple[str, str]] = []
    with tqdm(total=len(names), initial=len(names) - len(todo), desc="captions", unit="photo") as bar:
        for start in range(0, len(todo), batch_size):
            batch: dict[str, Image.Image] = {}
            for name in todo[start : start + batch_size]:
                try:
                    batch[name] = open_image(folder / name)
                except UserError as error:
                    skipped.append((name, str(error)))
                    bar.update()
            for name, caption in zip(batch, captioner.caption(list(batch.values())), strict=True):
                log.append({"file_name": name, "caption": caption})
                bar.update()
    return skipped


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0; 2 after a sentence on stderr; 130 after Ctrl-C."""
    args = _parser().parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    output = args.output or args.folder / "captions.jsonl"
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, not {args.batch_size}.")
    if not args.folder.is_dir():
        raise UserError(f"There is no folder {args.folder}.")
    skipped = caption_folder(args.folder, Captioner(args.model), AppendLog(output), args.batch_size)
    if skipped:
        files = listing([f"{name}: {reason}" for name, reason in skipped])
        print(f"Skipped, because they cannot be read ({len(skipped)}):{files}", file=sys.stderr)
    print(f"The captions are in {shown(output)}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.captions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="photographs, searched recursively")
    parser.add_argument("--model", default=MODEL, help="folder or Hub repository of a BLIP-2 model (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="images in one go, a matter of memory (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: captions.jsonl in DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
