"""What SmolVLM2 has that other families have not: a prompt of text, numbers in words, two resizes."""

import json
import threading

import pytest
import torch
from checkpoints import clip, random_adapter, sound
from families.smolvlm import FAMILY, SmallSmolVLM, stock_text
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

import lynx
from lynx import BackboneError
from lynx.backbones import load_backbone
from lynx.backbones.decoding import stream_text
from lynx.backbones.loading import parse_source, read_preprocessing
from lynx.backbones.smolvlm import number_in_words
from lynx.datasets.base import Example, Turn
from lynx.datasets.clips import content_key
from lynx.training.packing import Packer
from lynx.training.stream_cache import StreamCache
from lynx.types import Frames, Stream, TokenLayout

MERGES = [
    ("Ġ", "Y"), ("ĠY", "o"), ("ĠYo", "u"), ("Ċ", "Ċ"), ("Y", "e"), ("Ye", "s"), ("Ġ", "Yes"), ("Ġ", "a"),
    (":", "ĊĊ"), ("F", "r"), (".", "ĊĊ"), ("Ċ", "U"),
]  # fmt: skip
"""What becomes one token at the seams of a prompt: " You", "\\n\\n", " Yes" and others."""
QUESTION = [{"role": "user", "content": "Is it a bell?"}]
TALKS = {
    "a question": QUESTION,
    "a question that begins with a line": [{"role": "user", "content": "\nwhat ?"}],
    "a history": [
        *QUESTION, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "You are?"},
    ],
    "a system prompt": [{"role": "system", "content": "You are brief."}, *QUESTION],
}  # fmt: skip


