"""Gradients of many batches summed in float32, for weights in bfloat16."""

import torch


class Float32Gradients:
    r"""Sum the gradients of a step's batches in float32: $g = \sum_b g_b$, rounded to the weights' dtype once.

    bfloat16 has 8 significant bits. A sum that is 256 times as large as the next summand no longer changes, so most of
    the last of 96 batches is lost. Costs 4 bytes per parameter instead of 2 (see `Setup`).

    Each backward pass adds to the sums and frees the gradients of the weights. `restore` writes the sums back to the
    gradients, for the optimizer, and resets them. Parameters in float32 are not changed.
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
        """Set the gradient of every parameter to the sum, in the dtype of the parameter.

        Each sum is freed once it is converted, so that not all sums and all gradients are in memory together.
        """
        while self.sums:
            parameter, total = self.sums.popitem()
            parameter.grad = total.to(parameter.dtype)
            del total

    def remove(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()
