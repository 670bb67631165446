"""The loss of stage 3: what a step shows and asks, and the cross-entropy of the answers' tokens."""

from collections.abc import Iterator, Sequence
from itertools import tee
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lynx.backbones import Backbone
from lynx.config import Sampling
from lynx.datasets.base import Turn
from lynx.model import Lynx
from lynx.training.packing import IGNORE, Packed, Packer
from lynx.training.questions import TrainingClip, needs_new_sense, sample_questions, sample_sense_count
from lynx.training.stream_cache import StreamCache
from lynx.training.trainer import Pass
from lynx.training.validation import MEASURED
from lynx.types import Stream


def answer_loss(backbone: Backbone, packed: Packed, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy over answer tokens, and which questions (Q,) are answered right in every token.

    weights: (Q,) of the questions in the mean over tokens; 1 each if not given.
    """
    hidden = backbone.model.get_decoder()(
        **backbone.decoder_inputs(packed.ids, packed.embeds),
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state  # (B, S, D)
    answered = packed.labels != IGNORE  # (B, S)
    labels = packed.labels[answered]  # (A,), A answer tokens of the batch
    # Logits of A positions in place of B * S: most tokens are the media's, and the vocabulary is large.
    logits = backbone.model.get_output_embeddings()(hidden[answered]).float()  # (A, V)
    questions = packed.questions[answered] - 1  # (A,), which of the Q questions an answer token belongs to
    right = torch.ones(int(questions.max()) + 1, device=labels.device)  # (Q,)
    right[questions[logits.argmax(-1) != labels]] = 0  # one wrong token makes a wrong answer
    if weights is None:
        return F.cross_entropy(logits, labels), right
    shares = weights.to(logits)[questions]  # (A,)
    return (shares * F.cross_entropy(logits, labels, reduction="none")).sum() / shares.sum(), right


class Batch(NamedTuple):
    """Streams and questions of a step, clip by clip; `conversation`: questions follow one another."""

    streams: list[list[Stream]]
    turns: list[list[Turn]]
    conversation: bool


class Drawn(NamedTuple):
    """What a step shows, as the cache is asked for it, and its questions."""

    shown: list[tuple[str, tuple[str, ...]]]
    turns: list[list[Turn]]
    conversation: bool


class TuningLoss:
    """The loss of stage 3 over indices of clips. A recipe that shows or asks otherwise overrides a method."""

    def __init__(
        self,
        model: Lynx,
        modalities: Sequence[str],
        clips: Sequence[TrainingClip],
        cache: StreamCache,
        sampling: Sampling,
    ) -> None:
        self.model, self.modalities, self.clips = model, modalities, clips
        self.cache, self.sampling = cache, sampling
        self.packer = Packer(model.backbone)
        self._ahead: Iterator[tuple[Drawn, list[list[Stream]]]] = iter(())  # of the passes that are expected

    def __call__(self, indices: list[int]) -> dict[str, Tensor]:
        """loss, weight: its mean over answer tokens, and how many; accuracy and replay_accuracy: of new and
        replayed questions, teacher forced, 0..1."""
        batch = self.choose(indices)
        packed = self.packer.pack(*batch)  # embeds (B, S, R)
        loss, right = answer_loss(self.model.backbone, packed)  # (), (Q,)
        new = torch.tensor([needs_new_sense(t, self.modalities) for turns in batch.turns for t in turns])
        kinds = {"accuracy": right[new], "replay_accuracy": right[~new]}
        found = {"loss": loss, "weight": (packed.labels != IGNORE).sum()}
        return found | {name: each.mean() for name, each in kinds.items() if len(each)}

    def expect(self, passes: Iterator[Pass], ahead: int) -> None:
        """Let the cache draw what these passes will show, so many clips ahead of the one that is used."""
        drawn, to_show = tee(self._draw_as_in(*each) for each in passes)
        self._ahead = zip(drawn, self.cache.batches((each.shown for each in to_show), ahead), strict=True)

    def _draw_as_in(self, seed: int, indices: Sequence[int]) -> Drawn:
        with torch.random.fork_rng(devices=[]):  # in the midst of another step, whose draws go on
            torch.default_generator.manual_seed(seed)  # alone: dropout may be drawn on another device
            return self.draw(indices)

    def draw(self, indices: Sequence[int]) -> Drawn:
        """What these clips show and are asked in one step, by torch's generator."""
        conversation = float(torch.rand(())) < self.sampling.conversation
        sense_count = sample_sense_count(self.modalities, self.sampling)
        drawn = Drawn([], [], conversation)
        for clip in (self.clips[index] for index in indices):
            senses, turns = sample_questions(clip, self.modalities, self.sampling, sense_count)
            drawn.shown.append((clip.key, senses))
            drawn.turns.append(turns)
        given = any(turn.before for turns in drawn.turns for turn in turns)  # a conversation of its own
        return drawn._replace(conversation=conversation and not given)

    def choose(self, indices: Sequence[int]) -> Batch:
        """Draw the streams and questions of these clips for one step, by torch's generator."""
        drawn = self.draw(indices)
        expected, streams = next(self._ahead, (None, None))
        if streams is None or expected != drawn:  # nobody said that this step would come
            self._ahead = iter(())
            (streams,) = self.cache.batches([drawn.shown], len(indices))
        return Batch(streams, drawn.turns, drawn.conversation)


class HeldOutLoss:
    """What held-out clips say of a LoRA: each shows all its senses and is asked all its questions, so that
    nothing is drawn; under no dropout and without gradients."""

    def __init__(
        self, loss: TuningLoss, lora: str, clips: Sequence[TrainingClip], batch_size: int, alike: bool = False
    ) -> None:
        """alike: whether all processes have to compute the same, so that each takes all batches."""
        self.loss, self.lora, self.batch_size, self.alike = loss, lora, batch_size, alike
        most = loss.sampling.questions or max((len(clip.turns) for clip in clips), default=1)
        parts = [(clip, clip.turns[i : i + most]) for clip in clips for i in range(0, len(clip.turns), most)]
        self.batches = [parts[i : i + batch_size] for i in range(0, len(parts), batch_size)]

    @torch.no_grad()
    def __call__(self, share: tuple[int, int]) -> Tensor:
        """(3, 2): sums and numbers of what `MEASURED` names, over every k-th batch from the i-th on.

        The loss is over answer tokens, as in a step; the accuracies are of new and of other questions.
        """
        model, cache = self.loss.model, self.loss.cache
        sums = torch.zeros(len(MEASURED), 2, dtype=torch.float64)
        first, step = (0, 1) if self.alike else share
        mine = self.batches[first::step]
        shown = ([(clip.key, clip.senses) for clip, _ in batch] for batch in mine)
        for batch, streams in zip(mine, cache.batches(shown, self.batch_size), strict=True):
            turns = [list(asked) for _, asked in batch]
            with model.lora.active([self.lora]):
                packed = self.loss.packer.pack(streams, turns)
                loss, right = answer_loss(model.backbone, packed)  # (), (Q,)
            tokens = int((packed.labels != IGNORE).sum())
            new = torch.tensor([needs_new_sense(t, self.loss.modalities) for each in turns for t in each])
            right = right.cpu().double()
            found = ([float(loss) * tokens, tokens], *([right[of].sum(), of.sum()] for of in (new, ~new)))
            sums += torch.tensor(found, dtype=torch.float64)
        return sums / (share[1] if self.alike else 1)
