"""Small valid files of every kind; each is a recording that must be read."""

import base64
import json
import shutil
import struct
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
RATE, FPS, SIDE = 16000, 10, 64
RATES = {"libopus": 48000}  # which it needs
VIDEO = {"mp4": ("libx264", "aac"), "mkv": ("libx264", "libopus"), "webm": ("libvpx", "libopus")}
VIDEO |= {"avi": ("mpeg4", "pcm_s16le"), "ts": ("mpeg2video", "mp2"), "mov": ("mjpeg", "pcm_s16le")}
VIDEO |= {"asf": ("wmv2", "adpcm_ms"), "mpg": ("mpeg2video", "mp2"), "flv": ("flv", "aac")}
SOUND = {"mp3": "libmp3lame", "ogg": "libopus", "flac": "flac", "m4a": "aac", "aac": "aac"}
SOUND |= {"caf": "alac", "aiff": "pcm_s16be", "w64": "pcm_s16le"}
CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
FACES = [[0, 2, 3], [0, 3, 1], [4, 5, 7], [4, 7, 6], [0, 1, 5], [0, 5, 4]]
FACES += [[2, 6, 7], [2, 7, 3], [0, 4, 6], [0, 6, 2], [1, 3, 7], [1, 7, 5]]


def _tone(seconds: float) -> np.ndarray:
    return (8000 * np.sin(np.arange(int(seconds * RATE)) / 8)).astype(np.int16)


