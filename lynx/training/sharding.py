"""The LLM's frozen weights divided among processes (FSDP2), where a card does not hold them beside the rest.

Each process keeps a part of every decoder layer's weights; a layer's weights are gathered when it is
computed, forward and backward, and given up after. LoRAs (which lie beside the model), embeddings and the
vision tower stay whole in every process, so training, checkpoints and adapters are as without. This is
torch's `fully_shard` itself: accelerate's plugin would divide the LoRAs, too, and does nothing on CPUs.
"""

import logging
from typing import Any

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from lynx.backbones import Backbone
from lynx.errors import DataError
from lynx.training.processes import Processes

logger = logging.getLogger(__name__)


def shard_llm(backbone: Backbone, processes: Processes) -> None:
    """Divide the decoder layers' frozen weights, for as long as the processes live.

    From now on each has to compute as many passes of the LLM as the others, in the same order.
    Raises: DataError: there is one process, or a quantized LLM, whose weights are no floats to divide.
    """
    decoder: Any = backbone.model.get_decoder()
    layers: list[nn.Module] = list(decoder.layers)
    weights = [weight for layer in layers for weight in layer.parameters()]
    if kinds := sorted({str(weight.dtype) for weight in weights if not weight.is_floating_point()}):
        raise DataError(f"shard divides weights in bf16 or fp32, and this LLM's are in {', '.join(kinds)}")
    if processes.count == 1:
        raise DataError("shard divides the LLM among processes, and there is one: start several by torchrun")
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # lets the next layer come while one is computed; what is not in a layer stays whole
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
    held = local_bytes(backbone.model) / 1e9
    logger.info("the LLM is divided among %d processes: each holds %.3g GB of weights", processes.count, held)


def local_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights that this process holds between passes."""
    weights = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters())
    return sum(weight.nbytes for weight in weights)
