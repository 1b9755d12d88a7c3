"""A small molecular dynamics code for the Lennard-Jones fluid: what in.melt does, where LAMMPS is not installed.

It does the same calculation, step for step: an FCC crystal at the wanted density is melted, brought to the wanted
temperature, and sampled at constant volume with a chain of three Nosé-Hoover thermostats. It writes its log in the
columns of LAMMPS, so that one analysis reads both. Lennard-Jones units throughout: epsilon = sigma = m = k = 1.

    python lj_md.py --temperature 1.5 --density 0.8 --log thermo.log

Methods: velocity Verlet (Swope et al., J. Chem. Phys. 76, 637, 1982); Nosé-Hoover chains (Martyna, Klein and Tuckerman,
J. Chem. Phys. 97, 2635, 1992; Martyna et al., Mol. Phys. 87, 1117, 1996), the order of operations and the masses being
those of LAMMPS' ``fix nvt``; Verlet's neighbour list (Phys. Rev. 159, 98, 1967); corrections for what lies beyond the
cut-off (Allen and Tildesley, Computer Simulation of Liquids, section 2.8).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

try:
    import numpy as np
except ImportError:
    sys.exit("lj_md.py needs numpy: python -m pip install numpy (or install LAMMPS, which is faster)")

CUTOFF = 2.5
"""Distance at which the potential is truncated, sigma."""
SKIN = 0.4
"""How much farther the neighbour list reaches, sigma."""
CHAIN_LENGTH = 3
"""Thermostats in the chain: LAMMPS' default."""
MAX_ATOMS = 8000
"""The neighbour list is made from all pairs, which needs memory in proportion to the square of this."""
COLUMNS = ("Step", "Temp", "Press", "PotEng", "KinEng", "TotEng")

Array = Any
"""A numpy array of float64; coordinates are 3 x atoms."""


@dataclass(frozen=True)
class Study:
    """One state point and how it is sampled.

    Args:
        temperature: epsilon/k. ``density``: atoms per sigma^3.
        cells: FCC cells along an edge; 4 cells^3 atoms.
        steps: time steps of the second run. ``melt_steps``: of the first, at ``melt_temperature``.
        timestep: tau. ``damp``: relaxation time of the thermostat, tau.
        every: steps between two lines of the log.
        seed: of the initial velocities.
    """

    temperature: float
    density: float
    cells: int = 4
    steps: int = 10000
    melt_steps: int = 1000
    melt_temperature: float = 3.0
    timestep: float = 0.004
    damp: float = 0.5
    every: int = 10
    seed: int = 4711


def face_centred_cubic(cells: int, edge: float) -> Array:
    """Positions (3 x 4 cells^3) of a crystal that fills a box of length ``edge``."""
    basis = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    corners = np.array([[i, j, k] for i in range(cells) for j in range(cells) for k in range(cells)])
    return ((corners[:, None, :] + basis[None, :, :]).reshape(-1, 3) * (edge / cells)).T.copy()


def maxwell_velocities(atoms: int, temperature: float, seed: int) -> Array:
    """Velocities (3 x atoms) of a Maxwell distribution, without drift, of exactly this temperature."""
    velocities = np.random.default_rng(seed).normal(size=(3, atoms))
    velocities -= velocities.mean(axis=1, keepdims=True)
    return velocities * math.sqrt(temperature * (3 * atoms - 3) / float((velocities**2).sum()))


def tail_corrections(density: float) -> tuple[float, float]:
    """What lies beyond the cut-off adds to the energy per atom and to the pressure, if g(r) = 1 there."""
    near3, near9 = CUTOFF**-3, CUTOFF**-9
    energy = 8 / 3 * math.pi * density * (near9 / 3 - near3)
    pressure = 16 / 3 * math.pi * density**2 * (2 * near9 / 3 - near3)
    return energy, pressure


