"""The equation of state of the Lennard-Jones fluid by Johnson, Zollweg and Gubbins, Mol. Phys. 78, 591-618 (1993).

A modified Benedict-Webb-Rubin equation with 32 linear parameters (their table 10), fitted to simulations of the full
potential. Reduced units throughout; valid for the fluid at 0.7 <= T <= 6 and rho <= 1.25, best away from the critical
point (T = 1.313, rho = 0.310). Its own deviation from simulations in the dense liquid is of the order of 1 % in p.
"""

from __future__ import annotations

import math

GAMMA = 3.0
"""The non-linear parameter."""

X = (
    (0.8623085097507421, 2.976218765822098, -8.402230115796038, 0.1054136629203555, -0.8564583828174598),
    (1.582759470107601, 0.7639421948305453, 1.753173414312048, 2798.291772190376),
    (-0.048394220260857657, 0.9963265197721935, -36.98000291272493),
    (20.84012299434647,),
    (83.05402124717285, -957.4799715203068),
    (-147.7746229234994,),
    (63.98607852471505, 16.03993673294834),
    (68.05916615864377,),
    (-2791.293578795945, -6.245128304568454),
    (-8116.83610495841, 14.88735559561229),
    (-10593.46754655084, -113.1607632802822),
    (-8867.771540418822, -39.86982844450543),
    (-4689.270299917261, 259.3535277438717),
    (-2694.523589434903, -721.8487631550215, 172.1802063863269),
)
"""Parameters 1 to 32: one row for each of the coefficients a1 to a8 and b1 to b6."""

POWERS = (
    (1.0, 0.5, 0.0, -1.0, -2.0),
    (1.0, 0.0, -1.0, -2.0),
    (1.0, 0.0, -1.0),
    (0.0,),
    (-1.0, -2.0),
    (-1.0,),
    (-1.0, -2.0),
    (-2.0,),
    (-2.0, -3.0),
    (-2.0, -4.0),
    (-2.0, -3.0),
    (-2.0, -4.0),
    (-2.0, -3.0),
    (-2.0, -3.0, -4.0),
)
"""The power of the temperature that goes with each parameter (tables 5 and 6)."""


def _coefficients(temperature: float) -> list[float]:
    return [sum(x * temperature**power for x, power in zip(row, powers)) for row, powers in zip(X, POWERS)]


def _energy_coefficients(temperature: float) -> list[float]:
    """a - T da/dT (tables 8 and 9): a parameter that goes with T^n is multiplied by 1 - n."""
    return [
        sum(x * (1 - power) * temperature**power for x, power in zip(row, powers)) for row, powers in zip(X, POWERS)
    ]


def pressure(temperature: float, density: float) -> float:
    """The pressure, epsilon/sigma^3 (their equation 7)."""
    coefficients = _coefficients(temperature)
    a, b = coefficients[:8], coefficients[8:]
    smooth = sum(value * density ** (power + 2) for power, value in enumerate(a))
    damped = sum(value * density ** (2 * power + 3) for power, value in enumerate(b))
    return density * temperature + smooth + math.exp(-GAMMA * density**2) * damped


def energy(temperature: float, density: float) -> float:
    """The potential energy per atom, epsilon (their equation 9)."""
    coefficients = _energy_coefficients(temperature)
    c, d = coefficients[:8], coefficients[8:]
    smooth = sum(value * density ** (power + 1) / (power + 1) for power, value in enumerate(c))
    return smooth + sum(value * integral for value, integral in zip(d, _integrals(density)))


def _integrals(density: float) -> list[float]:
    """G1 to G6: the integrals of rho^(2i-1) exp(-gamma rho^2) from 0 to the density (table 7)."""
    damping = math.exp(-GAMMA * density**2)
    found = [(1 - damping) / (2 * GAMMA)]
    for power in range(2, 12, 2):
        found.append(-(damping * density**power - power * found[-1]) / (2 * GAMMA))
    return found
