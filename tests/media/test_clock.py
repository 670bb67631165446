"""Lengths, time zero, the frame at a moment in every format, tracks, names, and why a file is refused."""

import logging
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from lynx.errors import MediaError
from lynx.media import lengths
from lynx.media.audio import read_audio
from lynx.media.container import open_recording, probe, start_of, video_streams
from lynx.media.playhead import Playhead
from lynx.media.video import read_frames
from lynx.modalities.audio import Audio
from lynx.modalities.high_fps import HighFps
from lynx.modalities.multi_view import MultiView
from lynx.modalities.video import Video
from lynx.types import Recording, sample_times

CASES = Path(__file__).parents[3] / "shared" / "cases"
RATE, COUNT = 10, 60  # frames a second, frames
EIGHT = [3, 11, 18, 26, 33, 41, 48, 56]  # the frames at 8 moments of 6 s
GRADIENT = f"color=black:s=64x48:r={RATE}:d=6,geq=lum='16+3*N':cb=128:cr=128,format=yuv420p"
"""ffmpeg's name of a clip whose frame k has the luma 16 + 3k."""


def case(name):
    if not (CASES / name).is_file():
        pytest.skip("needs ../shared/cases, files that are not in the project")
    return CASES / name


def ffmpeg(path, *arguments):
    """A file made by the ffmpeg that moviepy brings along."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, arguments), str(path)]
    subprocess.run(command, check=True)
    return path


def gradient(path, *arguments):
    return ffmpeg(path, "-f", "lavfi", "-i", GRADIENT, *arguments)


def tone(path, seconds, *arguments):
    return ffmpeg(path, "-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}", *arguments)


def number(frame):
    """Which frame of the gradient this is."""
    return round(frame.to_ndarray(format="gray").mean() / (3 * 255 / 219))


def seen(path, times):
    """The numbers of the frames at these moments."""
    with open_recording(path) as container:
        playhead = Playhead(container, video_streams(container)[0])
        return [number(playhead.show(float(time))) for time in times]


def in_order(path):
    """The numbers of all frames, as a decoder gives them from the beginning to the end."""
    with av.open(str(path)) as container:
        return [number(frame) for frame in container.decode(video=0)]


X264 = ("-c:v", "libx264", "-bf", "3", "-g", "20")
OPEN = (*X264, "-x264-params", "open-gop=1")
MPEG4 = ("-c:v", "mpeg4", "-bf", "2", "-g", "20", "-q:v", "2")
MPEG2 = ("-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-q:v", "2")
KINDS = {
    "h264.mp4": X264,
    "open.mp4": OPEN,
    "fragmented.mp4": (*X264, "-movflags", "frag_keyframe+empty_moov"),
    "prores.mov": ("-c:v", "prores"),
    "h264.mkv": X264,
    "open.mkv": OPEN,
    "vp8.webm": ("-c:v", "libvpx", "-g", "20", "-b:v", "1M"),
    "h264.avi": X264,
    "open.avi": OPEN,
    "mpeg4.avi": MPEG4,
    "closed.avi": (*MPEG4, "-flags", "+cgop", "-sc_threshold", "1000000000"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "2"),
    "h264.ts": X264,
    "open.ts": OPEN,
    "refresh.ts": ("-c:v", "libx264", "-bf", "0", "-g", "20", "-x264-params", "intra-refresh=1"),
    "mpeg2.ts": MPEG2,
    "mpeg4.ts": MPEG4,
    "h264.flv": X264,
    "theora.ogv": ("-c:v", "libtheora", "-q:v", "10", "-g", "20"),
    "wmv2.wmv": ("-c:v", "wmv2", "-g", "20", "-q:v", "2"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_moment_shows_the_frame_that_a_full_decode_has_there(tmp_path, name):
    path = gradient(tmp_path / name, *KINDS[name])
    assert in_order(path) == list(range(COUNT))
    assert probe(path).duration == pytest.approx(6.0, abs=0.001)
    assert seen(path, sample_times(6.0, 8)) == EIGHT
    assert seen(path, sample_times(6.0, 59)) == [int(x * RATE) for x in sample_times(6.0, 59)]
    assert seen(path, [5.95]) == [59] and seen(path, [0.0]) == [0]


def test_theora_gives_the_same_pictures_every_time(tmp_path):
    path = gradient(tmp_path / "a.ogv", "-f", "lavfi", "-i", "sine=d=6", "-c:v", "libtheora")
    first = read_frames(path, sample_times(6, 8)).pixels
    assert all((read_frames(path, sample_times(6, 8)).pixels == first).all() for _ in range(60))


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_a_program_stream_of_small_frames_is_read_in_order(tmp_path, codec):
    """Few of its frames have a timestamp, and the writer takes some of them from a neighbor."""
    path = gradient(tmp_path / "clip.mpg", "-r", 25, *MPEG2, "-c:v", codec)
    order, times = in_order(path), sample_times(6.0, 59)
    assert probe(path).duration == pytest.approx(6.0, abs=0.001)
    assert seen(path, times) == [order[int(x * 25 + 1e-6)] for x in times]


def test_gaps_in_the_clock_hold_the_frame_before_them(tmp_path):
    gap = ("-vf", "select='not(between(n,20,39))'", "-fps_mode", "vfr")
    for name in ("gap.mp4", "gap.mkv", "gap.ts", "gap.flv"):
        path = gradient(tmp_path / name, *gap, *X264)
        assert probe(path).duration == pytest.approx(6.0, abs=0.001), name
        assert seen(path, sample_times(6.0, 8)) == [3, 11, 18, 19, 19, 41, 48, 56], name


def test_the_clock_runs_on_where_files_were_joined(tmp_path):
    """As with camcorders and recorders that write parts: `cat a.ts b.ts`."""
    for name, options in {"part.ts": X264, "part.mpg": (*MPEG2, "-r", 25)}.items():
        part = gradient(tmp_path / name, *options).read_bytes()
        path = tmp_path / f"joined_{name}"
        path.write_bytes(part + part)
        assert probe(path).duration == pytest.approx(12.0, abs=0.3), name
        once = seen(tmp_path / name, [0.5, 2.05, 5.5])
        twice = seen(path, [0.5, 2.05, 5.5, 6.5, 8.05, 11.5])
        assert np.abs(np.array(twice) - [*once, *once]).max() <= (0 if name == "part.ts" else 2), name


def test_a_clock_that_wraps_begins_below_zero():
    path = case("wrap.ts")
    assert probe(path).duration == pytest.approx(6.0)
    assert seen(path, sample_times(6.0, 8)) == EIGHT
    assert seen(path, sample_times(6.0, 60)) == list(range(60))


def test_a_program_stream_with_b_frames_is_read_in_order():
    path = case("bf.mpg")
    assert probe(path).duration == pytest.approx(5.8), "as players say, without the last B-frames"
    assert seen(path, sample_times(5.8, 8)) == [3, 10, 18, 25, 32, 39, 47, 54]


def test_negative_and_late_starts(tmp_path):
    whole = gradient(tmp_path / "whole.mp4", *X264)
    below = ffmpeg(tmp_path / "below.mkv", "-i", whole, "-c", "copy", "-output_ts_offset", -3.5)
    assert seen(below, sample_times(6.0, 8)) == EIGHT
    sine = ("-f", "lavfi", "-i", "sine=d=6", "-map", "0:v", "-map", "1:a", "-c:v", "copy")
    for name, codec in {"late.mp4": "aac", "late.mkv": "libopus", "late.ts": "aac"}.items():
        path = ffmpeg(tmp_path / name, "-itsoffset", 0.7, "-i", whole, *sine, "-c:a", codec)
        assert probe(path).duration == pytest.approx(6.7, abs=0.03)  # in MPEG-TS the sound is primed
        assert seen(path, [0.0, 0.6, 0.78, 1.78, 6.65]) == [0, 0, 0, 10, 59], name


def test_matroska_that_begins_late_is_not_cut_off(tmp_path):
    late = gradient(tmp_path / "late.mkv", *X264, "-output_ts_offset", 3, "-avoid_negative_ts", "disabled")
    assert probe(late).duration == pytest.approx(6) and seen(late, sample_times(6, 8)) == EIGHT
    whole = gradient(tmp_path / "whole.mkv", *X264)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match="cut off"):
        probe(cut)


def test_flv_whose_picture_begins_after_the_sound_is_read(tmp_path):
    path = gradient(tmp_path / "a.flv", "-f", "lavfi", "-i", "sine=d=6", "-ar", 22050, "-c:v", "flv")
    info = probe(path)
    late = info.duration - 6
    assert 0 < late < 0.1 and seen(path, sample_times(6, 8) + late) == EIGHT
    assert len(read_audio(path, 16000, (2, 3)).samples) == 16000


def test_an_animated_png_is_a_video(tmp_path):
    path = gradient(tmp_path / "a.png", "-f", "apng", "-t", 2)
    assert probe(path).duration == pytest.approx(2)
    levels = read_frames(path, sample_times(2, 4)).pixels.float().mean((1, 2, 3)) * 219 / 255 / 3
    assert levels.round().tolist() == [2, 7, 12, 17]


def test_an_edit_list_moves_time_zero(tmp_path):
    whole = gradient(tmp_path / "whole.mp4", *X264)
    cut = ffmpeg(tmp_path / "cut.mp4", "-ss", 1.35, "-i", whole, "-c", "copy")
    assert probe(cut).duration == pytest.approx(4.6, abs=0.051)
    first = seen(cut, [0.0])[0]
    assert first in (13, 14)  # frame 0 is the key frame; those before the cut are decoded and not shown
    assert seen(cut, [1.06, 4.56]) == [first + 10, first + 45]


def test_a_stream_that_begins_amid_a_group_shows_no_broken_frame(tmp_path):
    for name, options in {"h264.ts": OPEN, "mpeg2.ts": MPEG2}.items():
        whole = gradient(tmp_path / name, *options)
        packets = whole.read_bytes()
        path = tmp_path / f"amid_{name}"
        path.write_bytes(packets[: 188 * 3] + packets[188 * 40 :])  # the tables, then from amid a group
        numbers = seen(path, sample_times(probe(path).duration, 30))
        assert numbers == sorted(numbers) and numbers[-1] == 59 and numbers[0] % 1 == 0
        assert set(numbers) <= set(range(60)) and numbers[0] > 0


def test_one_frame_lasts_and_is_shown_at_every_moment(tmp_path):
    for name in ("one.mp4", "one.mkv", "one.ts", "one.avi", "one.flv", "one.mpg", "one.gif", "one.webm"):
        rate = {"one.mpg": ("-r", 25), "one.ts": X264}.get(name, ())
        path = gradient(tmp_path / name, "-vf", "negate", "-frames:v", 1, *rate)
        info = probe(path)
        assert 0.03 < info.duration < 0.2, name
        assert len(read_frames(path, sample_times(info.duration, 8))) == 8
        assert seen(path, [0.0, info.duration, 9.0]) == [seen(path, [0.0])[0]] * 3


def test_a_transport_stream_without_an_index_is_not_decoded_whole(tmp_path, monkeypatch):
    """Five minutes with a key frame every 4 s: 8 moments cost two groups each at most."""
    picture = f"testsrc=s=64x48:r={RATE}:d=300"
    options = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", 2, "-g", 40, "-pix_fmt", "yuv420p")
    path = ffmpeg(tmp_path / "long.ts", "-f", "lavfi", "-i", picture, *options)
    decoded, original = 0, Playhead.show.__globals__["decode"]

    def counting(*args):
        nonlocal decoded
        for frame in original(*args):
            decoded += 1
            yield frame

    monkeypatch.setitem(Playhead.show.__globals__, "decode", counting)
    times = sample_times(probe(path).duration, 8)
    with open_recording(path) as container:
        playhead = Playhead(container, video_streams(container)[0])
        shown = [playhead.show(float(x)).time - start_of(container) for x in times]
    assert decoded <= 8 * 80
    assert shown == [pytest.approx(int(x * RATE) / RATE, abs=0.002) for x in times.tolist()]


# Lengths


def test_subtitles_do_not_count_and_the_moments_lie_in_the_picture():
    info = probe(case("long_subs.mkv"))
    assert info.duration == info.video.duration == pytest.approx(2.0)
    assert [t.why for t in info.tracks] == ["the picture", "subtitles are not read"]


def test_a_subtitle_that_outlasts_the_last_key_frame_is_not_a_cut_file(tmp_path):
    text = tmp_path / "text.srt"
    text.write_text("1\n00:00:00,500 --> 00:01:00,000\nstays\n")
    options = ("-i", text, "-map", 0, "-map", 1, "-c:s", "srt", *X264)
    assert probe(gradient(tmp_path / "clip.mkv", *options)).duration == pytest.approx(6.0)


def test_the_length_of_sound_without_a_header_is_counted(tmp_path):
    loud = "anoisesrc=d=10:a=0.9:r=44100,apad=pad_dur=20"
    vbr = ("-c:a", "libmp3lame", "-q:a", 2, "-write_xing", 0)
    mp3 = ffmpeg(tmp_path / "loud_first.mp3", "-f", "lavfi", "-i", loud, *vbr)
    aac = ffmpeg(tmp_path / "loud_first.aac", "-f", "lavfi", "-i", loud)
    for path in (mp3, aac):
        info = probe(path)
        assert info.duration == info.sound.duration == pytest.approx(30.0, abs=0.08), path.name
        assert read_audio(path, 8000).duration == pytest.approx(info.duration, abs=0.08)


@pytest.mark.parametrize("kind", "mp3 m4a ogg opus flac wav aiff caf w64 mka wma".split())
def test_the_length_of_sound_with_a_header_is_right(tmp_path, kind):
    assert probe(tone(tmp_path / f"tone.{kind}", 7.3)).duration == pytest.approx(7.3, abs=0.04)


def test_a_wrong_length_in_the_header_is_not_believed(tmp_path):
    wav = tone(tmp_path / "whole.wav", 3.5, "-fflags", "+bitexact")
    data = bytearray(wav.read_bytes())
    for at in (4, data.index(b"data") + 4):  # as recorders write that stream to a pipe
        data[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "streamed.wav").write_bytes(data)
    assert probe(tmp_path / "streamed.wav").duration == pytest.approx(3.5)
    piped = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", GRADIENT]
    for kind, options in {"flv": X264, "matroska": X264}.items():  # a pipe cannot go back to write the length
        done = subprocess.run([*piped, *options, "-f", kind, "-"], check=True, capture_output=True)
        (tmp_path / f"live.{kind}").write_bytes(done.stdout)
        assert probe(tmp_path / f"live.{kind}").duration == pytest.approx(6.0, abs=0.001)
        assert seen(tmp_path / f"live.{kind}", sample_times(6.0, 8)) == EIGHT


def test_the_files_of_the_bug_reports_have_their_lengths():
    assert probe(case("vbr_loud_first.mp3")).duration == pytest.approx(30.0, abs=0.05)
    assert probe(case("mixed_rate.mp3")).duration == pytest.approx(4.0, abs=0.08)
    with pytest.raises(MediaError, match="'damaged.mp4' is cut off: it should last 4.0 s"):
        probe(case("damaged.mp4"))


def test_a_long_walk_is_said_once_where_there_is_no_terminal(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lengths, "SLOW", 0.0)
    monkeypatch.setattr(lengths, "SEVERAL", 10)
    path = tone(tmp_path / "clip.mp3", 30, "-write_xing", 0)
    with caplog.at_level(logging.INFO, "lynx"):
        probe(path)
        probe(path)  # remembered
    assert [r.message for r in caplog.records] == ["'clip.mp3' does not say its length: all 0 MB are read."]


# Tracks


def two_sounds(path, *options):
    """A picture of 6 s with two sound tracks: 440 and 880 Hz, of 6 s and 2 s."""
    sounds = ["-f", "lavfi", "-i", "sine=f=440:d=6", "-f", "lavfi", "-i", "sine=f=880:d=2"]
    maps = ["-map", "0:v", "-map", "1:a", "-map", "2:a", *X264, "-c:a", "aac", "-ac", 1]
    return gradient(path, *sounds, *maps, "-metadata:s:a:1", "language=eng", *options)


def test_the_default_sound_track_is_taken_and_the_others_are_said(tmp_path):
    second = two_sounds(tmp_path / "second.mkv", "-disposition:a:0", 0, "-disposition:a:1", "default")
    info = probe(second)
    assert info.sound.index == 2 and [track.index for track in info.audio] == [1, 2]
    assert info.notes[0] == "2 sound tracks; #2 (default, eng) is heard"
    assert [(t.type, t.taken, t.why) for t in info.tracks] == [
        ("video", True, "the picture"),
        ("audio", False, "another sound track is the default"),
        ("audio", True, "the default sound track"),
    ]
    none = probe(two_sounds(tmp_path / "none.mkv", "-disposition:a:0", 0, "-disposition:a:1", 0))
    assert none.sound.index == 1 and none.tracks[1].why == "the first sound track"
    asked = probe(f"{second}#1")
    assert asked.sound.index == 1 and asked.notes[0] == "2 sound tracks; #1 is heard"
    assert asked.tracks[1].why == "the sound track asked for"
    for wrong in (0, 7):
        with pytest.raises(MediaError, match=f"Track {wrong} of .* #1: aac, #2 .default, eng.: aac"):
            probe(Recording(second, track=wrong))


def test_sound_that_does_not_fit_the_picture_is_said(tmp_path):
    short = probe(two_sounds(tmp_path / "a.mkv", "-disposition:a:0", 0, "-disposition:a:1", "default"))
    assert short.notes[1] == "the sound lasts 2.0 s, the picture 6.0 s: silent after 2.0 s"
    sound = ("-f", "lavfi", "-i", "sine=d=30", *X264, "-c:a", "aac")
    long = probe(gradient(tmp_path / "b.mp4", *sound))
    assert long.notes == ("the sound lasts 30.0 s, the picture 6.0 s: 24.0 s of sound are not heard",)
    assert long.duration == 6.0 and long.sound.duration == pytest.approx(30.0, abs=0.05)
    assert probe(gradient(tmp_path / "c.mp4", "-f", "lavfi", "-i", "sine=d=6.2", *X264)).notes == ()


def test_a_cover_is_no_picture_track(tmp_path):
    cover = ffmpeg(tmp_path / "cover.png", "-f", "lavfi", "-i", "testsrc=s=64x48", "-frames:v", 1)
    pictured = ("-i", cover, "-map", 0, "-map", 1, "-disposition:v:0", "attached_pic")
    info = probe(tone(tmp_path / "song.mp3", 2, *pictured))
    assert info.video is None and info.duration == pytest.approx(2.0, abs=0.05)
    assert "a cover picture" in [track.why for track in info.tracks]


def test_why_a_track_is_left_names_the_default_only_where_there_is_one(tmp_path):
    plain = two_sounds(tmp_path / "plain.mkv", "-disposition:a:0", "0", "-disposition:a:1", "0")
    assert [track.why for track in probe(plain).tracks[1:]] == [
        "the first sound track",
        "another sound track is heard",
    ]
    told = ("-disposition:a:0", "visual_impaired", "-disposition:a:1", "0")
    told = two_sounds(tmp_path / "told.mkv", *told)
    assert probe(told).tracks[2].why == "the first of the other sound tracks"


def test_notes_on_sound_and_on_the_picture_are_apart(tmp_path):
    path = two_sounds(tmp_path / "two.mkv", "-aspect", "30:1")
    info = probe(path)
    assert len(info.sound_notes) == 1 and len(info.picture_notes) == 1
    assert info.notes == (*info.sound_notes, *info.picture_notes)
    times = sample_times(info.duration, 4)
    assert Video().render(path, times).notes == HighFps().render(path, times).notes == info.picture_notes
    assert MultiView().render(path, times).notes == info.picture_notes
    assert Audio().render(path, times).notes == info.sound_notes


def without_decoder(path, sounds=1):
    """The codec of the first sounds of an MP4 replaced by one that nobody decodes."""
    data = path.read_bytes()
    assert data.count(b"mp4a") >= sounds
    path.write_bytes(data.replace(b"mp4a", b"apac", sounds).replace(b"esds", b"free", sounds))
    return path


def test_a_sound_track_without_a_decoder_stands_back(tmp_path):
    info = probe(without_decoder(two_sounds(tmp_path / "first.mp4")))
    assert info.sound.index == 2 and [track.index for track in info.audio] == [2]
    assert info.tracks[1].why == "no decoder for apac" and info.tracks[1].codec == "apac"
    assert info.notes[0] == "the sound track #1 cannot be decoded: no decoder for apac"
    mute = probe(without_decoder(two_sounds(tmp_path / "both.mp4"), sounds=2))
    assert mute.sound is None and mute.audio == () and mute.duration == 6.0
    assert "the sound track #1 cannot be decoded: no decoder for apac, so there is no sound" in mute.notes
    with pytest.raises(MediaError, match=r"'alone.m4a' cannot be decoded \(no decoder for apac\)"):
        probe(without_decoder(tone(tmp_path / "alone.m4a", 2)))
    assert probe(case("apac_first.mp4")).sound.index == 2


# Names, and what a file refers to


@pytest.mark.parametrize(
    "name",
    [
        "Recording-12:30:05.mp4",
        "http:clip.mp4",
        "-i.mp4",
        "clip%03d.mp4",
        "50% off.mp4",
        "two\nlines.mp4",
        "evil\u202egpj.mp4",
        "a#b?c=d&e.mp4",
        "[0-9]*.mp4",
        "file:x.mp4",
        "concat:a|b.mp4",
        "ünïcode 日本.mp4",
    ],
)
def test_any_file_name_opens_by_a_relative_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copy(gradient(tmp_path / "plain_000.mp4", "-frames:v", 5), name)
    (tmp_path / "clip000.mp4").write_bytes(b"not this one")
    assert probe(name).duration == pytest.approx(0.5) and seen(name, [0.25]) == [2]
    Path(name).write_bytes(b"\0nonsense" * 40)
    with pytest.raises(MediaError) as error:
        probe(name)
    assert "\n" not in str(error.value) and "\u202e" not in str(error.value)
    assert repr(name) in str(error.value)


def test_nothing_that_a_file_refers_to_is_opened(tmp_path):
    """A QuickTime file whose samples lie in another file; playlists; patterns of pictures."""
    secret = gradient(tmp_path / "secret.mov", "-c:v", "mjpeg")
    data = secret.read_bytes()
    dref = data.index(b"dref")
    where = str(secret).encode()
    alias = struct.pack(">II", 12, 0x75726C20)  # the reference that stands there: "url ", in this file
    assert data[dref + 12 : dref + 20] == alias
    moov, mdat = data.index(b"moov") - 4, data.index(b"mdat") - 4
    record = bytes(150) + struct.pack(">HH", 2, len(where)) + where + b"\0" * (len(where) % 2)
    record += b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    assert moov > mdat
    head, new = bytearray(data[moov:]), len(entry) - 12
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = head.index(box) - 4
        head[at : at + 4] = struct.pack(">I", struct.unpack(">I", head[at : at + 4])[0] + new)
    at = head.index(b"dref") + 12
    head[at : at + 12] = entry
    (tmp_path / "refers.mov").write_bytes(data[:mdat] + bytes(head))
    with pytest.raises(MediaError, match="'refers.mov'"):
        probe(tmp_path / "refers.mov")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\n{secret}\n")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    for name in ("list.mp4", "list.txt"):
        with pytest.raises(MediaError, match="is a playlist, which only names other files"):
            probe(tmp_path / name)


def test_reasons_are_right(tmp_path):
    whole = gradient(tmp_path / "whole.mp4", *X264).read_bytes()
    mkv = gradient(tmp_path / "whole.mkv", *X264).read_bytes()
    bare = gradient(tmp_path / "bare.h264", *X264).read_bytes()
    reasons = {
        "bare.264": (bare, "is a bare video stream, without times: put it into a container"),
        "empty.mp4": (b"", r"is empty \(0 bytes\)"),
        "cut.mp4": (whole[: whole.index(b"moov") - 4], "is cut off: the index of this MP4"),
        "amid.mp4": (whole[: len(whole) * 6 // 10], "has neither a picture nor a sound track: it is dam"),
        "cut.mkv": (mkv[:200], "cannot be read as Matroska: it is damaged or cut off"),
        "photo.mp4": (b"\x89PNG\r\n\x1a\n" + bytes(100), r"is a picture \(PNG\)"),
        "photo.avi": (b"\xff\xd8\xff\xe0" + bytes(100), r"is a picture \(JPEG\)"),
        "text.mp4": ("Grüße\n".encode() * 1000, "is a text, neither"),
        "paper.mov": (b"%PDF-1.7\n" + bytes(100), "is a PDF document"),
        "office.mp4": (b"PK\x03\x04" + bytes(100), "is a zip archive or an office document"),
        "mesh.mp4": (b"glTF\2\0\0\0" + bytes(100), "is a 3-D mesh"),
        "noise.mp4": (np.random.default_rng(0).bytes(5000), "cannot be read as video or sound: it is dam"),
    }
    for name, (data, expected) in reasons.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=f"^'{name}' {expected}") as error:
            probe(tmp_path / name)
        assert len(str(error.value)) < 160


def test_ordinary_clips_keep_the_exact_length_of_their_picture(tmp_path):
    """The length of the packets, not rounded by a header."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(31):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    assert probe(path).duration == pytest.approx(31 * 1001 / 30000, abs=1e-5)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("seconds", [0.2, 0.298, 1.5])
def test_an_ogg_file_whose_last_packet_is_all_padding_ends_where_its_sound_does(tmp_path, seconds, rate):
    source = f"sine=frequency=440:duration={seconds}:sample_rate={rate}"
    path = ffmpeg(tmp_path / "short.ogg", "-f", "lavfi", "-i", source, "-c:a", "libvorbis")
    assert probe(path).duration == pytest.approx(seconds, abs=0.001)
    assert read_audio(path, rate).duration == pytest.approx(seconds, abs=0.06)
