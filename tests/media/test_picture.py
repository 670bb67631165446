"""What is read is what a player shows; ffmpeg's own program (moviepy's binary) is the reference."""

import gc
import io
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from lynx.errors import MediaError
from lynx.media.container import probe
from lynx.media.picture import Converter, deinterlaced
from lynx.media.tone import HLG, PQ, compress, hlg_light, pq_nits, to_sdr
from lynx.media.video import read_frames, read_levels, shown_at
from lynx.modalities.video import Video
from lynx.types import VideoTrack

SIZE = (96, 64)
MATRICES = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)]
MATRICES += [(0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)]


def ffmpeg(*args):
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *map(str, args)]
    subprocess.run(command, check=True)


def corners():
    """(64, 96, 3): red, green and blue corners, so that no two orientations look alike."""
    picture = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    for color, (rows, columns) in enumerate([(0, 0), (0, 1), (1, 0)]):
        picture[rows * 32 : rows * 32 + 32, columns * 48 : columns * 48 + 48, color] = 250
    return picture


def encode(path, pictures, codec="libx264", pix_fmt="yuv420p", layout="rgb24", **settings):
    """A clip of 10 frames a second; settings: of the codec (`options`), the stream and its frames."""
    options, frames = settings.pop("options", {"crf": "10"}), settings.pop("frames", {})
    matrix, aspect = settings.pop("matrix", None), settings.pop("aspect", None)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix:
            a, b, c, d = (65536 * part for part in matrix)
            stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, layout)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for name, value in frames.items():
                setattr(frame, name, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def as_ffmpeg_shows(path, folder, *filters):
    """(H, W, 3) int: the first frame as ffmpeg writes it."""
    ffmpeg("-i", path, *filters, "-frames:v", 1, folder / "reference.png")
    with av.open(str(folder / "reference.png")) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def shown(path, time=0.0, max_side=None):
    return read_frames(path, [time], max_side).pixels[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_orientations_are_those_of_ffmpeg(tmp_path, matrix):
    path = encode(tmp_path / "clip.mp4", [corners()] * 2, matrix=matrix)
    expected, actual = as_ffmpeg_shows(path, tmp_path), shown(path)
    assert actual.shape == expected.shape and np.abs(actual - expected).mean() < 2
    track = probe(path).video
    assert (track.width, track.height) == expected.shape[1::-1]
    assert track.mirrored == (np.linalg.det(np.reshape(matrix, (2, 2))) < 0)
    again = np.rot90(corners()[:, ::-1] if track.mirrored else corners(), track.rotation // 90)
    assert np.abs(actual - again.astype(int)).mean() < 6, "rotation and mirror say how the picture is turned"
    assert np.array_equal(read_levels(path, [0.0])[0], actual)


@pytest.mark.parametrize("aspect, size", [("64/45", (137, 64)), ("8/9", (85, 64)), ("1/2", (48, 64))])
def test_pixels_that_are_not_square_are_made_square(tmp_path, aspect, size):
    path = encode(tmp_path / "clip.mp4", [corners()] * 2, aspect=Fraction(aspect))
    track = probe(path).video
    assert (track.width, track.height) == size and track.sample_aspect == aspect.replace("/", ":")
    square = as_ffmpeg_shows(path, tmp_path, "-vf", "scale=round(iw*sar):ih:flags=area,setsar=1")
    assert np.abs(shown(path) - square).mean() < 3
    assert shown(path, max_side=32).shape[:2] == tuple(round(32 * s / max(size)) for s in size[::-1])


def test_the_aspect_of_a_pixel_is_that_before_it_is_turned(tmp_path):
    path = encode(tmp_path / "clip.mp4", [corners()] * 2, aspect=Fraction(2), matrix=(0, 1, -1, 0))
    assert (probe(path).video.width, probe(path).video.height) == (64, 192)
    square = as_ffmpeg_shows(path, tmp_path, "-vf", "scale=iw:round(ih/sar):flags=area,setsar=1")
    assert shown(path).shape == square.shape == (192, 64, 3)
    assert np.abs(shown(path) - square).mean() < 3


def test_an_aspect_that_cannot_be_meant_is_ignored_and_noted(tmp_path):
    path = encode(tmp_path / "clip.mp4", [corners()] * 2, aspect=Fraction(20))
    info = probe(path)
    assert (info.video.width, info.video.height) == SIZE and info.video.sample_aspect == "1:1"
    assert "20:1" in info.notes[0] and read_frames(path, [0.0]).notes == info.notes


def test_size_changes_in_mid_stream_keep_one_size_and_the_aspect(tmp_path):
    """Two encoders after each other into one track, as a call over the web does."""
    path = tmp_path / "clip.ts"
    for number, (width, height) in enumerate([(96, 64), (64, 128)]):
        white = np.full((height, width, 3), 230, np.uint8)
        encode(tmp_path / f"{number}.ts", [white] * 10, options={"crf": "10", "bf": "0"})
    ffmpeg("-i", tmp_path / "1.ts", "-c", "copy", "-output_ts_offset", 1, tmp_path / "2.ts")
    path.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "2.ts").read_bytes())
    frames = read_frames(path, [0.1, 2.6])
    assert frames.pixels.shape == (2, 3, 64, 96)
    bright = frames.pixels[:, 0].float().mean(1) > 128  # (T, W)
    assert bright[0].all()
    assert bright[1].sum() == 32 and bright[1, 32:64].all(), "64x128 between bars in 96x64"
    assert frames.notes == ("clip.ts: its pictures change size, all are shown at 96x64",)
    parts = list(Video().parts(path, torch.tensor([0.1, 2.6, 2.7]), 1))
    assert [len(part.notes) for part in parts] == [0, 1, 1] and parts[-1].pixels.shape[-2:] == (64, 96)


def combing(picture):
    """Share of pixels that differ from both lines around them, in the same direction."""
    above, line, below = (picture[i : len(picture) - 2 + i].astype(int) for i in range(3))
    return ((line - above) * (line - below) > 400).mean()


def test_interlaced_frames_lose_their_combs_and_progressive_ones_nothing(tmp_path):
    source = ("-f", "lavfi", "-i", "testsrc2=size=160x96:rate=50", "-t", 1)
    x264 = ("-c:v", "libx264", "-crf", 10, "-pix_fmt", "yuv420p")
    fields, plain = tmp_path / "fields.mp4", tmp_path / "plain.mp4"
    ffmpeg(*source, "-vf", "interlace", *x264, "-flags", "+ildct+ilme", fields)
    ffmpeg(*source, *x264, plain)
    expected = as_ffmpeg_shows(fields, tmp_path, "-ss", "0.6", "-vf", "bwdif=mode=send_frame")
    woven = read_levels(fields, [0.6])[0]
    actual = shown(fields, 0.6)
    assert combing(woven) > 2 * combing(actual) and combing(actual) < 1.5 * combing(expected)
    assert 1.5 * np.abs(actual - expected).mean() < np.abs(woven - expected).mean()
    assert probe(fields).video.interlaced and "interlaced" in probe(fields).notes[0]
    assert not probe(plain).video.interlaced and not probe(plain).notes
    assert np.array_equal(shown(plain, 0.6), read_levels(plain, [0.6])[0])


def test_one_field_moved_alone_is_interpolated():
    picture = np.full((48, 64), 50, np.uint8)
    picture[::2, 20:40], picture[1::2, 28:48] = 200, 200
    frame = av.VideoFrame.from_ndarray(picture, "gray")
    frame.time_base, frame.pts = Fraction(1, 25), 0
    assert np.array_equal(deinterlaced(frame).to_ndarray(), picture), "not flagged: untouched"


@pytest.mark.parametrize("transfer, trc", [(PQ, 16), (HLG, 18)])
def test_hdr_is_tone_mapped(tmp_path, transfer, trc):
    """Reference white (203 nits) is nearly white, darker steps stay apart, as by ffmpeg's zscale."""
    signal = {PQ: [0, 0.3, 0.45, 0.58, 0.75], HLG: [0, 0.2, 0.45, 0.75, 1]}[transfer]
    limited = np.repeat(64 + 876 * np.array(signal), 16).round().astype(np.uint16)  # 5 steps of 16 columns
    luma = np.tile(limited, (48, 1))
    planar = np.concatenate([luma, np.full((24, 80), 512, np.uint16)])
    (tmp_path / "raw.yuv").write_bytes(planar.tobytes() * 3)
    path = tmp_path / "clip.mkv"
    raw = ("-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-s", "80x48", "-r", 5, "-i", tmp_path / "raw.yuv")
    tags = f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={trc}:range=tv"
    ffmpeg(*raw, "-vf", tags, "-c:v", "ffv1", path)
    info = probe(path)
    steps = shown(path)[24, 8::16]
    assert (np.ptp(steps.astype(int), axis=1) <= 2).all(), "gray stays gray"
    assert (np.diff(steps[:, 1].astype(int)) > 10).all() and steps[0, 1] < 3
    assert 235 <= steps[3, 1] <= 245 and steps[4, 1] >= 250
    assert info.video.hdr == transfer and f"HDR ({transfer}) tone-mapped" in info.notes[0]
    assert read_frames(path, [0.0]).notes == info.notes
    linear = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=clip,zscale=t=bt709:m=gbr:r=pc"
    expected = as_ffmpeg_shows(path, tmp_path, "-vf", f"{linear},format=gbrp")[24, 8::16]
    assert np.abs(steps[:3] - expected[:3]).max() <= 4, "below the knee nothing is compressed"


def test_ten_bits_of_bt2020_without_a_transfer_function_are_taken_for_pq(tmp_path):
    """As x265 writes them when only the matrix is given: their white would be a gray of 153."""
    gray = ("-f", "lavfi", "-i", "color=gray:size=64x48:rate=5,format=yuv420p10le,lutyuv=y=594")
    for matrix, hdr in (("bt2020nc", PQ), ("bt709", None)):
        path = tmp_path / f"{matrix}.mkv"
        ffmpeg(*gray, "-t", 1, "-vf", f"setparams=colorspace={matrix}:range=tv", "-c:v", "ffv1", path)
        assert probe(path).video.hdr == hdr and bool(probe(path).notes) == (hdr is not None)
        assert (shown(path)[20, 20] > 235).all() if hdr else (abs(shown(path)[20, 20] - 154.0) < 3).all()
    assert "assumed" in probe(tmp_path / "bt2020nc.mkv").notes[0]


def test_an_aspect_that_changes_in_mid_stream_is_followed(tmp_path):
    """As television does between programs: the same pixels at 4:3 and at 16:9."""
    path, white = tmp_path / "clip.ts", np.full((64, 96, 3), 230, np.uint8)
    for number, aspect in enumerate([Fraction(1), Fraction(2)]):
        settings = {"aspect": aspect, "options": {"crf": "10", "bf": "0"}}
        encode(tmp_path / f"{number}.ts", [white] * 10, **settings)
    ffmpeg("-i", tmp_path / "1.ts", "-c", "copy", "-output_ts_offset", 1, tmp_path / "2.ts")
    path.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "2.ts").read_bytes())
    frames = read_frames(path, [0.1, 2.6])
    rows = frames.pixels[:, 0].float().mean(2) > 128  # (T, H)
    assert rows[0].all() and rows[1].sum() == 32 and rows[1, 16:48].all()
    assert "change size" in frames.notes[0]


