"""What every test gets: the same random numbers each time, and `same`, which compares two ways to compute."""

import hypothesis
import pytest
import torch

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile(
    "no deadlines", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no deadlines")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(1)


@pytest.fixture
def same():
    """same(ours, theirs, *inputs): equal values, and equal gradients of every input.

    The gradients of parameters stay in `.grad`, to be compared by the caller.
    """

    def same(ours, theirs, *inputs, **tolerances):
        results = []
        for function in (ours, theirs):
            leaves = [x.clone().requires_grad_() for x in inputs]
            out = function(*leaves)
            out.sin().sum().backward()  # not a plain sum: every output counts differently
            results.append([out.detach(), *(leaf.grad for leaf in leaves)])
        torch.testing.assert_close(*results, **tolerances)

    return same
