import pytest
import torch

from lynx.evidence.hiding import answer_log_prob


def test_answer_log_prob_reads_the_logits_before_each_token():
    logits = torch.log(torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.25, 0.75], [1.0, 1.0]]))
    assert answer_log_prob(logits, torch.tensor([0, 1])) == pytest.approx(
        torch.log(torch.tensor(0.375)).item()
    )
