"""An LSTM layer as the one call that torch ends with on a processor, with its weights laid out for it beforehand.

`torch.lstm` finds its kernel, copies weights and states into lists and lays the weights out anew at every call: for one
window of a hundred steps a quarter of the time. The kernel is oneDNN's, the same, and so is every bit of the result, which is
why nothing here is believed: whoever uses it compares (`app.services.network`). The operator is what `torch.compile` calls;
where a build of torch has none, there is no fused layer.
"""

from __future__ import annotations

from typing import cast, final

import torch
from torch import Tensor, nn

_LSTM_MODE = 2  # the operator's number for it


@final
class FusedLSTM(nn.Module):
    """What `layer` computes.

    Args:
        layer: One LSTM layer, from the past to the future, with batches first.

    Raises:
        RuntimeError: If this build of torch does not lay weights out.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size = layer.hidden_size
        given = {name: tensor.detach() for name, tensor in layer.named_parameters()}
        # Number of windows and steps are no part of the layout.
        laid_out = _operator("mkldnn", "_reorder_mkldnn_rnn_layer_weight")(
            given["weight_ih_l0"], given["weight_hh_l0"], self.hidden_size, False, True, False, [1, 1, layer.input_size]
        )
        for name, tensor in zip(("weight_ih", "weight_hh"), cast("list[Tensor]", laid_out), strict=True):
            self.register_buffer(name, tensor)
        self.register_buffer("bias_ih", given["bias_ih_l0"])
        self.register_buffer("bias_hh", given["bias_hh_l0"])

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM`: outputs "B L D" of every step, and the last hidden and cell state "1 B D" each."""
        by_step = inputs.transpose(0, 1).contiguous()  # other strides are misread without a word
        outputs, hidden, cell, _ = _operator("aten", "mkldnn_rnn_layer")(
            by_step, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, *state,
            False, [], _LSTM_MODE, self.hidden_size, 1, True, False, False, False,
        )  # fmt: skip
        return outputs.transpose(0, 1), (hidden, cell)


def fuse_lstm(network: nn.Module) -> bool:
    """Put fused layers in the place of a network's LSTM layers.

    Args:
        network: In evaluation mode; changed.

    Returns:
        Whether any was replaced; if not, the network is as it was.
    """
    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) is nn.LSTM and _is_plain(child)
    ]
    try:
        fused = [(parent, name, FusedLSTM(child)) for parent, name, child in found]
    except (AttributeError, RuntimeError):
        return False
    for parent, name, layer in fused:
        setattr(parent, name, layer)
    return bool(fused)


def _is_plain(layer: nn.LSTM) -> bool:
    is_one = layer.num_layers == 1 and not layer.bidirectional and not layer.proj_size
    return is_one and layer.batch_first and bool(layer.bias) and layer.weight_hh_l0.dtype is torch.float32


def _operator(library: str, name: str) -> torch._ops.OpOverloadPacket:
    operator: torch._ops.OpOverloadPacket = getattr(getattr(torch.ops, library), name)
    return operator
