"""Optimizers as their papers write them, one tensor at a time, in float64: what ours are held against."""

from torch import Tensor, zeros_like


class LambFormula:
    """Algorithm 2 of You et al. 2020, one tensor at a time, in float64."""

    def __init__(self, start: Tensor, *, decay: float, adapts: bool, corrected: bool = True) -> None:
        self.x = start.double()
        self.decay, self.adapts, self.corrected = decay, adapts, corrected
        self.m = self.v = zeros_like(self.x)
        self.t = 0

    def update(self, gradient: Tensor, rate: float) -> None:
        g = gradient.double()
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m, self.v
        if self.corrected:
            m, v = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
        u = m / (v.sqrt() + 1e-6) + self.decay * self.x
        ratio = 1.0
        if self.adapts and float(self.x.norm()) > 0 and float(u.norm()) > 0:
            ratio = float(self.x.norm() / u.norm())
        self.x = self.x - rate * ratio * u
