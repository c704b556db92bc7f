"""What does a training write down of itself? A CSV file that survives interruptions and damage."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from runtime.files import whole_file, writing


def write_csv(file: Path, rows: list[list[Any]]) -> None:
    """Write a CSV file, whole or not at all."""
    with whole_file(file) as part, part.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


class TrainingLog:
    """A CSV file of averages since the last row, over all processes' samples.

    `waiting_for_data` is a share of the time. A resumed run drops the rows it is about to write again, and damaged
    ones.
    """

    def __init__(self, file: Path, step: int, accelerator: Accelerator):
        self.file, self.accelerator = file, accelerator
        self.sums: dict[str, torch.Tensor] = {}
        self.count, self.started, self.last_step, self.waited = 0, time.monotonic(), step, 0.0
        if accelerator.is_main_process and file.exists():
            header, *rows = list(csv.reader(file.read_text(encoding="utf-8", errors="replace").splitlines())) or [[]]
            whole = [row for row in rows if len(row) == len(header) and row[0].isdecimal()]
            if len(whole) < len(rows) or header[:1] != ["step"]:
                print(f"{file} is damaged: it is left with {len(whole)} whole rows.")
            kept = [row for row in whole if int(row[0]) <= step]
            if kept:
                write_csv(file, [header, *kept])
            else:
                file.unlink()

    def add(self, **numbers: torch.Tensor) -> None:
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.count += 1

    def write(self, step: int, batch_size: int, learning_rate: float) -> dict[str, float]:
        seconds = time.monotonic() - self.started
        averages = self.accelerator.reduce(torch.stack(list(self.sums.values())) / self.count, "mean")
        row = {"step": step} | dict(zip(self.sums, averages.tolist(), strict=True))
        row |= {
            "learning_rate": learning_rate,
            "samples_per_second": (step - self.last_step) * batch_size / seconds,
            "waiting_for_data": self.waited / seconds,
        }
        self.sums, self.count, self.started, self.last_step, self.waited = {}, 0, time.monotonic(), step, 0.0
        if self.accelerator.is_main_process:
            new = not self.file.exists()
            with writing(self.file), self.file.open("a", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, fieldnames=list(row))
                if new:
                    writer.writeheader()
                writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
        return row
