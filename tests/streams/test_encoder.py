import checkpoints
from checkpoints import clip

import lynx
from lynx.streams import encoder
from lynx.types import sample_times


def test_streams_that_were_asked_for_least_recently_make_room(tmp_path, monkeypatch):
    limit = 3 * (65 * (48 * 4 + 8 + 16) + 4 * 3 * 50 * 70)
    monkeypatch.setattr(encoder, "MAX_BYTES", limit)
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    clips = [clip(4, seed=seed) for seed in range(4)]

    def stream(video):
        return model.stream("video", video, sample_times(video.duration, len(video)))

    first, second, third = (stream(video) for video in clips[:3])
    assert limit == 3 * first.nbytes
    assert stream(clips[0]) is first
    stream(clips[3])
    assert stream(clips[0]) is first and stream(clips[2]) is third
    assert len(model.streams) == 3 and model.streams.currsize == limit
    long = clip(40)
    assert stream(long) is not stream(long)  # more than all of the room
    assert len(model.streams) == 3 and stream(clips[0]) is first
    assert stream(clips[1]) is not second