def test_tone_curves_are_those_of_the_standards():
    assert pq_nits(np.array([0, 0.508078, 0.580689, 1])) == pytest.approx([0, 100, 203, 10000], rel=1e-3)
    assert hlg_light(np.array([0, 0.5, 0.75, 1])) == pytest.approx([0, 1 / 12, 0.26496, 1], abs=1e-4)
    light = np.linspace(0, 49, 500)
    assert (np.diff(compress(light)) > 0).all() and compress(light).max() < 1
    assert compress(np.array(0.5)) == 0.5 and compress(np.array(1.0)) == pytest.approx(0.875, abs=1e-3)


def test_colors_of_bt2020_become_those_of_bt709():
    """The red of BT.709, written in BT.2020's primaries (ITU-R BT.2087), comes back as pure red."""
    red = np.array([0.6274, 0.0691, 0.0164])
    pixels = np.rint(65535 * red ** (1 / 2.4)).astype(np.uint16).reshape(1, 1, 3)
    assert to_sdr(pixels, None, 9)[0, 0] == pytest.approx([255, 0, 0], abs=2)


@pytest.mark.parametrize("codec, pix_fmt, name", [
    ("png", "rgba", "mov"), ("qtrle", "argb", "mov"), ("ffv1", "bgra", "mkv"),
    ("prores_ks", "yuva444p10le", "mov"),
])  # fmt: skip
def test_transparent_parts_are_black_and_noted(tmp_path, codec, pix_fmt, name):
    rgba = np.dstack([corners(), np.full(SIZE[::-1], 255, np.uint8)])
    opaque = encode(tmp_path / f"opaque.{name}", [rgba] * 2, codec, pix_fmt, "rgba", options={})
    assert not read_frames(opaque, [0.0]).notes and shown(opaque)[10, 10, 0] > 240
    rgba[:, :48, 3], rgba[:, 48:72, 3] = 0, 128
    path = encode(tmp_path / f"clip.{name}", [rgba] * 2, codec, pix_fmt, "rgba", options={})
    picture = shown(path)
    assert picture[:, :46].max() <= 2 and np.abs(picture[10, 60].astype(int) - [20, 125, 20]).max() <= 4
    assert np.abs(picture[10, 90].astype(int) - [40, 250, 40]).max() <= 6
    assert probe(path).notes == read_frames(path, [0.0]).notes == (
        f"{path.name}: transparent parts are shown over black",
    )


