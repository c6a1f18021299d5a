import numpy as np
import pytest

from kumiai.privacy.events import GaussianEvent, PoissonGaussianEvent
from kumiai.privacy.rdp import DEFAULT_ORDERS, rdp_of

ORDERS = np.array(DEFAULT_ORDERS)


def test_sampling_everybody_costs_what_no_sampling_costs() -> None:
    assert np.array_equal(rdp_of(PoissonGaussianEvent(1, 3)), rdp_of(GaussianEvent(3)))
    assert rdp_of(GaussianEvent(3)) == pytest.approx(ORDERS / 18)
