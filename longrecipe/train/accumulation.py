"""Gradients of many batches summed in float32, for weights in bfloat16."""

import torch


class Float32Gradients:
    r"""Sum the gradients of a step's batches in float32: $g = \sum_b g_b$, rounded to the weights' dtype once.

    In bfloat16, of 8 significant bits, a sum that has grown to 256 times the next summand does not change any more: of
    96 batches the last ones are mostly lost. Costs 4 bytes a parameter in place of 2 (see `Setup`).

    Each backward pass adds to the sums and frees the weights' own gradients; `restore` puts the sums there, as the
    optimizer reads them, and starts anew. Parameters in float32 are left alone.
    """

    def __init__(self, network: torch.nn.Module):
        self.sums: dict[torch.nn.Parameter, torch.Tensor] = {}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._add)
            for parameter in network.parameters()
            if parameter.requires_grad and parameter.dtype != torch.float32
        ]

    @torch.no_grad()
    def _add(self, parameter: torch.nn.Parameter) -> None:
        if parameter in self.sums:
            self.sums[parameter] += parameter.grad
        else:
            self.sums[parameter] = parameter.grad.float()
        parameter.grad = None

    def restore(self) -> None:
        """Give every parameter the sum of its gradients, in its own dtype."""
        for parameter, total in self.sums.items():
            parameter.grad = total.to(parameter.dtype)
        self.sums.clear()

    def remove(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()
