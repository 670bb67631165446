"""Questions about a clip, with its sound and without: `python examples/chat.py [CLIP.mp4]`."""

import sys
from pathlib import Path

import lynx

HERE = Path(__file__).parent
QUESTIONS = (
    "What do you see?",
    "What sound do you hear?",
    "Where is the red circle when the bell rings?",
)


def main(clip: Path) -> None:
    """Ask, and ask again without the sound."""
    model = lynx.load("lynx-tiny", adapters=[HERE.parent / "adapters" / "audio"])
    chat = model.chat(video=clip, audio=clip)
    for question in QUESTIONS:
        print(f"{question}  {chat.ask(question)}")
        totals = chat.evidence.attribution().totals  # nats: +2.3 makes the answer ten times as likely
        print("    made likelier by", ", ".join(f"{sense} {nats:+.1f}" for sense, nats in totals.items()))
        print("    without sound:", chat.compare(without="audio").without["audio"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "bell" / "clip.mp4")
