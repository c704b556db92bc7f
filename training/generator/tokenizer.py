"""The compact profile's tokenizer, and captions to train its text encoder with.

A byte-level BPE in CLIP's format, learned from the degradations' phrases and a handful of scene captions. The compact
generator has no paired captions: captions are put before the phrase at random, so that it learns to read the phrase
and to bear any caption.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.pairs import PHRASES

CAPTIONS = [
    "a man riding a horse on a beach", "two women walking down a city street", "a red car parked in front of a house",
    "a bird sitting on the branch of a tree", "a large white building with many windows", "a mountain lake at sunset",
    "a close up of a yellow flower", "a group of people standing around a table", "a boat floating on a calm river",
    "an old stone church with a tall tower", "a dog lying on green grass", "a field of corn under a blue sky",
    "a bridge over a wide river", "children playing in a park", "a narrow street between old houses",
    "a train travelling through the countryside", "a bear standing in a stream", "a portrait of a smiling woman",
    "a zebra and an elephant near water", "a plane flying over snowy hills", "a market with fruit and vegetables",
    "a road with cars and traffic lights", "a wooden fence in front of a barn", "a plate of food on a table",
    "a statue in front of a temple", "a waterfall surrounded by forest", "a person climbing a rock",
]  # fmt: skip


def train_tokenizer(length: int) -> CLIPTokenizer:
    """Learn a tokenizer in CLIP's format; deterministic. Every byte is in the vocabulary, so no text is unknown to it.

    Args:
        length: tokens of a prompt, start and end included.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    size = 1000 - len(alphabet) - 2  # about a thousand tokens in all
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator([*CAPTIONS, *PHRASES * 5], trainer)
    merges = [" ".join(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *(merge.replace(" ", "") for merge in merges)]
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)
