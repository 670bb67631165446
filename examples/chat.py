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
        shares = chat.evidence.share(0)
        print("    rests on", ", ".join(f"{sense} {share:.0%}" for sense, share in shares.items()))
        print("    without sound:", chat.compare(without="audio").without["audio"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "bell" / "clip.mp4")