def test_a_fourth_byte_that_is_always_zero_hides_nothing(tmp_path):
    rgba = np.dstack([corners(), np.zeros(SIZE[::-1], np.uint8)])
    path = encode(tmp_path / "clip.mkv", [rgba] * 2, "ffv1", "bgra", "rgba", options={})
    assert np.array_equal(shown(path), corners()) and "ignored" in read_frames(path, [0.0]).notes[0]


def test_transparency_that_is_not_decoded_is_noted(tmp_path):
    ffmpeg("-f", "lavfi", "-t", "0.5", "-i", "color=red@0.5:size=64x48:rate=10,format=yuva420p",
           "-c:v", "libvpx", "-auto-alt-ref", 0, tmp_path / "clip.webm")  # fmt: skip
    info = probe(tmp_path / "clip.webm")
    assert "transparency is not read" in info.notes[0]
    assert read_frames(info.path, [0.0]).notes == info.notes


def test_gif_frames_have_their_own_durations_and_transparent_ground(tmp_path):
    from PIL import Image

    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    images = [Image.new("RGB", (32, 24), color) for color in colors]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:], duration=[100, 700, 200])
    info = probe(tmp_path / "clip.gif")
    assert info.duration == pytest.approx(1.0, abs=0.02)
    frames = read_frames(tmp_path / "clip.gif", [0.05, 0.15, 0.75, 0.85])
    assert frames.pixels[:, :, 5, 5].argmax(1).tolist() == [0, 1, 1, 2] and not frames.notes
    images[0].save(tmp_path / "one.gif")
    assert shown(tmp_path / "one.gif")[5, 5].tolist() == [250, 0, 0]
    assert probe(tmp_path / "one.gif").duration > 0
    clear = Image.new("RGBA", (32, 24), (250, 250, 250, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 16, 24))
    clear.save(tmp_path / "clear.gif")
    picture = shown(tmp_path / "clear.gif")
    assert picture[:, :16].max() == 0 and picture[:, 16:].min() == 250
    assert "over black" in probe(tmp_path / "clear.gif").notes[0]


