"""AdamW with moments of 8 bits, whose second moment is never rounded to zero."""

import functools


def without_zero(optimizer: type) -> type:
    r"""torchao's AdamW8bit with a second moment v that is never rounded to zero; any other optimizer as it is.

    256 values share a scale, and torchao's 8-bit map for v contains 0. So a v that is small in its block becomes 0, but
    the first moment m, whose map is as fine, does not. If the next gradient is 0, as for a token that does not occur,
    the update is $lr\,m / \epsilon$: up to a thousand times lr and more. This is the zero-point problem of 4-bit Adam
    (Li et al. 2023, arXiv 2309.01507), whose map for v has no 0, as torchao's own 4-bit map. Here the first value of
    the 8-bit map is half of the second, instead of 0.
    """
    return _safe(optimizer) if optimizer.__name__ == "AdamW8bit" else optimizer


@functools.cache
def _safe(optimizer: type) -> type:
    class SafeAdamW8bit(optimizer):
        @staticmethod
        def _subclass_zeros(p, signed, block_size):
            state = optimizer._subclass_zeros(p, signed, block_size)
            if not signed:
                state.qmap[0] = state.qmap[1] / 2
            return state

    return SafeAdamW8bit
