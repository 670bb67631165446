"""Which moments are looked at: all of a clip, a part of it, so many or so many a second."""


import numpy as np
import pytest
import torch
from checkpoints import clip, random_adapter, sound

import lynx
from lynx import BackboneError, MediaError
from lynx.media.audio import read_audio
from lynx.media.side_files import parse_unit
from lynx.media.video import read_frames
from lynx.media.writer import write_video
from lynx.modalities.audio import Audio, AudioRendering
from lynx.modalities.depth import Depth, DepthRendering
from lynx.modalities.high_fps import fast_times
from lynx.streams.budget import part_of
from lynx.types import DepthClip, Moments, Waveform, sample_times, seconds_of

RATE = 16000


@pytest.fixture(scope="module")
def senses(folder):
    """A model with an adapter for every sense."""
    model = lynx.load(folder)
    for sense in ("audio", "depth", "high_fps", "multi_view"):
        random_adapter(model, sense, sense)
    return model


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Four seconds at 20 frames a second whose sound is louder in every second, in one file."""
    path = tmp_path_factory.mktemp("recording") / "clip.mp4"
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (80, 3, 48, 64), dtype=torch.uint8, generator=noise)
    level = torch.tensor([0.02, 0.05, 0.1, 0.3]).repeat_interleave(RATE)
    write_video(path, pixels, 20, Waveform(level * torch.randn(4 * RATE, generator=noise), RATE))
    return path


@pytest.mark.parametrize("n, duration", [(1, 4.0), (7, 3.37), (64, 5400.1)])
def test_a_whole_clip_is_looked_at_as_ever(n, duration):
    assert torch.equal(Moments().times(duration, n), sample_times(duration, n))
    assert Moments().whole and not Moments(start=1).whole and not Moments(end=1).whole


def test_a_part_is_looked_at_at_the_middles_of_its_equal_parts():
    times = Moments(start=12.5, end=20).times(60.0, 3)
    assert times.tolist() == [13.75, 16.25, 18.75] and Moments(start=12.5, end=20).part(15) == (12.5, 15)


@pytest.mark.parametrize(
    "wrong, error, said",
    [
        ({"start": -1}, MediaError, "start is -1"),
        ({"start": float("nan")}, MediaError, "start is nan"),
        ({"start": 3, "end": 3}, MediaError, "end is 3: expected seconds after start, which is 3"),
        ({"end": float("inf")}, MediaError, "end is inf"),
        ({"start": "2"}, MediaError, "start is 2"),
        ({"fps": 0}, BackboneError, "fps is 0: expected frames a second, above 0"),
        ({"fps": 2, "frames": 3}, BackboneError, "frames=3 and fps=2 both say how many"),
        ({"frames": 3, "max_frames": 2}, BackboneError, "max_frames limits what fps gives"),
        ({"max_frames": 0}, BackboneError, "max_frames is 0: expected a whole number of moments"),
        ({"frames": 2.5}, BackboneError, "frames is 2.5"),
    ],
)
def test_what_is_no_choice_of_moments_is_refused_with_its_value(wrong, error, said):
    with pytest.raises(error, match=said):
        Moments(**wrong)


@pytest.mark.parametrize(
    "text, seconds", [("12.5", 12.5), (" 1:30 ", 90), ("90:00", 5400), ("1:02:03.5", 3723.5)]
)
def test_times_are_read_as_people_write_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3", "1:60", "1:99:00", "1:2:3:4", "nan", "1e3"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(MediaError, match="is no time"):
        seconds_of(text)


def test_units_of_depth_have_names():
    assert [parse_unit(text) for text in ("TUM", "0.01", "mm")] == [0.0002, 0.01, 0.001]
    for text in ("inch", "0", "-1", "inf", "nan"):
        with pytest.raises(MediaError, match="depth unit is"):
            parse_unit(text)


def test_so_many_a_second_are_looked_at_and_fewer_where_they_are_too_many(senses):
    video = clip(40)  # 20 s
    plan = senses.chat(video=video, fps=0.5, start=4, end=10).plan
    assert plan.times.tolist() == [5, 7, 9] and (plan.start, plan.end, plan.duration) == (4, 10, 20)
    assert plan.notes == () and senses.chat(video=video, fps=0.01).plan.frames == 1
    few = senses.chat(video=video, fps=2, max_frames=5).plan
    assert few.frames == 5 and few.notes == ("2 frames a second would be 40; 5 are used",)
    assert torch.equal(few.times, sample_times(20.0, 5))
    full = senses.chat(video=video, fps=1e9).plan
    assert full.notes[0].startswith("1e+09 frames a second would be 20000000000; ")
    assert "more do not fit the model's" in full.notes[0] and sum(full.tokens.values()) <= full.context
    with pytest.raises(BackboneError, match=f"use at most {full.frames} frames"):
        senses.chat(video=video, frames=full.frames + 1)
    assert senses.chat(video=video, max_frames=3).plan.frames == 3


def test_a_part_beyond_the_end_is_cut_with_a_note_or_refused(senses):
    plan = senses.chat(video=clip(), frames=2, start=3, end=9).plan
    assert plan.end == 4 and plan.times.tolist() == [3.25, 3.75]
    assert plan.notes == ("the recording lasts 4.0 s: its part ends there, not at 9 s",)
    assert senses.chat(video=clip(), end=4.04).plan.notes == ()
    with pytest.raises(MediaError, match=r"start is 4 s, but the recording lasts 4.00 s"):
        senses.chat(video=clip(), start=4)


@pytest.mark.parametrize("end", [4.0, 4, 9.0])
def test_a_part_that_is_all_of_the_clip_is_the_whole(senses, recording, end):
    media = {"video": recording, "audio": recording}
    whole = senses.chat(**media, frames=3)
    asked = senses.chat(**media, frames=3, start=0, end=end)
    assert asked.plan.whole and asked.media == whole.media, "no source is told of a part"
    before = whole.encode()
    assert asked.encode().keys() == before.keys()
    assert all(asked.streams[sense] is before[sense] for sense in before), "nothing is encoded again"
    part = senses.chat(**media, frames=3, end=3.9)
    assert not part.plan.whole and part.media["audio"].part == (0.0, 3.9)


def test_senses_of_other_lengths_are_said_with_what_is_not_used(senses, tmp_path):
    video = clip(8)  # 4 s

    def notes(seconds, **part):
        return senses.chat(video=video, audio=sound(seconds), frames=2, **part).plan.notes

    both = "the sound lasts {} s, the video 4.0 s"
    assert notes(30.0) == (both.format("30.0") + ": the last 26.0 s are not heard",)
    assert notes(1.0) == (both.format("1.0") + ": there is no sound in the last 3.0 s",)
    assert notes(4.4) == notes(3.6) == ()
    assert notes(30.0, end=3) == (), "the end is where it was asked for"
    assert notes(1.0, start=2) == (both.format("1.0") + ": there is no sound in the part looked at",)
    alone = senses.chat(audio=sound(9.0), multi_view=video, frames=2).plan.notes
    lasts = "the second view lasts 4.0 s, the sound 9.0 s"
    assert alone == (f"{lasts}: there is no second view in the last 5.0 s",)
    maps = DepthClip.of(np.ones((30, 4, 4)))
    assert senses.chat(video=video, depth=maps, frames=2).plan.notes == (), "maps without a clock are spread"


def test_tracks_of_one_file_are_compared_as_those_of_two(senses, recording, tmp_path):
    longer = tmp_path / "longer.mp4"  # a picture of 6 s, sound of 9 s
    write_video(longer, torch.zeros(12, 3, 48, 64, dtype=torch.uint8), 2, sound(9.0))
    assert senses.chat(video=recording, audio=f"{recording}#1", frames=2).plan.notes == ()
    for video, lasts in ((recording, "4.0"), (longer, "6.0")):
        (note,) = senses.chat(video=video, audio=longer, frames=2).notes
        assert note.startswith(f"the sound lasts 9.0 s, the video {lasts} s: the last ")
    (note,) = senses.chat(audio=longer, frames=2).notes
    assert note.startswith("the sound lasts 9.0 s, the picture 6.0 s: the last 3.0 s are not heard")
    assert senses.chat(video=longer, frames=2).notes == []



def test_a_part_shows_the_frames_that_the_whole_shows_at_these_moments(senses, recording):
    part = senses.chat(video=recording, frames=4, start=1, end=3)
    whole = read_frames(recording, [1.25, 1.75, 2.25, 2.75])
    shown = senses.modality("video").render(part.media["video"], part.plan.times)
    assert torch.equal(shown.pixels, whole.pixels) and torch.equal(shown.times, whole.times)
    part.encode()
    assert torch.equal(part.streams["video"].frames.times, whole.times)


@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("level_db", [None, -20.0])
def test_nothing_outside_of_a_part_is_heard(recording, n, level_db):
    """What is heard is the sound cut out of the file, at the seconds that it has in the file."""
    start, end = 1.0, 2.0
    sense = Audio(AudioRendering(level_db=level_db, least_s=0.7))
    source = part_of({"audio": recording}, (start, end), 4.0)["audio"]
    shown = sense.render(source, Moments(start=start, end=end).times(4.0, n))
    alone = read_audio(recording, RATE, window=(start, end))
    cut = sense.render(alone, sample_times(end - start, n))
    assert torch.equal(shown.pixels, cut.pixels) and torch.allclose(shown.times, cut.times + start)
    assert shown.duration == pytest.approx(end)
    elsewhere = sense.render(part_of({"audio": recording}, (3.0, 4.0), 4.0)["audio"], shown.times + 2)
    assert not torch.equal(elsewhere.pixels, shown.pixels)


def test_a_part_after_the_sound_has_ended_is_silent(tmp_path):
    write_video(tmp_path / "short.mp4", torch.zeros(80, 3, 48, 64, dtype=torch.uint8), 20, sound(1.0))
    source = part_of({"audio": tmp_path / "short.mp4"}, (2.0, 4.0), 4.0)["audio"]
    assert not Audio().render(source, Moments(start=2, end=4).times(4.0, 3)).pixels.any()


def test_sound_and_frames_in_memory_are_cut_to_the_part():
    media = part_of({"audio": sound(4.0), "high_fps": clip(8)}, (1.0, 2.5), 4.0)
    heard = media["audio"].samples
    assert torch.equal(heard[RATE : 5 * RATE // 2], sound(4.0).samples[RATE : 5 * RATE // 2])
    assert not heard[:RATE].any() and not heard[5 * RATE // 2 :].any() and len(heard) == 4 * RATE
    assert torch.equal(media["high_fps"].times, clip(8).times[2:6])
    moment = torch.tensor([1.2])
    assert torch.equal(media["high_fps"].at(moment).pixels, clip(8).at(moment).pixels)


@pytest.mark.parametrize("n", [1, 2, 16])
def test_fast_frames_stay_inside_the_part(n):
    fast = fast_times(Moments(start=10, end=12).times(60.0, n), 4, 60.0, (10, 12))
    assert fast.min() > 10 and fast.max() < 12
    assert torch.allclose(fast.flatten().diff(), torch.tensor(2.0 / (4 * n), dtype=torch.float64))


def test_maps_without_a_clock_are_spread_over_the_whole_clip(senses, tmp_path):
    meters = np.arange(1, 9, dtype=np.float32)[:, None, None] * np.ones((4, 4), np.float32)  # eight seconds
    np.save(tmp_path / "maps.npy", meters)
    for source in (tmp_path / "maps.npy", DepthClip.of(meters)):
        chat = senses.chat(video=clip(16), depth=source, frames=2, start=4, end=6)
        shown = Depth().render(chat.media["depth"], chat.plan.times)
        whole = Depth().render(source, sample_times(8.0, 8))
        assert torch.equal(shown.pixels, whole.pixels[4:6]) and shown.duration == 8


def test_poses_are_chosen_inside_the_part(tmp_path):
    (tmp_path / "depth").mkdir(), (tmp_path / "pose").mkdir()
    from PIL import Image

    for i in range(8):
        Image.fromarray(np.full((4, 4), 1000 + i, np.uint16)).save(tmp_path / "depth" / f"{i}.png")
        pose = np.eye(4)
        pose[0, 3] = i**2
        np.savetxt(tmp_path / "pose" / f"{i}.txt", pose)
    np.savetxt(tmp_path / "times.txt", np.arange(8.0))
    source = part_of({"depth": tmp_path}, (2.0, 5.0), 8.0)["depth"]
    shown = Depth(DepthRendering(choose="pose_aware")).render(source, Moments(start=2, end=5).times(8.0, 3))
    assert shown.times.min() >= 2 and shown.times.max() <= 5 and len(shown) == 3


def test_a_shape_is_seen_from_all_sides_in_a_part_too(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.ply")
    whole = Depth().render(tmp_path / "box.ply", sample_times(8.0, 4))
    source = part_of({"depth": tmp_path / "box.ply"}, (5.0, 6.0), 8.0)["depth"]
    assert torch.equal(Depth().render(source, Moments(start=5, end=6).times(8.0, 4)).pixels, whole.pixels)


def test_further_views_are_looked_at_on_the_first_cameras_clock(senses, recording):
    from lynx.modalities.multi_view import View

    other = {"left": View(recording, 0.5)}
    chat = senses.chat(video=recording, multi_view=other, frames=2, start=1, end=2)
    shown = senses.modality("multi_view").render(chat.media["multi_view"], chat.plan.times)
    assert torch.equal(shown.pixels, read_frames(recording, [0.75, 1.25]).pixels)


def test_streams_of_a_part_have_keys_of_their_own(senses, recording):
    keys = {
        senses.stream_key("audio", chat.media["audio"], chat.plan.times)
        for part in ({}, {"start": 1, "end": 3}, {"start": 1.5, "end": 2.5})  # one moment, in their middle
        for chat in [senses.chat(video=recording, audio=recording, frames=1, **part)]
    }
    assert len(keys) == 3


def test_an_answer_about_a_part_covers_its_seconds(senses, recording):
    chat = senses.chat(video=recording, audio=recording, frames=4, start=1, end=3)
    chat.ask("what is it ?", max_new_tokens=4)
    assert chat.used == {"video": (4, 2.0), "audio": (4, pytest.approx(2.0, abs=0.01))}
    times, _ = chat.evidence.attribution(None, "attention").curve("audio")
    assert 1 < times.min() and times.max() < 3


def test_when_memory_runs_out_half_of_the_moments_are_of_the_part(senses, recording):
    chat = senses.chat(video=recording, fps=2, start=1, end=3)
    assert chat.plan.frames == 4 and chat._halve_frames()
    assert chat.plan.times.tolist() == [1.5, 2.5]


def test_halves_of_an_example_are_heard_as_files_cut_out_of_it(root, tmp_path):
    """two_sounds: a hum in the first half, a drum in the second."""
    if not (root / "lynx/assets/lynx-tiny/model.safetensors").is_file():
        pytest.skip("needs the trained lynx-tiny")
    model = lynx.load("lynx-tiny", adapters=[root / "adapters" / "audio"])
    path = root / "examples/two_sounds/clip.mp4"
    for name, start, end, answer in (("first", 0, 2, "hum"), ("second", 2, 4, "drum")):
        frames = read_frames(path, start + sample_times(2.0, 48))
        cut = tmp_path / f"{name}.mp4"
        write_video(cut, frames.pixels, 24, read_audio(path, 44100, window=(start, end)))
        said = []
        of_whole = model.chat(video=path, audio=path, start=start, end=end)
        for chat in (model.chat(video=cut, audio=cut), of_whole):
            said.append([chat.ask(q) for q in ("what sound do you hear ?", "which sound comes first ?")])
        assert said[0] == said[1] and said[1][0] == answer
