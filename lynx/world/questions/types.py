"""The types of questions: a row each, with its senses, its answers and several ways to say it.

Questions are drawn in the order of the table: a new type goes last, or the questions of every clip change.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lynx.world.questions import instances
from lynx.world.questions.instances import Instances
from lynx.world.scene.scene import COLORS, DISTANCES, GAINS, MOTIONS, SHAPES, SIZES, SOUNDS, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VIDEO, AUDIO, DEPTH, HIGH_FPS, MULTI_VIEW = ("video",), ("audio",), ("depth",), ("high_fps",), ("multi_view",)
BOTH, THREE = ("video", "audio"), ("video", "audio", "depth")


@dataclass(frozen=True)
class QuestionType:
    """A kind of question.

    senses: those that an answer needs. answers: all possible ones; () where the answer is free text.
    candidates: every instance in a scene. phrasings: ways to ask it, with slots that an instance fills.
    by: how shapes are referred to, never by what is being asked for.
    shown: the answers that the picture alone leaves open, one for each shape that may be meant; None if the
    picture says nothing about the answer.
    """

    name: str
    senses: tuple[str, ...]
    answers: tuple[str, ...]
    candidates: Instances
    phrasings: tuple[str, ...]
    by: tuple[str, ...] = ("shape", "color", "both")
    shown: Callable[[Scene], Sequence[str]] | None = None

    def guess(self, scene: Scene) -> float | None:
        """How often the best guess from the picture alone is right, 0..1; None: as often as a constant."""
        shown = self.shown(scene) if self.shown else None
        return Counter(shown).most_common(1)[0][1] / len(shown) if shown else None


_TYPES = (
    QuestionType("color", VIDEO, tuple(COLORS), instances.of_items(lambda item: item.color), (
        "what color is the {item} ?", "which color is the {item} ?", "what is the color of the {item} ?",
        "what colour is the {item} ?", "tell me the color of the {item}",
        "which color does the {item} have ?",
    ), by=("shape",)),
    QuestionType("shape", VIDEO, SHAPES, instances.of_items(lambda item: item.shape), (
        "what shape is the {item} ?", "which shape is the {item} ?", "what is the {item} ?",
        "what is the shape of the {item} ?", "tell me the shape of the {item}",
    ), by=("color",)),
    QuestionType("count", VIDEO, NUMBERS[1:4], instances.always(lambda scene: NUMBERS[len(scene.items)]), (
        "how many shapes are there ?", "how many shapes do you see ?", "how many objects are there ?",
        "how many objects can you see ?", "count the shapes",
    )),
    QuestionType("exist", VIDEO, ("yes", "no"), instances.exists, (
        "is there a {thing} ?", "do you see a {thing} ?", "can you see a {thing} ?",
        "is a {thing} in the video ?", "does the video show a {thing} ?",
    )),
    QuestionType("motion", VIDEO, MOTIONS, instances.of_items(lambda item: item.motion), (
        "which way does the {item} move ?", "in which direction does the {item} move ?",
        "how does the {item} move ?", "what direction does the {item} go ?",
        "which way is the {item} moving ?", "which way does the {item} go ?",
    )),
    QuestionType("moves", VIDEO, ("yes", "no"), instances.moves, (
        "does the {item} move {how} ?", "is the {item} moving {how} ?", "does the {item} go {how} ?",
    )),
    QuestionType("mover", VIDEO, SHAPES, instances.movers, (
        "which shape moves {way} ?", "what moves {way} ?", "which shape goes {way} ?",
        "what is moving {way} ?", "which object moves {way} ?",
    )),
    QuestionType("size", VIDEO, tuple(SIZES), instances.of_items(lambda item: item.size), (
        "is the {item} big or small ?", "how big is the {item} ?", "what size is the {item} ?",
        "is the {item} small or big ?", "what is the size of the {item} ?",
    )),
    QuestionType("where", VIDEO, ("left", "middle", "right"), instances.where, (
        "where is the {item} {moment} ?", "on which side is the {item} {moment} ?",
        "{moment} , where is the {item} ?", "where do you see the {item} {moment} ?",
    )),
    QuestionType("beside", VIDEO, ("yes", "no"), instances.beside, (
        "is the {item} {side} of the {other} ?", "is the {item} to the {side} of the {other} ?",
        "do you see the {item} to the {side} of the {other} ?",
    )),
    QuestionType("caption", VIDEO, (), instances.always(instances.caption), (
        "what do you see ?", "describe the video", "what is in the video ?", "what does the video show ?",
        "what can you see ?", "describe what you see",
    )),
    QuestionType("sound", AUDIO, (*SOUNDS, "nothing"), instances.sound, (
        "what sound do you hear ?", "what do you hear ?", "which sound do you hear ?", "what sound is it ?",
        "what can you hear ?", "what is the sound ?", "what makes the sound ?",
        "which sound is in the video ?",
    )),
    QuestionType("sound_count", AUDIO, NUMBERS[1:4],
        instances.of_burst(lambda scene: NUMBERS[len(scene.sounds)]), (
        "how many times do you hear the {kind} ?", "how often do you hear the {kind} ?",
        "how many times does the {kind} sound ?", "how many times does the {kind} ring ?",
        "how many sounds do you hear ?", "how often does the {kind} sound ?",
    )),
    QuestionType("loudness", AUDIO, tuple(GAINS),
        instances.of_burst(lambda scene: "loud" if scene.sounds[0].gain > 0.3 else "quiet"), (
        "is the {kind} loud or quiet ?", "is the sound loud or quiet ?", "how loud is the sound ?",
        "how loud is the {kind} ?", "is the {kind} quiet or loud ?",
    )),
    QuestionType("sound_time", AUDIO, ("start", "middle", "end"), instances.when, (
        "when do you hear the {kind} ?", "when does the {kind} sound ?", "when is the {kind} ?",
        "when does the {kind} ring ?", "at which moment do you hear the {kind} ?",
    )),
    QuestionType("heard", AUDIO, ("yes", "no"), instances.heard, (
        "do you hear a {kind} ?", "can you hear a {kind} ?", "is there a {kind} sound ?",
        "do you hear the {kind} ?", "does a {kind} sound ?", "is there the sound of a {kind} ?",
    )),
    QuestionType("first_sound", AUDIO, SOUNDS, instances.ordered(0), (
        "which sound comes first ?", "what sound do you hear first ?", "what do you hear first ?",
        "which sound is first ?",
    )),
    QuestionType("last_sound", AUDIO, SOUNDS, instances.ordered(1), (
        "which sound comes last ?", "what sound do you hear last ?", "what do you hear last ?",
        "which sound is last ?",
    )),
    QuestionType("where_at_sound", BOTH, ("left", "right"), instances.where_at_sound, (
        "where is the {item} when the {kind} sounds ?", "where is the {item} when you hear the {kind} ?",
        "when the {kind} rings , where is the {item} ?",
        "on which side is the {item} when you hear the {kind} ?",
        "where is the {item} when the {kind} rings ?",
    )),
    QuestionType("sound_while_side", BOTH, ("yes", "no"), instances.sound_while_side, (
        "does the {kind} sound while the {item} is on the {side} ?",
        "does the {kind} ring while the {item} is on the {side} ?",
        "do you hear the {kind} while the {item} is on the {side} ?",
        "is the {item} on the {side} when the {kind} sounds ?",
        "is the {item} on the {side} when you hear the {kind} ?",
    )),
    QuestionType("sound_at_side", BOTH, SOUNDS, instances.sound_at_side, (
        "what sound do you hear while the {item} is on the {side} ?",
        "which sound do you hear when the {item} is on the {side} ?",
        "what do you hear when the {item} is on the {side} ?",
    )),
    QuestionType("distance", DEPTH, tuple(DISTANCES), instances.of_items(lambda item: item.distance), (
        "is the {item} near or far ?", "how far is the {item} ?", "is the {item} far or near ?",
        "how far away is the {item} ?",
    )),
    QuestionType("nearest", DEPTH, SHAPES, instances.of_nearest(lambda item: item.shape), (
        "which shape is nearest ?", "what is nearest ?", "which object is the nearest ?",
        "which shape is near ?",
    ), shown=instances.shapes),
    QuestionType("flashes", HIGH_FPS, NUMBERS[:4],
        instances.always(lambda scene: NUMBERS[len(scene.flashes)]), (
        "how many flashes are there ?", "how many flashes do you see ?",
        "how many times does a shape flash ?", "how often does something flash ?",
    )),
    QuestionType("flasher", HIGH_FPS, SHAPES, instances.of_flasher(lambda item: item.shape), (
        "which shape flashes ?", "what flashes ?", "which object flashes ?", "what is flashing ?",
    ), shown=instances.shapes),
    # By its shape alone: a front's color says nothing about what the second camera sees.
    QuestionType("back", MULTI_VIEW, tuple(COLORS), instances.of_items(lambda item: item.back), (
        "what color is the back of the {item} ?", "what is the color of the back of the {item} ?",
        "which color does the {item} have on the back ?",
    ), by=("shape",)),
    QuestionType("hidden_shape", MULTI_VIEW, SHAPES, instances.always(lambda scene: scene.hidden.shape), (
        "what shape is hidden ?", "which shape is hidden ?", "what is hidden ?", "what is the hidden shape ?",
    )),
    QuestionType("hidden_color", MULTI_VIEW, tuple(COLORS),
        instances.always(lambda scene: scene.hidden.color), (
        "what color is the hidden shape ?", "which color is the hidden shape ?",
        "what is the color of the hidden shape ?",
    )),
    QuestionType("nearest_color", ("video", "depth"), tuple(COLORS),
        instances.of_nearest(lambda item: item.color), (
        "what color is the nearest shape ?", "which color is the nearest shape ?",
        "what is the color of the nearest shape ?", "which color does the nearest object have ?",
    ), shown=instances.colors),
    QuestionType("nearest_at_sound", THREE, ("left", "right"), instances.nearest_at_sound, (
        "where is the nearest shape when the {kind} sounds ?",
        "where is the nearest shape when you hear the {kind} ?",
        "on which side is the nearest shape when you hear the {kind} ?",
        "when the {kind} rings , where is the nearest shape ?",
    )),
    QuestionType("nearest_and_sound", THREE,
        tuple(f"{color} and {kind}" for color in COLORS for kind in SOUNDS), instances.nearest_and_sound, (
        "what color is the nearest shape and what sound do you hear ?",
        "which color is the nearest shape and which sound do you hear ?",
        "tell me the color of the nearest shape and the sound",
    ), shown=lambda scene: [f"{color} and {kind}" for color in instances.colors(scene) for kind in SOUNDS]),
    QuestionType("flash_color", HIGH_FPS, tuple(COLORS), instances.of_flasher(lambda item: item.color), (
        "what color flashes ?", "which color flashes ?", "what color is flashing ?",
    ), shown=instances.colors),
    QuestionType("flashing", HIGH_FPS, ("yes", "no"), instances.flashing, (
        "does the {item} flash ?", "is the {item} flashing ?", "do you see the {item} flash ?",
    )),
)
QUESTION_TYPES = {kind.name: kind for kind in _TYPES}
