import checkpoints
from checkpoints import clip

import lynx
from lynx.streams.store import StreamStore, stream_bytes


def test_streams_that_were_asked_for_least_recently_make_room(tmp_path):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    streams = [model.encode("video", clip(4, seed=seed)) for seed in range(4)]
    limit = 3 * (65 * (48 * 4 + 8 + 16) + 4 * 3 * 50 * 70)
    assert limit == 3 * stream_bytes(streams[0])
    store = StreamStore(limit)
    for number, stream in enumerate(streams[:3]):
        store.put(str(number), stream)
    assert store.get("0") is streams[0]
    store.put("3", streams[3])
    assert store.get("1") is None and store.get("0") is streams[0]
    assert len(store) == 3 and store.nbytes == limit
    store.put("4", model.encode("video", clip(40)))  # more than all of the room
    assert store.get("4") is None and len(store) == 3
