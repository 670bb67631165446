"""The rows of the table of question types that need depth, fast motion or the second view."""

from lynx.world.questions import instances
from lynx.world.questions.question_type import NUMBERS, QuestionType
from lynx.world.scene.scene import COLORS, DISTANCES, SHAPES, SOUNDS

THREE = ("video", "audio", "depth")
OTHER_SENSES = (
    QuestionType(
        "distance",
        ("depth",),
        tuple(DISTANCES),
        (
            "is the {item} near or far ?",
            "how far is the {item} ?",
            "is the {item} far or near ?",
            "how far away is the {item} ?",
        ),
        instances.of_items(lambda item: item.distance),
    ),
    QuestionType(
        "nearest",
        ("depth",),
        SHAPES,
        (
            "which shape is nearest ?",
            "what is nearest ?",
            "which object is the nearest ?",
            "which shape is near ?",
        ),
        instances.of_nearest(lambda item: item.shape),
        shown=instances.shapes,
    ),
    QuestionType(
        "flashes",
        ("high_fps",),
        NUMBERS[:4],
        (
            "how many flashes are there ?",
            "how many flashes do you see ?",
            "how many times does a shape flash ?",
            "how often does something flash ?",
        ),
        instances.always(lambda scene: NUMBERS[len(scene.flashes)]),
    ),
    QuestionType(
        "flasher",
        ("high_fps",),
        SHAPES,
        ("which shape flashes ?", "what flashes ?", "which object flashes ?", "what is flashing ?"),
        instances.of_flasher(lambda item: item.shape),
        shown=instances.shapes,
    ),
    QuestionType(
        "back",
        ("multi_view",),
        tuple(COLORS),
        (
            "what color is the back of the {item} ?",
            "what is the color of the back of the {item} ?",
            "which color does the {item} have on the back ?",
        ),
        instances.of_items(lambda item: item.back),
        by=("shape",),  # a front's colour says nothing about what the second camera sees
    ),
    QuestionType(
        "hidden_shape",
        ("multi_view",),
        SHAPES,
        (
            "what shape is hidden ?",
            "which shape is hidden ?",
            "what is hidden ?",
            "what is the hidden shape ?",
        ),
        instances.always(lambda scene: scene.hidden.shape),
    ),
    QuestionType(
        "hidden_color",
        ("multi_view",),
        tuple(COLORS),
        (
            "what color is the hidden shape ?",
            "which color is the hidden shape ?",
            "what is the color of the hidden shape ?",
        ),
        instances.always(lambda scene: scene.hidden.color),
    ),
    QuestionType(
        "nearest_color",
        ("video", "depth"),
        tuple(COLORS),
        (
            "what color is the nearest shape ?",
            "which color is the nearest shape ?",
            "what is the color of the nearest shape ?",
            "which color does the nearest object have ?",
        ),
        instances.of_nearest(lambda item: item.color),
        shown=instances.colors,
    ),
    QuestionType(
        "nearest_at_sound",
        THREE,
        ("left", "right"),
        (
            "where is the nearest shape when the {kind} sounds ?",
            "where is the nearest shape when you hear the {kind} ?",
            "on which side is the nearest shape when you hear the {kind} ?",
            "when the {kind} rings , where is the nearest shape ?",
        ),
        instances.nearest_at_sound,
    ),
    QuestionType(
        "nearest_and_sound",
        THREE,
        tuple(f"{color} and {kind}" for color in COLORS for kind in SOUNDS),
        (
            "what color is the nearest shape and what sound do you hear ?",
            "which color is the nearest shape and which sound do you hear ?",
            "tell me the color of the nearest shape and the sound",
        ),
        instances.nearest_and_sound,
        shown=lambda scene: [f"{color} and {kind}" for color in instances.colors(scene) for kind in SOUNDS],
    ),
    QuestionType(
        "flash_color",
        ("high_fps",),
        tuple(COLORS),
        ("what color flashes ?", "which color flashes ?", "what color is flashing ?"),
        instances.of_flasher(lambda item: item.color),
        shown=instances.colors,
    ),
    QuestionType(
        "flashing",
        ("high_fps",),
        ("yes", "no"),
        ("does the {item} flash ?", "is the {item} flashing ?", "do you see the {item} flash ?"),
        instances.flashing,
    ),
)