class Interactions:
    """Forces, energy and virial of atoms in a periodic cube, from a list of neighbours that is renewed when needed.

    Positions are never folded back into the box: the image that a pair interacts with is found when the list is made
    and stays the right one as long as the list is good.
    """

    def __init__(self, edge: float, atoms: int):
        if edge / 2 < CUTOFF + SKIN:
            raise ValueError(
                f"half of the box ({edge / 2:.2f} sigma) is shorter than the reach of the neighbour list "
                f"({CUTOFF + SKIN} sigma): more cells, or a lower density"
            )
        self.edge = edge
        self.atoms = atoms
        self.builds = 0
        self._pairs = np.triu_indices(atoms, k=1)
        self._listed_at: Array = None
        self._first: Array = None
        self._second: Array = None
        self._images: Array = None

    def _between(self, positions: Array, first: Array, second: Array) -> Array:
        apart = np.take(positions, first, axis=1, mode="clip")  # "clip" spares the check of each index
        apart -= np.take(positions, second, axis=1, mode="clip")
        return apart

    def _renew(self, positions: Array) -> None:
        first, second = self._pairs
        apart = self._between(positions, first, second)
        images = np.rint(apart / self.edge)
        images *= self.edge
        apart -= images
        near = np.flatnonzero(_squared(apart) < (CUTOFF + SKIN) ** 2)
        self._first, self._second, self._images = first[near], second[near], np.take(images, near, axis=1)
        self._listed_at = positions.copy()
        self.builds += 1

    def evaluate(self, positions: Array) -> tuple[Array, float, float]:
        """Forces (3 x atoms), potential energy and virial (sum of r·f over pairs) of the truncated potential."""
        if self._listed_at is None or _squared(positions - self._listed_at).max() > (SKIN / 2) ** 2:
            self._renew(positions)
        first, second = self._first, self._second
        apart = self._between(positions, first, second)
        apart -= self._images
        r2 = _squared(apart)
        inverse2 = 1.0 / r2
        inverse2[r2 >= CUTOFF**2] = 0.0
        inverse6 = inverse2 * inverse2 * inverse2
        inverse12 = inverse6 * inverse6
        virial = 24 * (2 * inverse12 - inverse6)
        apart *= virial * inverse2
        forces = np.stack(
            [
                np.bincount(first, weights=pull, minlength=self.atoms)
                - np.bincount(second, weights=pull, minlength=self.atoms)
                for pull in apart
            ]
        )
        return forces, 4 * float(inverse12.sum() - inverse6.sum()), float(virial.sum())


def _squared(vectors: Array) -> Array:
    """The squared lengths of vectors (3 x n)."""
    lengths = vectors[0] * vectors[0]
    lengths += vectors[1] * vectors[1]
    lengths += vectors[2] * vectors[2]
    return lengths


class NoseHooverChain:
    """A chain of thermostats: holds the mean temperature and lets it fluctuate as in the canonical ensemble."""

    def __init__(self, temperature: float, degrees: int, damp: float):
        self.temperature = temperature
        self.degrees = degrees
        self.masses = [temperature * damp**2] * CHAIN_LENGTH
        self.masses[0] *= degrees
        self.rates = [0.0] * CHAIN_LENGTH

    def half_step(self, kinetic: float, timestep: float) -> float:
        """Advance the chain by half a time step; the factor by which all velocities are to be multiplied.

        Args:
            kinetic: twice the kinetic energy.
            timestep: the whole time step.
        """
        rates, masses, last = self.rates, self.masses, CHAIN_LENGTH - 1
        quarter, eighth = timestep / 4, timestep / 8

        def push(link: int, source: float) -> None:
            brake = math.exp(-eighth * rates[link + 1]) if link < last else 1.0
            rates[link] = (rates[link] * brake + quarter * source / masses[link]) * brake

        def heat(link: int) -> float:
            return masses[link - 1] * rates[link - 1] ** 2 - self.temperature

        target = self.degrees * self.temperature
        for link in range(last, 0, -1):
            push(link, heat(link))
        push(0, kinetic - target)
        factor = math.exp(-timestep / 2 * rates[0])
        push(0, kinetic * factor**2 - target)
        for link in range(1, CHAIN_LENGTH):
            push(link, heat(link))
        return factor


