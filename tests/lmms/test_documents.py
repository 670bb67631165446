"""What tasks of lmms-eval show and ask, in both of their forms, is read as one clip and a dialog about it."""

import numpy as np
import pytest
import torch
from PIL import Image

from lynx.datasets.base import Turn
from lynx.errors import DataError, MediaError
from lynx.lmms.documents import of_messages, of_visuals
from lynx.types import Moments

RED, BLUE = Image.new("RGB", (40, 20), (255, 0, 0)), Image.new("RGB", (20, 20), (0, 0, 255))


def says(role, *parts):
    return {"role": role, "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


def video(url, **more):
    return {"type": "video", "url": url, **more}


def test_the_sound_is_the_clips_own_unless_there_is_another():
    alone = of_visuals("what ?", ["a/clip.MP4"])
    assert (alone.question, alone.video, alone.moments) == ("what ?", "a/clip.MP4", Moments())
    assert alone.source("video") == alone.source("audio") == "a/clip.MP4"
    both = of_visuals("what ?", ["clip.webm", "voice.wav"])
    assert (both.source("video"), both.source("audio")) == ("clip.webm", "voice.wav")
    heard = of_visuals("what ?", ["voice.wav"])
    assert (heard.source("video"), heard.source("audio")) == (None, "voice.wav")
    nothing = of_visuals("what ?", None)
    assert nothing.source("video") is nothing.source("audio") is None


def test_a_sound_in_memory_is_heard_in_one_channel():
    stereo = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, -0.5]])
    sound = of_visuals("what ?", [{"array": stereo, "sampling_rate": 8000, "path": None}]).source("audio")
    assert sound.sample_rate == 8000 and sound.samples.tolist() == [0.25, 0.5, -0.25]


def test_pictures_become_a_second_each_at_the_size_of_the_first(tmp_path):
    BLUE.save(tmp_path / "blue.png")
    document = of_visuals("what ?", [RED, str(tmp_path / "blue.png")])
    frames = document.source("video")
    assert frames.pixels.shape == (2, 3, 20, 40)
    assert (frames.times.tolist(), frames.duration) == ([0.0, 1.0], 2.0)
    assert frames.pixels[0, :, 5, 5].tolist() == [255, 0, 0]
    columns = frames.pixels[1, :, 10]  # (3, 40): blue between black bars
    assert columns[:, 20].tolist() == [0, 0, 255] and columns[:, (2, 37)].sum() == 0
    assert "differ in size" in frames.notes[0]
    assert document.source("audio") is None


def test_messages_are_a_dialog_that_ends_in_a_question():
    document = of_messages(
        [
            says("system", text("Be brief.")),
            says("user", video("a.mp4", start_time=2, end_time=5.5), text("who ?"), text("Say a name.")),
            says("assistant", text("Ann")),
            {"role": "user", "content": "where ?"},
        ]
    )
    assert (document.system, document.question) == ("Be brief.", "where ?")
    assert document.before == (Turn("who ?\nSay a name.", "Ann"),)
    assert document.video == "a.mp4" and document.moments == Moments(start=2, end=5.5)


def test_what_lmms_eval_makes_of_files_and_dicts_is_understood():
    webm = of_messages([says("user", {"type": "audio", "url": "a.webm"}, text("what ?"))])
    assert webm.video == "a.webm"
    part = {"type": "video", "path": "a.mp4", "video_start": 1.0, "video_end": 2.0}
    cut = of_messages([says("user", video(part), text("what ?"))])
    assert cut.video == "a.mp4" and cut.moments == Moments(start=1.0, end=2.0)
    sound = of_messages([says("user", video({"array": [0.0, 0.5], "sampling_rate": 16000}), text("what ?"))])
    assert torch.equal(sound.source("audio").samples, torch.tensor([0.0, 0.5])) and sound.video is None


def test_documents_about_the_same_clip_are_known_as_such():
    one, other = of_visuals("what ?", ["a.mp4"]), of_visuals("where ?", ["a.mp4"])
    part = of_messages([says("user", video("a.mp4", end_time=1), text("what ?"))])
    assert one.clip == other.clip != part.clip
    pictures = [of_visuals("what ?", [RED]), of_visuals("what ?", [BLUE])]
    assert pictures[0].clip != pictures[1].clip


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages of nobody"),
        ([says("user", text("a")), says("assistant", text("b"))], "a question at the end"),
        ([says("user", text("a")), says("user", text("b"))], "user and assistant in turn"),
        ([says("user", video("a.mp4"), video("b.mp4"), text("a"))], "more than one video"),
        ([says("user", {"type": "image", "url": RED}, video("b.mp4"), text("a"))], "more than one video"),
        (
            [says("user", text("a")), says("assistant", text("b")), says("user", video("a.mp4"), text("c"))],
            "media behind the first question",
        ),
        ([says("user", video(None), text("a"))], "expected the path of a file"),
    ],
)
def test_other_messages_are_refused(messages, said):
    with pytest.raises(DataError, match=said):
        of_messages(messages)


def test_what_is_no_picture_is_refused(tmp_path):
    with pytest.raises(MediaError, match="is no picture"):
        of_visuals("what ?", [object()])
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match="a.png"):
        of_visuals("what ?", [str(tmp_path / "a.png")])
