"""The code behind examples/melt: its forces, its statistics, how it reads logs, and the published values it is held to."""

from __future__ import annotations

import importlib
import io
import math
import random
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MELT = Path(__file__).resolve().parents[2] / "examples" / "melt"

LOG = """\
LAMMPS (29 Sep 2021 - Update 2)
thermo_style    custom step temp press pe ke etotal
run             20
Step Temp Press PotEng KinEng TotEng
       0            3   -1.7559449   -6.3245   4.4824219   -1.8421
WARNING: Temperature for thermo pressure is not for group all (src/thermo.cpp:486)
      10    2.5147801    1.1246281   -5.5987   3.7574586   -1.8412
      20    1.6441421    5.3412154   -4.2987   2.4565873   -1.8421
Loop time of 0.164554 on 1 procs for 20 steps with 256 atoms

Performance: 2819513.476 tau/day, 8158.314 timesteps/s
Nlocal:        256.000 ave         256 max         256 min
   Step          Temp          Press          PotEng         KinEng         TotEng
        20   1.6441421    5.3412154   -4.2987   2.4565873   -1.8421
        30   1.5          5.0         -4.2      2.4         -1.8
Loop time of 1.5 on 1 procs for 10 steps with 256 atoms
"""


@pytest.fixture(autouse=True)
def _examples_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(MELT))


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def correlated(count: int, memory: float, rng: random.Random) -> list[float]:
    """An autoregressive series of mean 0; the standard error of its mean is known, see :func:`exact_error`."""
    value = rng.gauss(0, 1) / math.sqrt(1 - memory**2)
    series = []
    for _ in range(count):
        series.append(value)
        value = memory * value + rng.gauss(0, 1)
    return series


def exact_error(count: int, memory: float) -> float:
    return 1 / (1 - memory) / math.sqrt(count)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_block_average_knows_the_error_of_correlated_samples(memory: float) -> None:
    rng = random.Random(20240501)
    count = 4000
    found = [module("averages").block_average(correlated(count, memory, rng)) for _ in range(60)]
    exact = exact_error(count, memory)
    assert sum(average.error for average in found) / len(found) == pytest.approx(exact, rel=0.15)
    scatter = math.sqrt(sum((average.mean / average.error) ** 2 for average in found) / len(found))
    assert 0.7 < scatter < 1.3, "means must scatter as their errors say"


def test_block_average_tells_that_a_run_is_too_short() -> None:
    rng = random.Random(5)
    assert not module("averages").block_average(correlated(500, 0.995, rng)).converged
    with pytest.raises(ValueError, match="too few"):
        module("averages").block_average([1.0, 2.0])


def test_the_beginning_is_left_out() -> None:
    rng = random.Random(7)
    series = [value + 12 * math.exp(-place / 40) for place, value in enumerate(correlated(2000, 0.8, rng))]
    assert 20 <= module("averages").equilibrated_from(series) <= 250
    assert module("averages").equilibrated_from(correlated(2000, 0.0, rng)) <= 200
    rising = [float(place) for place in range(1000)]
    assert module("averages").equilibrated_from(rising) >= 490, "half of the run at most"


def test_log_with_several_runs_and_warnings() -> None:
    first, second = module("thermolog").parse_log(LOG)
    assert first.column("Step") == [0, 10, 20]
    assert first.column("Press")[1] == 1.1246281
    assert second.column("Temp") == [1.6441421, 1.5]
    assert (first.complete, second.complete, second.seconds) == (True, True, 1.5)
    with pytest.raises(ValueError, match="no column Enthalpy, only Step, Temp"):
        first.column("Enthalpy")


def test_log_that_was_cut_off() -> None:
    cut = LOG[: LOG.index("        30   1.5") + 40]
    last = module("thermolog").parse_log(cut)[-1]
    assert last.column("Step") == [20], "nobody knows what half a line would have become"
    assert not last.complete
    assert (
        module("thermolog").find_error(LOG + "ERROR: Lost atoms: original 256 current 250\n").startswith("ERROR: Lost")
    )


def test_log_without_numbers(tmp_path: Path) -> None:
    path = tmp_path / "thermo.log"
    path.write_bytes(b"LAMMPS \xff\xfe\nERROR: Unknown command\n")
    with pytest.raises(ValueError, match="no thermodynamic output"):
        module("thermolog").read_log(path)