def simulate(study: Study, log: TextIO) -> None:
    """Melt and sample one state point, writing its thermodynamics to ``log``.

    Raises:
        ValueError: the box is too small or the system too large for this code.
        ArithmeticError: the trajectory has blown up.
    """
    atoms = 4 * study.cells**3
    if atoms > MAX_ATOMS:
        raise ValueError(f"{atoms} atoms are too many for this code (at most {MAX_ATOMS}): use LAMMPS, or fewer cells")
    edge = (atoms / study.density) ** (1 / 3)
    interactions = Interactions(edge, atoms)
    positions = face_centred_cubic(study.cells, edge)
    velocities = maxwell_velocities(atoms, study.melt_temperature, study.seed)
    log.write(f"# lj_md.py: {atoms} atoms at density {study.density} in a cube of {edge:.7f} sigma\n")
    log.write(f"# cut-off {CUTOFF}, with tail corrections; time step {study.timestep}; seed {study.seed}\n")
    with np.errstate(all="ignore"):
        step = _run(study, interactions, positions, velocities, log, 0, study.melt_temperature, study.melt_steps)
        _run(study, interactions, positions, velocities, log, step, study.temperature, study.steps)


def _run(
    study: Study,
    interactions: Interactions,
    positions: Array,
    velocities: Array,
    log: TextIO,
    start: int,
    temperature: float,
    steps: int,
) -> int:
    """Advance ``positions`` and ``velocities`` in place; the number of the step after the last."""
    began = time.perf_counter()
    timestep, atoms = study.timestep, interactions.atoms
    volume, degrees = interactions.edge**3, 3 * atoms - 3
    energy_tail, pressure_tail = tail_corrections(study.density)
    thermostat = NoseHooverChain(temperature, degrees, study.damp)
    forces, potential, virial = interactions.evaluate(positions)
    log.write(f"# run of {steps} steps at temperature {temperature}\n")
    log.write(" ".join(f"{name:>12}" for name in COLUMNS) + "\n")
    twice_kinetic = float(np.vdot(velocities, velocities))
    for step in range(start, start + steps + 1):
        if step > start:
            factor = thermostat.half_step(twice_kinetic, timestep)
            velocities *= factor
            velocities += forces * (timestep / 2)
            positions += velocities * timestep
            forces, potential, virial = interactions.evaluate(positions)
            velocities += forces * (timestep / 2)
            twice_kinetic = float(np.vdot(velocities, velocities))
            factor = thermostat.half_step(twice_kinetic, timestep)
            velocities *= factor
            twice_kinetic *= factor**2
        if (step - start) % study.every == 0 or step == start + steps:
            kinetic, energy = twice_kinetic / 2 / atoms, potential / atoms + energy_tail
            pressure = (twice_kinetic + virial) / 3 / volume + pressure_tail
            values = (twice_kinetic / degrees, pressure, energy, kinetic, energy + kinetic)
            log.write(f"{step:12d} " + " ".join(f"{value:12.8g}" for value in values) + "\n")
            if not math.isfinite(energy + pressure + kinetic):
                raise ArithmeticError(f"the trajectory has blown up at step {step}: a smaller time step may help")
    log.write(f"Loop time of {time.perf_counter() - began:.6g} on 1 procs for {steps} steps with {atoms} atoms\n")
    log.write(f"Neighbor list builds = {interactions.builds}\n\n")
    return start + steps


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--density", type=float, required=True)
    parser.add_argument("--cells", type=int, default=Study.cells)
    parser.add_argument("--steps", type=int, default=Study.steps)
    parser.add_argument("--melt-steps", type=int, default=Study.melt_steps)
    parser.add_argument("--timestep", type=float, default=Study.timestep)
    parser.add_argument("--seed", type=int, default=Study.seed)
    parser.add_argument("--log", type=Path, default=Path("thermo.log"))
    options = vars(parser.parse_args())
    path = options.pop("log")
    try:
        with path.open("w", encoding="utf-8") as log:
            simulate(Study(**options), log)
    except (OSError, ValueError, ArithmeticError) as error:
        sys.exit(f"lj_md.py: {error}")


if __name__ == "__main__":
    main()
