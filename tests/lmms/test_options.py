"""What a user of lmms-eval and its tasks may ask for, and that the rest is refused."""

import pytest

from lynx.errors import DataError
from lynx.lmms.options import Generation, ModelOptions


def test_the_keywords_of_a_command_line_are_taken():
    """As lmms-eval makes them of `--model_args adapter=audio+runs/mine`, `--batch_size 4 --device cpu`."""
    given = {"adapter": "audio+runs/mine", "senses": "video+audio", "frames": 16, "allow_missing": True}
    options = ModelOptions.of({**given, "batch_size": "4", "device": "cpu"})
    assert options.adapter == ("audio", "runs/mine") and options.senses == ("video", "audio")
    assert (options.frames, options.batch_size, options.device) == (16, 4, "cpu")
    assert options.allow_missing and options.backbone == "lynx-tiny"
    assert ModelOptions.of({}).senses == ()  # all that there are


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pretrained": "lynx-tiny"}, "no model argument 'pretrained'; it has backbone, adapter"),
        ({"frames": 0}, "frames is 0"),
        ({"frames": 2.5}, "frames is 2.5"),
        ({"batch_size": "auto"}, "batch_size is 'auto'"),
        ({"max_batch_size": 64}, "--max_batch_size"),
        ({"adapter": "audio+"}, r"adapter is 'audio\+'"),
        ({"senses": "video+video"}, "expected different names"),
        ({"allow_missing": "yes"}, "allow_missing is 'yes'"),
        ({"backbone": 7}, "backbone is 7"),
    ],
)
def test_other_options_are_refused(given, said):
    with pytest.raises(DataError, match=said):
        ModelOptions.of(given)


def test_what_the_tasks_of_videos_ask_for_is_greedy():
    """`generation_kwargs` of videomme, mvbench and mlvu_dev, with the `until` that lmms-eval adds."""
    asked = {"max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
    assert Generation.of({**asked, "until": ["\n\n"]}) == Generation(16, ("\n\n",))
    assert Generation.of({"temperature": 0.7, "do_sample": False}).max_new_tokens == 128
    assert Generation.of({"until": None, "max_new_tokens": None}) == Generation()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": 0.7}, "temperature=0.7"),
        ({"do_sample": True}, "do_sample=True"),
        ({"do_sample": True, "temperature": 0.2}, "--gen_kwargs do_sample=False"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"temperature": -1}, "temperature is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"until": [3]}, "until is"),
        ({"image_aspect_ratio": "original"}, "no generation option 'image_aspect_ratio'; it has max"),
    ],
)
def test_other_generations_are_refused(given, said):
    with pytest.raises(DataError, match=said):
        Generation.of(given)


def test_an_answer_ends_at_the_first_text_that_ends_it():
    assert Generation(until=("\n\n", ".")).cut("red. blue\n\ngreen") == "red"
    assert Generation(until=("###",)).cut("red. blue") == "red. blue"