@pytest.mark.parametrize("pix_fmt, levels", [
    ("gray", 255), ("gray10le", 1023), ("gray12le", 4095), ("gray16le", 65535), ("gbrp16le", 65535),
    ("yuv420p10le", None), ("yuv422p12le", None), ("yuv444p", None), ("yuvj420p", None), ("bgr0", None),
])  # fmt: skip
def test_other_depths_and_layouts_look_alike(tmp_path, pix_fmt, levels):
    """A gray ramp, stored in every layout, is that ramp."""
    ramp = np.tile(np.linspace(20, 230, 96), (64, 1)).round().astype(np.uint8)
    codec = "mjpeg" if pix_fmt == "yuvj420p" else "ffv1"
    frames = [np.dstack([ramp] * 3)] * 2
    options = {"qmin": "1", "qmax": "2"} if codec == "mjpeg" else {}
    path = encode(tmp_path / "clip.mkv", frames, codec, pix_fmt, options=options)
    assert np.abs(shown(path) - ramp[..., None].astype(int)).max() <= (4 if levels is None else 2)
    assert (levels == 65535 and pix_fmt.startswith("gray")) == (read_levels(path, [0.0]).dtype == np.uint16)


def test_matrices_and_ranges_that_are_named_are_honored(tmp_path):
    """The same RGB through BT.601, BT.709 and BT.2020, limited and full, comes back as it was."""
    patch = np.full((32, 32, 3), (200, 80, 40), np.uint8)
    (tmp_path / "raw.rgb").write_bytes(patch.tobytes() * 2)
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "32x32", "-r", 5, "-i", tmp_path / "raw.rgb")
    for matrix in ("bt709", "smpte170m", "bt2020"):
        for reach in ("tv", "pc"):
            path = tmp_path / f"{matrix}_{reach}.mkv"
            scale = f"scale=out_color_matrix={matrix}:out_range={reach},format=yuv444p"
            ffmpeg(*raw, "-vf", f"{scale},setparams=range={reach}", "-c:v", "libx264", "-qp", 0, path)
            with av.open(str(path)) as container:
                frame = next(container.decode(video=0))
            assert int(frame.color_range) == {"tv": 1, "pc": 2}[reach]
            assert np.abs(shown(path)[16, 16].astype(int) - patch[0, 0]).max() <= 4, path.name