def _recording(path: Path, video: str | None, audio: str | None, seconds: float = 1.0) -> None:
    with av.open(str(path), "w") as container:
        tracks = []
        if video:
            picture = container.add_stream(video, rate=FPS)
            picture.width = picture.height = SIDE
            picture.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
            tracks.append((picture, _pictures(seconds)))
        if audio:
            sound = container.add_stream(audio, rate=RATES.get(audio, RATE), layout="mono")
            tracks.append((sound, _sounds(seconds)))
        for stream, frames in tracks:
            for frame in frames:
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def _tracks(path: Path) -> None:
    """A picture and two sound tracks, of six channels and of one, as films have them."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("ffv1", rate=FPS)
        picture.width = picture.height = SIDE
        picture.pix_fmt = "yuv420p"
        surround = container.add_stream("aac", rate=RATE, layout="5.1")
        single = container.add_stream("mp2", rate=RATE, layout="mono")
        samples = np.tile(_tone(1) / np.float32(32768), (6, 1)).astype(np.float32)
        six = av.AudioFrame.from_ndarray(samples, "fltp", "5.1")
        six.sample_rate = RATE
        for stream, frames in ((picture, _pictures(1)), (surround, [six]), (single, _sounds(1))):
            for frame in [*frames, None]:
                container.mux(stream.encode(frame))


def _pictures(seconds: float) -> list[av.VideoFrame]:
    ramp = np.indices((SIDE, SIDE)).sum(0)[..., None] + np.zeros(3, int)
    arrays = [((ramp + 20 * n) % 256).astype(np.uint8) for n in range(int(seconds * FPS))]
    return [av.VideoFrame.from_ndarray(array, "rgb24") for array in arrays]


def _sounds(seconds: float) -> list[av.AudioFrame]:
    frame = av.AudioFrame.from_ndarray(_tone(seconds)[None], "s16", "mono")
    frame.sample_rate = RATE
    return [frame]


def _wav(path: Path, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.repeat(_tone(1), channels).tobytes())


def _gif(path: Path) -> None:
    frames = [Image.fromarray(frame.to_ndarray()) for frame in _pictures(1)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def _depth() -> np.ndarray:
    """(3, 24, 32) millimeters, a slope that comes nearer."""
    return (1500 + 20 * np.indices((24, 32)).sum(0) - 200 * np.arange(3)[:, None, None]).astype(np.uint16)


def _png(path: Path) -> None:
    Image.fromarray(_depth()[0]).save(path)


def _tif(path: Path, packing: str) -> None:
    Image.fromarray(_depth()[0]).save(path, compression=packing)


def _exr(path: Path) -> None:
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        picture = container.add_stream("exr", rate=1, options={"compression": "zip16"})
        picture.height, picture.width = _depth().shape[1:]
        picture.pix_fmt = "grayf32le"
        frame = av.VideoFrame.from_ndarray((_depth()[0] / 1000).astype(np.float32), "grayf32le")
        container.mux(picture.encode(frame))
        container.mux(picture.encode(None))


def _pfm(path: Path) -> None:
    path.write_bytes(b"Pf\n32 24\n-1.0\n" + (_depth()[0] / 1000).astype("<f4").tobytes())


def _pgm(path: Path) -> None:
    path.write_bytes(b"P5\n# depth\n32 24\n65535\n" + _depth()[0].astype(">u2").tobytes())


def _pcd(path: Path, text: bool) -> None:
    head = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 8\nHEIGHT 1\n"
    head += f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 8\nDATA {'ascii' if text else 'binary'}\n"
    rows = "\n".join(" ".join(f"{value:g}" for value in row) for row in CUBE) + "\n"
    path.write_bytes(head.encode() + (rows.encode() if text else CUBE.tobytes()))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, depth in enumerate(_depth()):
            one = path.with_name("one.png")
            Image.fromarray(depth).save(one)
            archive.write(one, f"room/depth/{number}.png")
            archive.writestr(f"room/pose/{number}.txt", "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
            one.unlink()
        archive.writestr("room/times.txt", "0\n0.1\n0.2\n")
        archive.writestr("room/intrinsic_depth.txt", "30 0 15.5\n0 30 11.5\n0 0 1\n")


def _scan(path: Path) -> None:
    """A mesh, and the cameras that see it."""
    _ply(path.with_name("room.ply"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_name("room.ply"), "room/room.ply")
        for number in range(3):
            pose = f"1 0 0 0.5\n0 1 0 0.5\n0 0 1 {-2 - number}\n0 0 0 1\n"
            archive.writestr(f"room/pose/{number}.txt", pose)
        archive.writestr("room/intrinsic_depth.txt", "30 0 15.5\n0 30 11.5\n0 0 1\n")
        archive.writestr("room/depth.json", '{"unit": "m", "size": [32, 24]}')
    path.with_name("room.ply").unlink()


def _ply(path: Path, text: bool = True) -> None:
    kind = "ascii" if text else "binary_little_endian"
    head = f"ply\nformat {kind} 1.0\nelement vertex 8\n" + "".join(f"property float {a}\n" for a in "xyz")
    head += "element face 12\nproperty list uchar int vertex_indices\n"
    if text:
        rows = [" ".join(f"{value:g}" for value in row) for row in CUBE]
        rows += [" ".join(map(str, (3, *face))) for face in FACES]
        path.write_text(head + "end_header\n" + "\n".join(rows) + "\n")
    else:
        body = CUBE.tobytes() + b"".join(struct.pack("<B3i", 3, *face) for face in FACES)
        path.write_bytes((head + "end_header\n").encode() + body)


def _cloud(path: Path) -> None:
    head = f"ply\nformat binary_big_endian 1.0\ncomment a cloud\nelement vertex {len(CUBE)}\n"
    head += "".join(f"property double {a}\n" for a in "xyz") + "property uchar red\nend_header\n"
    path.write_bytes(head.encode() + b"".join(struct.pack(">3dB", *row, 7) for row in CUBE))


def _obj(path: Path, rich: bool = False) -> None:
    rows = ["v " + " ".join(f"{value:g}" for value in row) for row in CUBE]
    if rich:
        rows = ["mtllib a.mtl", "o box", *rows, "vt 0 0", "vt 1 1", "vn 0 0 1", "g side", "usemtl red"]
        faces = ["f " + " ".join(f"{i + 1}/{i % 2 + 1}/1" for i in face) for face in FACES]
        rows += [*faces, "f 1/1/1 2/2/1 4/1/1 3/2/1", "f -1 -2 -3"]
    else:
        rows += ["f " + " ".join(str(i + 1) for i in face) for face in FACES]
    path.write_text("\n".join(rows) + "\n")


def _off(path: Path) -> None:
    rows = [" ".join(f"{value:g}" for value in row) for row in CUBE]
    path.write_text("\n".join(["OFF", "8 12 0", *rows, *(" ".join(map(str, (3, *f))) for f in FACES)]) + "\n")


def _stl(path: Path, text: bool = False) -> None:
    if text:
        facets = [
            "facet normal 0 0 1\nouter loop\n"
            + "".join("vertex " + " ".join(f"{value:g}" for value in CUBE[i]) + "\n" for i in face)
            + "endloop\nendfacet\n"
            for face in FACES
        ]
        path.write_text("solid cube\n" + "".join(facets) + "endsolid cube\n")
    else:
        facets = [struct.pack("<12fH", 0, 0, 1, *CUBE[face].ravel(), 0) for face in FACES]
        path.write_bytes(bytes(80) + struct.pack("<I", len(FACES)) + b"".join(facets))


def _scene() -> tuple[dict, bytes]:
    indices = np.array(FACES, np.uint16).tobytes()
    positions = CUBE.tobytes()
    views = [{"buffer": 0, "byteOffset": 0, "byteLength": len(positions)}]
    views += [{"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices)}]
    points = {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3"}
    points |= {"min": [0, 0, 0], "max": [1, 1, 1]}
    corners = {"bufferView": 1, "componentType": 5123, "count": 36, "type": "SCALAR"}
    mesh = {"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": 4}]}
    node = {"mesh": 0, "translation": [1, 2, 3], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1]}
    scene = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [node]}
    scene |= {"meshes": [mesh], "accessors": [points, corners], "bufferViews": views}
    return scene | {"buffers": [{"byteLength": len(positions + indices)}]}, positions + indices


def _glb(path: Path) -> None:
    scene, data = _scene()
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


def _gltf(path: Path) -> None:
    scene, data = _scene()
    scene["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    path.write_text(json.dumps(scene))


def _jsonl(path: Path) -> None:
    _wav(path.with_name("a.wav"))
    turn = {"question": "what do you hear ?", "answer": "a tone", "type": "sound", "senses": ["audio"]}
    rows = [{"id": str(n), "media": {"audio": "a.wav"}, "turns": [turn]} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _adapter(path: Path) -> None:
    shutil.copytree(ROOT / "adapters" / "high_fps", path)


def _of(writer: Callable[..., None], **options: bool) -> Callable[[Path], None]:
    return lambda path: writer(path, **options)


MAKERS: dict[str, list[Callable[[Path], None]]] = {
    **{kind: [lambda path, codecs=codecs: _recording(path, *codecs)] for kind, codecs in VIDEO.items()},
    **{kind: [lambda path, codec=codec: _recording(path, None, codec)] for kind, codec in SOUND.items()},
    "wav": [_wav, lambda path: _wav(path, 8)],
    "gif": [_gif],
    "png": [_png],
    "npy": [
        lambda path: np.save(path, _depth()),
        lambda path: np.save(path, np.asfortranarray(_depth() / 1000, ">f8")),
    ],
    "npz": [lambda path: np.savez(path, depth=_depth())],
    "tif": [lambda path: _tif(path, "raw"), lambda path: _tif(path, "tiff_lzw")],
    "exr": [_exr],
    "pfm": [_pfm],
    "pgm": [_pgm],
    "pcd": [lambda path: _pcd(path, True), lambda path: _pcd(path, False)],
    "zip": [_zip, _scan],
    "ply": [_ply, _of(_ply, text=False), _cloud],
    "obj": [_obj, _of(_obj, rich=True)],
    "glb": [_glb],
    "gltf": [_gltf],
    "stl": [_stl, _of(_stl, text=True)],
    "off": [_off],
    "jsonl": [_jsonl],
    "adapter": [_adapter],
}
"""What makes the valid files of a kind, at a given path; an adapter is a folder."""
MAKERS["mkv"].append(_tracks)


def make_seeds(folder: Path, kinds: list[str]) -> dict[str, list[Path]]:
    """The valid files of every kind, each in a folder of its own with what belongs to it."""
    made: dict[str, list[Path]] = {}
    for kind in kinds:
        for number, make in enumerate(MAKERS[kind]):
            path = folder / f"{kind}{number}" / f"seed.{kind}"
            shutil.rmtree(path.parent, ignore_errors=True)
            path.parent.mkdir(parents=True)
            make(path)
            made.setdefault(kind, []).append(path)
    return made
