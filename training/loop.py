"""The one training loop: accelerate, EMA, warm-up and cosine decay, checkpoints, resume, progress bar, CSV log.

A training script states its model, its data and its loss; everything else happens here. Under `accelerate launch` the
same command trains on several devices or machines, which must see the same folders; a run may go on with other ones.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, parse_flag_from_env, set_seed
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from runtime.errors import UserError
from runtime.files import files_to_disk, writing
from runtime.memory import is_out_of_memory
from runtime.torchvision_free import import_module
from training.log import TrainingLog


@dataclass(frozen=True)
class LoopSettings:
    """What a recipe's `loop` section may say.

    Attributes:
        steps: optimiser steps; not looked at where there are `minutes`.
        minutes: wall-clock time to train for, preparation and earlier runs included. A finished training that is given
            more goes on.
        batch_size: samples per optimiser step, over all processes and accumulation steps together.
        learning_rate: after `warmup_steps`; decays to a twentieth by a cosine.
        optimizer: "adamw", or "muon", which moves matrices along orthogonalised momentum (Jordan et al., 2024) with
            steps as long as AdamW's (Liu et al., arXiv 2502.16982), and all else as AdamW does.
        ema_decay: of the averaged weights, which are the ones saved; warmed up as (1 + n) / (10 + n).
        clip_norm: gradients are scaled down to this norm.
        checkpoint_every, log_every, validate_every: in steps.
        workers: processes that prepare data (0: in the training process).
        bf16_on_cpu: compute in bfloat16 on a CPU that multiplies it, too, as on every GPU that can.
    """

    steps: int
    batch_size: int
    learning_rate: float
    minutes: float | None = None
    optimizer: str = "adamw"
    warmup_steps: int = 100
    weight_decay: float = 0.0
    ema_decay: float = 0.9999
    clip_norm: float = 1.0
    gradient_accumulation: int = 1
    checkpoint_every: int = 1000
    log_every: int = 50
    validate_every: int = 1000
    workers: int = 0
    bf16_on_cpu: bool = False
    seed: int = 0

    @classmethod
    def of(cls, loop: dict[str, Any], minutes: float | None) -> LoopSettings:
        """What a recipe's `loop` says, with the `minutes` of the command line if it gives any."""
        return cls(**loop | ({} if minutes is None else {"minutes": minutes}))


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 (AVX-512 BF16, AMX); others are many times as slow in it."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def processes() -> PartialState:
    """This process, its device, and its place among those that `accelerate launch` started; else it is the only one.

    They wait for each other patiently: one may have a whole data set to prepare, or a large model to save.
    """
    # Left alone, accelerate takes processes without an accelerator for so many single ones.
    several_on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()
    return PartialState(parse_flag_from_env("ACCELERATE_USE_CPU") or several_on_cpu, timeout=timedelta(days=1))


class Progress:
    """How far a training is, in the form that accelerate saves and restores.

    Args:
        began: `time.monotonic()` when this run, or what prepared its data, began.
    """

    def __init__(self, settings: LoopSettings, began: float):
        self.settings, self.step, self.earlier, self.began = settings, 0, 0.0, began
        self.prepared = _first_ones(time.monotonic() - began)

    def seconds(self) -> float:
        """Wall-clock time of this run and those before; the same in all processes."""
        return _first_ones(self.earlier + time.monotonic() - self.began)

    def done(self) -> float:
        """Share of the training that is behind it, from 0 to 1; what prepared its data only makes it shorter."""
        if self.settings.minutes is None:
            return min(1.0, self.step / self.settings.steps)
        learning = 60 * self.settings.minutes - self.prepared
        return min(1.0, max(0.0, self.seconds() - self.prepared) / learning) if learning > 0 else 1.0

    def state_dict(self) -> dict[str, float]:
        return {"step": self.step, "seconds": self.seconds(), "prepared": self.prepared}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.step, self.earlier = state["step"], state.get("seconds", 0.0)
        self.prepared = state.get("prepared", 0.0)


def _first_ones(seconds: float) -> float:
    """A duration as the first of all processes measured it."""
    if processes().num_processes == 1:
        return seconds
    return float(broadcast(torch.tensor(seconds, device=processes().device)))