def test_a_matrix_that_is_not_converted_is_noted():
    frame = av.VideoFrame.from_ndarray(corners(), "rgb24").reformat(format="yuv420p")
    frame.colorspace = 8  # YCgCo, which the scaler refuses

    class Track:
        metadata: dict[str, str] = {}
        sample_aspect_ratio, codec_context = None, type("Context", (), {"sample_aspect_ratio": None})

    convert = Converter(VideoTrack(*SIZE, 10.0, "h264", 0), None, Track, "clip.mkv")
    assert convert(frame).shape == (64, 96, 3) and "matrix 8" in next(iter(convert.notes))


@pytest.mark.parametrize(("value", "turned"), [(1, 0), (2, None), (6, -90), (3, 180)])
def test_motion_jpeg_with_exif_is_read_and_turned_as_it_says(tmp_path, value, turned):
    """PyAV has no name for EXIF: such files were refused as damaged."""
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x112] = value  # orientation
    Image.fromarray(corners()).save(data, "jpeg", exif=exif, quality=95)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = *corners().shape[:2], "yuvj420p"
        for number in range(5):
            packet = av.Packet(data.getvalue())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), True
            packet.pts = packet.dts = number
            container.mux(packet)
    found = read_frames(tmp_path / "a.avi", [0.05]).pixels[0].permute(1, 2, 0).numpy()
    mirrored = corners()[:, ::-1] if turned is None else corners()
    expected = np.rot90(mirrored, (turned or 0) // 90)
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 6


def test_frames_are_freed_without_garbage_collection(tmp_path):
    """A frame whose side data was looked at is held by it: sixteen frames of 4K are 200 MB."""
    path = encode(tmp_path / "clip.mp4", [corners()] * 12, matrix=(1, 0, 0, -1))
    probe(path)
    gc.collect()
    gc.disable()
    try:
        read_frames(path, np.arange(12) / 10)
        alive = [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame]
    finally:
        gc.enable()
    assert len(alive) <= 1


def test_the_frames_own_seconds_are_told(tmp_path):
    path = encode(tmp_path / "clip.mp4", [corners()] * 12)
    assert shown_at(path, [0.0, 0.37, 0.4, 5.0]) == pytest.approx([0.0, 0.3, 0.4, 1.1])


def test_depth_of_changing_size_is_refused(tmp_path):
    for number, side in enumerate((64, 32)):
        encode(tmp_path / f"{number}.ts", [np.full((side, side, 3), 100, np.uint8)] * 10)
    ffmpeg("-i", tmp_path / "1.ts", "-c", "copy", "-output_ts_offset", 1, tmp_path / "2.ts")
    path = tmp_path / "clip.ts"
    path.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "2.ts").read_bytes())
    with pytest.raises(MediaError, match="change size"):
        read_levels(path, [0.1, 2.6])
