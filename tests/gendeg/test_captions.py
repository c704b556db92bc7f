"""A captioner reads images in any form and says one sentence of each; a model that is not there is named."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from gendeg.captions import Captioner, available_captioner
from gendeg.jobs import describe

WORDS = ["<pad>", "<s>", "</s>", "<image>", *"a red blue dark car tree street with under behind two old".split()]


def tiny_blip2(folder) -> str:
    """Write a random BLIP-2 with all its parts, laid out as the published ones are; returns its folder."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>"],
    ).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "BlipImageProcessor", "processor_class": "Blip2Processor", '
        '"size": {"height": 28, "width": 28}}'
    )
    (folder / "processor_config.json").write_text('{"processor_class": "Blip2Processor", "num_query_tokens": 2}')
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = OPTConfig(
        vocab_size=len(WORDS), hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, bos_token_id=1, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**small, image_size=28).to_dict(),
        qformer_config=Blip2QFormerConfig(**small, encoder_hidden_size=16, cross_attention_frequency=1).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=2,
        image_token_index=3,
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)  # else every image gets the same words
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return Captioner(tiny_blip2(tmp_path_factory.mktemp("blip2")), device="cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, high, (*size, 3), dtype=np.uint8))
        for high, size in ((255, (40, 60)), (30, (100, 20)), (120, (33, 33)))
    ]


def test_a_sentence_for_each(captioner, images):
    captions = captioner.caption(images)
    assert len(captions) == 3 and len(set(captions)) > 1, "what is said depends on the image"
    for caption in captions:
        assert caption and set(caption.split()) <= set(WORDS[4:]), "words, and none of the model's own signs"
    assert [captioner.caption([image])[0] for image in images] == captions, "no matter who else is in the batch"
    assert captioner.caption([]) == []


def test_any_mode(captioner, images):
    forms = [images[0].convert(mode) for mode in ("RGBA", "L", "P", "CMYK")]
    assert all(captioner.caption(forms))
    assert captioner.caption([images[0].convert("RGBA")]) == captioner.caption([images[0]])


def test_models_that_are_not_there(tmp_path, images, tiny_pipeline_folder):
    (tmp_path / "empty").mkdir()
    for model in ("/nowhere/blip2", str(tmp_path / "empty"), "not a name"):
        with pytest.raises(ValueError, match="is not available"):
            Captioner(model, device="cpu").caption(images[:1])
    with pytest.raises(ValueError, match="is no BLIP-2 model but a clip_text_model"):
        Captioner(str(tiny_pipeline_folder / "text_encoder"), device="cpu").caption(images[:1])


def test_the_app_describes_with_a_model_that_is_at_hand(captioner, tmp_path, monkeypatch):
    monkeypatch.delenv("GENDEG_CAPTIONS", raising=False)
    monkeypatch.setattr("gendeg.captions.try_to_load_from_cache", lambda repository, file: None)
    assert available_captioner() is None
    # As the Hub's cache fills: without all of the weights, a click would download the rest.
    cache = tmp_path / "cache"
    cache.mkdir()
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}})
    monkeypatch.setattr(
        "gendeg.captions.try_to_load_from_cache",
        lambda _, file: str(cache / file) if (cache / file).exists() else None,
    )
    for file, content in (("config.json", "{}"), ("model.safetensors.index.json", index), (shards[0], ""), (None, "")):
        assert available_captioner() is None
        (cache / (file or shards[1])).write_text(content)
    assert available_captioner().model == "Salesforce/blip2-opt-2.7b"
    monkeypatch.setenv("GENDEG_CAPTIONS", captioner.model)
    assert available_captioner().model == captioner.model


def test_describe(captioner, images, tmp_path, monkeypatch):
    images[0].save(tmp_path / "photo.png")
    assert describe(captioner, str(tmp_path / "photo.png")) == captioner.caption([images[0]])[0]
    with pytest.raises(ValueError, match="There is no photograph yet"):
        describe(captioner, None)
    with pytest.raises(ValueError, match="is not available"):
        describe(Captioner("/nowhere/blip2", device="cpu"), str(tmp_path / "photo.png"))

    def fail(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Blip2ForConditionalGeneration, "generate", fail)
    with pytest.raises(ValueError, match="not enough memory for the captioning model"):
        describe(captioner, str(tmp_path / "photo.png"))