def test_equation_of_state_is_consistent_and_near_published_simulations() -> None:
    johnson = module("johnson")
    step = 1e-4
    for temperature, density in ((0.85, 0.82), (1.0, 0.7), (1.5, 0.8), (3.0, 0.9), (2.0, 0.2)):
        by_density = (
            (johnson.energy(temperature, density + step) - johnson.energy(temperature, density - step)) / 2 / step
        )
        by_heat = (
            (johnson.pressure(temperature + step, density) - johnson.pressure(temperature - step, density)) / 2 / step
        )
        from_pressure = (johnson.pressure(temperature, density) - temperature * by_heat) / density**2
        assert by_density == pytest.approx(from_pressure, rel=1e-5), "du/drho follows from p in thermodynamics"
    # NIST Standard Reference Simulation Website, Monte Carlo, full potential: u and p at two state points.
    assert johnson.energy(0.85, 0.82) == pytest.approx(-5.7947, abs=0.02)
    assert johnson.pressure(0.85, 0.82) == pytest.approx(0.55355, abs=0.02)
    assert johnson.energy(0.90, 0.86) == pytest.approx(-5.9753, abs=0.02)
    assert johnson.pressure(0.90, 0.86) == pytest.approx(1.5781, abs=0.03)


def disordered(cells: int, edge: float) -> Any:
    numpy, lj_md = module("numpy"), module("lj_md")
    positions = lj_md.face_centred_cubic(cells, edge)
    return positions + numpy.random.default_rng(3).normal(scale=0.08, size=positions.shape)


def test_forces_are_the_slope_of_the_energy_and_the_virial_that_of_the_volume() -> None:
    lj_md = module("lj_md")
    cells, edge = 4, 7.0
    positions = disordered(cells, edge)
    atoms = positions.shape[1]
    interactions = lj_md.Interactions(edge, atoms)
    forces, _, virial = interactions.evaluate(positions)
    assert abs(forces.sum(axis=1)).max() < 1e-9, "action equals reaction"
    step = 1e-6

    def energy(moved: Any, length: float = edge) -> float:
        return float(lj_md.Interactions(length, atoms).evaluate(moved)[1])

    for axis, atom in ((0, 0), (1, 17), (2, 200)):
        there, back = positions.copy(), positions.copy()
        there[axis, atom] += step
        back[axis, atom] -= step
        slope = (energy(there) - energy(back)) / 2 / step
        assert forces[axis, atom] == pytest.approx(-slope, rel=1e-5, abs=1e-5)
    grown = energy(positions * (1 + 1e-7), edge * (1 + 1e-7)) - energy(positions * (1 - 1e-7), edge * (1 - 1e-7))
    assert virial == pytest.approx(-grown / 2e-7, rel=1e-5)


def test_trajectory_keeps_the_thermostat_s_temperature() -> None:
    lj_md, thermolog, averages = module("lj_md"), module("thermolog"), module("averages")
    log = io.StringIO()
    lj_md.simulate(lj_md.Study(2.0, 0.5, cells=3, steps=4000, melt_steps=200), log)
    melted, sampled = thermolog.parse_log(log.getvalue())
    assert melted.complete
    assert sampled.complete
    assert sampled.column("Step")[-1] == 4200
    temperature = averages.block_average(sampled.column("Temp")[100:])
    assert temperature.mean == pytest.approx(2.0, abs=5 * temperature.error + 0.01)


def test_both_codes_start_from_the_same_crystal(tmp_path: Path) -> None:
    """Energy and pressure of the perfect crystal have no noise: they agree to the digits that are printed."""
    lmp = shutil.which("lmp")
    if lmp is None:
        pytest.skip("LAMMPS is not installed: sudo apt install lammps")
    thermolog, lj_md = module("thermolog"), module("lj_md")
    words = [lmp, "-in", str(MELT / "in.melt"), "-log", "thermo.log", "-screen", "none"]
    for name, value in {"T": 1.5, "rho": 0.8, "melt": 10, "steps": 10}.items():
        words += ["-var", name, str(value)]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=60, stdin=subprocess.DEVNULL)
    log = io.StringIO()
    lj_md.simulate(lj_md.Study(1.5, 0.8, melt_steps=10, steps=10), log)
    theirs, ours = thermolog.read_log(tmp_path / "thermo.log")[0], thermolog.parse_log(log.getvalue())[0]
    assert theirs.columns == ours.columns
    for name in ("Temp", "Press", "PotEng", "KinEng"):
        assert ours.column(name)[0] == pytest.approx(theirs.column(name)[0], rel=2e-7), name