class Merging(SmallSmolVLM):
    """With a tokenizer in which texts that are tokenized apart give other ids than when they are joined."""

    def tokenizer(self, merges=()):
        return super().tokenizer(MERGES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Merging().write(tmp_path_factory.mktemp("smolvlm"), max_position_embeddings=8192)


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(folder)


def video_stream(backbone, seconds, duration):
    """A video's stream of as many frames as `seconds`, of tokens that are 0."""
    layout = TokenLayout.of(len(seconds), backbone.token_grid)
    times = layout.seconds(torch.tensor(seconds, dtype=torch.float64))
    tokens = torch.zeros(len(times), backbone.model.config.text_config.hidden_size)
    return Stream("video", tokens, times, layout.cell, layout.grid, None, duration=duration)


def stock_ids(backbone, messages, media):
    """The ids of the stock processor's prompt, whose template has the video before the first question."""
    blocks, due = [], True
    for message in messages:
        content = [{"type": "text", "text": message["content"]}]
        if due and message["role"] == "user":
            content, due = [{"type": "video"}, *content], False
        blocks.append({"role": message["role"], "content": content})
    text = backbone.tokenizer.apply_chat_template(
        blocks, chat_template=DEFAULT_CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    return backbone.tokenizer(text.replace("<video>", media)).input_ids


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize(
    ("seconds", "duration", "words"),
    [
        ([0.0], 0.5, "one"),
        ([0.25, 1.75, 3.999], 4.99, "three"),
        ([59.99, 60.0, 3599.0], 3600.0, "three"),
        ([5999.0, 6000.0, 90_000.5], 90_061.0, "three"),  # longer than 100 minutes; than a day
        ([float(i) for i in range(21)], 21.0, "twenty-one"),
        ([i / 2 for i in range(105)], 52.5, "one hundred and five"),
    ],
)
@torch.no_grad()
def test_a_prompt_has_the_ids_of_the_stock_processor_s(backbone, talk, seconds, duration, words):
    media = stock_text(len(seconds), seconds, duration, backbone.tokens(1), words)
    prompt = backbone.compose(TALKS[talk], [video_stream(backbone, seconds, duration)])
    assert prompt.input_ids[0].tolist() == stock_ids(backbone, TALKS[talk], media)


def test_the_tokenizer_of_these_tests_merges_across_the_seams(backbone):
    """Else the test above could not tell joined from separate texts."""
    ids = backbone.tokenizer("User: You").input_ids
    apart = [*backbone.tokenizer("User: ").input_ids, *backbone.tokenizer("You").input_ids]
    assert ids != apart and backbone.tokenizer("\n\n").input_ids != backbone.tokenizer("\n").input_ids * 2


def test_words_and_frames_are_counted_before_they_are_there(backbone):
    for seconds in ([0.0], [0.0, 1.0, 2.5], [float(i) for i in range(40)]):
        stream = video_stream(backbone, seconds, len(seconds))
        ids, places = backbone.media_ids([stream])
        header = len(backbone.tokenizer("User:").input_ids)
        counted = backbone.tokens(len(seconds)) + backbone.captions(torch.tensor(seconds))
        # " You" is one token behind the header, and two counted by themselves
        assert abs(len(ids) - header - counted) <= 2 and len(places["video"]) == backbone.tokens(len(seconds))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"), (1, "one"), (13, "thirteen"), (20, "twenty"), (64, "sixty-four"), (99, "ninety-nine"),
        (100, "one hundred"), (101, "one hundred and one"), (110, "one hundred and ten"),
        (342, "three hundred and forty-two"), (1000, "one thousand"), (1001, "one thousand and one"),
        (1100, "one thousand, one hundred"), (1234, "one thousand, two hundred and thirty-four"),
        (20_016, "twenty thousand and sixteen"),
        (123_456, "one hundred and twenty-three thousand, four hundred and fifty-six"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_num2words_writes_them(number, words):
    assert number_in_words(number) == words


def test_what_is_trained_is_what_is_asked_for(backbone):
    """The tokens of a question and its trained answer are those with which a chat's next prompt begins."""
    for answer in ("Yes", "a bell", "no"):
        asked = Packer(backbone).ask(Turn("Is it ?", answer))
        told = [{"role": "user", "content": "Is it ?"}, {"role": "assistant", "content": answer}]
        chat = backbone.prompt_ids([*told, {"role": "user", "content": "and ?"}], with_media=True)
        assert chat[: len(asked.prompt) + len(asked.answer)] == asked.prompt + asked.answer
    assert backbone.tokenizer.decode(asked.answer) == " no<end_of_utterance>"


def test_the_space_that_begins_an_answer_is_not_shown(backbone):
    def write(streamer):
        streamer.put(torch.tensor([0]))  # the prompt
        for token in backbone.answer_ids("Yes it is a bell"):
            streamer.put(torch.tensor([token]))
        streamer.end()

    pieces = list(stream_text(backbone.tokenizer, write, threading.Event()))
    assert len(pieces) > 1 and "".join(pieces) == "Yes it is a bell"


@torch.no_grad()
def test_other_senses_stand_behind_the_video_as_pictures(folder):
    model = lynx.load(folder)
    random_adapter(model, "audio")
    video = clip(4)
    seen = model.encode("video", video)
    heard = model.encode("audio", model.modality("audio").render(sound(), video.times))
    both = model.backbone.compose(QUESTION, [seen, heard])
    tokens = model.backbone.tokens(1)
    text = stock_text(4, video.times.tolist(), video.duration, tokens).removesuffix("\n\n")
    text += "\n<fake_token_around_image><global-img>" + "<image>" * len(heard.tokens)
    expected = stock_ids(model.backbone, QUESTION, text + "<fake_token_around_image>\n\n")
    assert both.input_ids[0].tolist() == expected
    alone = model.backbone.compose(QUESTION, [heard])
    assert int((alone.input_ids == model.backbone.placeholder).sum()) == len(alone.spans["audio"])
    assert len(alone.spans["audio"]) == len(heard.tokens)


@torch.no_grad()
def test_a_stream_knows_how_long_its_recording_is_wherever_it_comes_from(folder, tmp_path):
    """It stands in the prompt: encoded, in parts, kept in memory and on disk, it is the same prompt."""
    model = lynx.load(folder)
    random_adapter(model, "audio")
    frames = clip(8)
    video = Frames(frames.pixels, frames.times, duration=75.0)  # the moments are of its beginning
    encoded = model.encode("video", video)
    text = model.backbone.tokenizer.decode(model.backbone.media_ids([encoded])[0])
    assert "series of eight frames from a 0:01:15 [H:MM:SS] video" in text
    example = Example("a", {"video": video, "audio": sound()}, (Turn("Is it ?", "Yes"),))
    cache, key = StreamCache(tmp_path, model, {"video": "video", "audio": "audio"}, 4), content_key(example)
    cache.prepare([example], [key], progress=False)
    reopened = StreamCache(tmp_path, model, {"video": "video", "audio": "audio"}, 4)
    session = model.chat(video=video, audio=sound(), frames=4)
    for kept in (cache.stream("video", key), reopened.stream("video", key), session.encode()["video"]):
        assert kept.duration == 75.0
        assert model.backbone.media_ids([kept]) == model.backbone.media_ids([session.streams["video"]])
    assert reopened.stream("audio", key).duration == session.streams["audio"].duration
    prompt = Packer(model.backbone).pack([[reopened.stream("video", key)]], [[Turn("Is it ?", "Yes")]])
    asked = [{"role": "user", "content": "Is it ?"}]
    chat = model.backbone.compose(asked, [session.streams["video"]])
    length = chat.inputs_embeds.shape[1]
    assert torch.equal(prompt.embeds[:, :length], chat.inputs_embeds)


@torch.no_grad()
def test_a_frame_of_pixels_that_are_all_0_is_a_frame(tmp_path):
    """The stock model leaves such frames out as padding, and has too few tokens for its prompt then."""
    folder = FAMILY.write(tmp_path)
    described = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**described, "image_mean": [0.0] * 3}))
    backbone = load_backbone(folder)
    frames = clip(3).pixels
    frames[1] = 0
    pixels = backbone.video_pixels(frames)
    assert not pixels[1].any()
    tokens, layout = backbone.encode(pixels)
    assert len(tokens) == len(layout.frame) == backbone.tokens(3)
    stock = backbone.model.model.get_image_features(pixels[None]).pooler_output[0]
    torch.testing.assert_close(torch.cat([tokens[layout.frame != 1]]), stock)


def test_the_longer_side_is_that_of_size_else_of_the_video(tmp_path):
    def read(**described):
        described |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(described))
        return read_preprocessing(parse_source(tmp_path))

    square = {"max_image_size": {"longest_edge": 512}}
    sampled = {"video_sampling": {"video_size": {"longest_edge": 768}, "fps": 1, "max_frames": 64}}
    both = read(**square, **sampled, size={"longest_edge": 2048})
    assert (both.size, both.longer_side, both.pixels) == ((512, 512), 2048, (0, 0))
    assert read(**square, **sampled).longer_side == 768
    with pytest.raises(BackboneError, match="no preprocessor JSON"):
        read(**square)


def test_a_torch_without_lanczos_is_refused_with_what_to_do(backbone, monkeypatch):
    def older(*arguments, mode, **options):
        raise NotImplementedError(mode)

    monkeypatch.setattr(torch.nn.functional, "interpolate", older)
    with pytest.raises(BackboneError, match=r"Lanczos.*install torch 2\.13"):
        backbone.pixels(clip(1).pixels)
