from dataclasses import replace

import checkpoints
import torch
from checkpoints import clip, random_adapter, sound

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


def test_tokens_that_are_only_marked_otherwise_are_not_encoded_again(tmp_path, monkeypatch):
    model = lynx.load(checkpoints.llava_onevision(tmp_path))
    random_adapter(model, "audio")
    times, source = clip(4).times, sound()
    key, first = model.stream_key("audio", source, times), model.stream("audio", source, times)
    embeds = first.embeds.clone()
    encode = model.backbone.encode
    monkeypatch.setattr(model.backbone, "encode", lambda pixels: None)
    assert model.stream("audio", source, times) is first
    model.adapters["audio"] = replace(model.adapters["audio"], placement="parallel")
    model.type_embeddings["audio"] = torch.ones(48)
    marked = model.stream("audio", source, times)
    assert model.stream_key("audio", source, times) != key and model.stream("audio", source, times) is marked
    monkeypatch.setattr(model.backbone, "encode", encode)
    model.streams.clear()
    fresh = model.stream("audio", source, times)
    assert marked.placement == fresh.placement == "parallel" and first.placement == "continue"
    assert torch.equal(marked.embeds, fresh.embeds) and torch.equal(marked.embeds, embeds + 1)
    assert torch.equal(first.embeds, embeds), "what an earlier answer rests on stays as it was"
