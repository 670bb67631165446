"""The sum of LoRAs as one."""

import pytest
import torch

from lynx.adapters.lora import merge
from lynx.config import LoraSettings

SIZES = {"wide": (12, 20), "thin": (3, 20)}


def lora(rank: int, alpha: float, seed: int) -> tuple[LoraSettings, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in SIZES.items():
        tensors[f"m.{name}.lora_A.weight"] = torch.randn(rank, columns)
        tensors[f"m.{name}.lora_B.weight"] = torch.randn(rows, rank)
    return LoraSettings(rank, alpha, 0.0), tensors


def update(settings: LoraSettings, tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    a, b = (tensors[f"m.{name}.lora_{matrix}.weight"] for matrix in "AB")
    return settings.alpha / settings.rank * b @ a


def test_the_sum_of_loras_is_one_of_their_ranks_together() -> None:
    parts, settings = [lora(2, 4.0, 0), lora(3, 1.5, 1)], LoraSettings(5, 20.0, 0.0)
    merged = merge(parts, settings)
    for name, (rows, columns) in SIZES.items():
        assert merged[f"m.{name}.lora_A.weight"].shape == (5, columns)
        assert merged[f"m.{name}.lora_B.weight"].shape == (rows, 5)
        expected = sum(update(*part, name) for part in parts)
        torch.testing.assert_close(update(settings, merged, name), expected, rtol=1e-4, atol=1e-4)


def test_of_a_smaller_rank_it_is_the_nearest_there_is() -> None:
    parts, settings = [lora(3, 3.0, 0), lora(4, 4.0, 1)], LoraSettings(2, 2.0, 0.0)
    whole = sum(update(*part, "wide") for part in parts)
    u, s, v = torch.linalg.svd(whole, full_matrices=False)
    nearest = (u[:, :2] * s[:2]) @ v[:2]
    torch.testing.assert_close(
        update(settings, merge(parts, settings), "wide"), nearest, rtol=1e-4, atol=1e-4
    )


def test_more_rank_than_there_is_would_never_be_trained() -> None:
    with pytest.raises(ValueError, match="fewer rows than the rank 8"):
        merge([lora(3, 3.0, 0), lora(4, 4.0, 1)], LoraSettings(8, 8.0, 0.0))