def rows_of_process(batch: dict[str, torch.Tensor], process: int, processes: int) -> dict[str, torch.Tensor]:
    """What one of several processes has of a batch that was drawn for all of them."""
    return batch if processes == 1 else {name: values[process::processes] for name, values in batch.items()}


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    data: Dataset,
    settings: LoopSettings,
    output: str | Path,
    save: Callable[[nn.Module], None],
    parameter_groups: list[dict[str, Any]] | None = None,
    validate: Callable[[int], None] | None = None,
    began: float | None = None,
) -> None:
    """Train `model`, or go on with the training that `output` holds.

    Args:
        model: everything that is trained, in one module; in the end it holds the averaged weights.
        loss: (model, batch) -> (loss, further numbers to log).
        data: endless indexed samples; step n takes samples [n * batch_size, (n + 1) * batch_size), so that a resumed
            run sees the same ones. With a method `__getitems__(indices)` it gives a whole batch at once, on any device;
            of several processes each then draws the batch of all and keeps its part, so that they learn what one would.
        save: called with the model holding the averaged weights at every checkpoint and at the end, in one process.
        parameter_groups: as an optimiser takes them, with `scale` in place of `lr`: a factor on the learning rate.
        validate: called with the step, while the model holds the averaged weights, in one process.
        began: `time.monotonic()` when the preparation of its data began; counts among the settings' minutes.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    cuda = processes().device.type == "cuda"
    bf16 = torch.cuda.is_bf16_supported() if cuda else settings.bf16_on_cpu and multiplies_bf16()
    torch.backends.cudnn.benchmark = True  # the samples of a training are of one size
    # On a CPU, gradients of fused attention take longer than all the rest of a small network.
    attention = nullcontext if cuda else partial(sdpa_kernel, SDPBackend.MATH)
    # Precision is ours to say: accelerate keeps one for the whole process, and stages of a recipe may differ.
    accelerator = Accelerator(mixed_precision="no", gradient_accumulation_steps=settings.gradient_accumulation)
    set_seed(settings.seed)
    share = accelerator.num_processes * settings.gradient_accumulation
    if settings.batch_size % share:
        raise UserError(f"batch_size {settings.batch_size} does not divide among {share} processes and accumulations.")
    groups = parameter_groups or [{"params": [p for p in model.parameters() if p.requires_grad]}]
    groups = [{**g, "full_lr": settings.learning_rate * g.get("scale", 1.0)} for g in groups]
    optimizer = _optimizer(groups, settings, fused=cuda)
    progress = Progress(settings, time.monotonic() if began is None else began)
    if cuda:
        model.to(memory_format=torch.channels_last)
    ema = EMAModel(model.parameters(), decay=settings.ema_decay, foreach=True)
    ema.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(progress, ema)
    _resume(accelerator, output)

    def with_averaged_weights(action: Callable[[], None]) -> None:
        if accelerator.is_main_process:
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            action()
            ema.restore(model.parameters())
        accelerator.wait_for_everyone()

    def checkpoint() -> None:
        partial = output / "checkpoint.partial"
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        try:
            with writing(partial):
                accelerator.save_state(str(partial))
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            files_to_disk(partial)
            # The old checkpoint goes only when the new one is whole; _resume knows both names.
            shutil.rmtree(output / "checkpoint.previous", ignore_errors=True)
            if (output / "checkpoint").exists():
                (output / "checkpoint").rename(output / "checkpoint.previous")
            partial.rename(output / "checkpoint")
            shutil.rmtree(output / "checkpoint.previous", ignore_errors=True)
        with_averaged_weights(lambda: save(model))

    process, count = accelerator.process_index, accelerator.num_processes
    first = progress.step * settings.batch_size
    if hasattr(data, "__getitems__"):
        indices, batch_size = range(first, sys.maxsize), settings.batch_size // settings.gradient_accumulation
        collate = partial(rows_of_process, process=process, processes=count)
    else:
        indices, batch_size, collate = range(first + process, sys.maxsize, count), settings.batch_size // share, None
    loader = DataLoader(
        data,
        batch_size=batch_size,
        sampler=indices,
        collate_fn=collate,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=cuda and settings.workers > 0,
    )
    log = TrainingLog(output / "log.csv", progress.step, accelerator)
    timed = settings.minutes is not None
    bar = tqdm(
        total=round(60 * settings.minutes) if timed else settings.steps,
        initial=round(progress.seconds()) if timed else progress.step,
        desc=output.name,
        unit="s" if timed else "step",
        disable=not accelerator.is_main_process,
    )
    prepared.train()
    with Interruption() as interruption:
        batches = iter(loader)
        while (done := progress.done()) < 1:
            factor = _learning_rate_factor(progress.step, done, settings.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = factor * group["full_lr"]
            waited = time.monotonic()
            batch = next(batches)
            log.waited += time.monotonic() - waited
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
            with accelerator.accumulate(prepared), attention():  # also where gradients compute a layer anew
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=bf16):
                    value, numbers = loss(prepared, batch)
                accelerator.backward(value)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
            log.add(loss=value, **numbers)
            if not accelerator.sync_gradients:
                continue
            ema.step(model.parameters())
            progress.step += 1
            bar.update(round(progress.seconds()) - bar.n if timed else 1)
            if progress.step % settings.log_every == 0:
                row = log.write(progress.step, settings.batch_size, factor * settings.learning_rate)
                bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k not in ("step", "learning_rate")})
            stop = _asked_anywhere(interruption, accelerator)
            if progress.step % settings.checkpoint_every == 0 or stop:
                checkpoint()
            if stop:
                message = f"Stopped at step {progress.step}; the same command goes on from there."
                raise SystemExit(message if accelerator.is_main_process else 1)
            if validate and progress.step % settings.validate_every == 0:
                with_averaged_weights(partial(validate, progress.step))
    bar.close()
    if timed and not progress.step:
        raise UserError(f"{settings.minutes:.1f} minutes are over before {output.name} could begin: give it more.")
    checkpoint()
    ema.copy_to(model.parameters())


def _optimizer(groups: list[dict[str, Any]], settings: LoopSettings, fused: bool) -> torch.optim.Optimizer:
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "betas": (0.9, 0.99)}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common, fused=fused)
    if settings.optimizer == "muon":
        muon = import_module("timm.optim.muon")
        orthogonalise = muon.zeropower_via_newtonschulz  # in bfloat16, unless told otherwise
        if not (fused or multiplies_bf16() or isinstance(orthogonalise, partial)):
            muon.zeropower_via_newtonschulz = partial(orthogonalise, dtype=torch.float32)
        return muon.Muon(groups, **common)
    raise UserError(f"There is no optimizer {settings.optimizer!r}; there are adamw and muon.")


def _learning_rate_factor(step: int, done: float, warmup_steps: int) -> float:
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    return warmup * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def _resume(accelerator: Accelerator, output: Path) -> None:
    """Take up the newest whole checkpoint.

    Raises:
        UserError: if it is one of another model.
    """
    found = [output / name for name in ("checkpoint", "checkpoint.previous") if (output / name).is_dir()]
    for checkpoint in found:
        if _is_whole(checkpoint):
            try:
                accelerator.load_state(str(checkpoint))
            except (RuntimeError, ValueError, KeyError) as error:
                if is_out_of_memory(error):
                    raise
                raise UserError(
                    f"{output} holds the training of a model of other sizes. Choose another --output."
                ) from error
            return
    if found and accelerator.is_main_process:
        print(f"{found[0]} is damaged: this training starts anew.")


def _is_whole(checkpoint: Path) -> bool:
    """Whether all files that take a training up can be read."""
    try:
        with safe_open(checkpoint / "model.safetensors", "pt"):  # it checks that the file is as long as it says
            pass
        for name in ("optimizer.bin", *(f"custom_checkpoint_{number}.pkl" for number in range(2))):
            torch.load(checkpoint / name, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # the libraries raise almost anything on damaged files
        return False
    return True


class Interruption:
    """Turns Ctrl-C and termination into a question that the loop asks between steps."""

    def __enter__(self) -> Interruption:
        self.asked = False
        self._previous = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _asked_anywhere(interruption: Interruption, accelerator: Accelerator) -> bool:
    """Whether any process was asked to stop: signals do not reach all of them within the same step."""
    if accelerator.num_processes == 1:
        return interruption.asked
    if interruption.asked:
        accelerator.set_trigger()
    return accelerator.check_trigger()


def unless_a_later_stage_began(save: Callable[[Any], None], output: Path, number: int) -> Callable[[Any], None]:
    """`save`, or nothing if what a later stage of the same run saved would be replaced by older weights."""
    later = any(int(folder.name.removeprefix("stage-")) > number for folder in output.glob("stage-*"))
    return (lambda model: None) if later else save
