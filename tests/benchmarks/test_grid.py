"""Running a grid: workers that die, runs that resume, a report that admits its gaps."""

import difflib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import killed_grid
import psutil
import pytest

from detex_pack.benchmarks import cell, cells, disentangle, prompts, report
from detex_pack.benchmarks.cells import Cell, load, store
from detex_pack.benchmarks.disentangle import run_cells
from detex_pack.benchmarks.hypotheses import Grid, study
from detex_pack.benchmarks.measures import indices, measure, measured
from detex_pack.benchmarks.prompts import requests
from detex_pack.benchmarks.references import reference_scenes, reported_identities
from detex_pack.benchmarks.workers import Worker

SEEDS = [Cell("detex", reported_identities(1)[0], seed) for seed in range(5)]
# answers each line; dies without a word at seed 2
FRAGILE = """
import json, os, sys
for line in sys.stdin:
    seed = json.loads(line)["seed"]
    if seed == 2:
        os._exit(7)
    print(json.dumps({"seconds": {"train": seed}}), flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module, name, path in (
        (cells, "FILE", tmp_path / "cells.jsonl"),
        (report, "PAGE", tmp_path / "science.md"),
        (report, "FOLDER", tmp_path),
    ):
        monkeypatch.setattr(module, name, path)
    return tmp_path


@pytest.mark.parametrize("count", [1, 2])
def test_a_worker_that_dies_loses_its_cell_alone(count: int):
    answers = dict(run_cells(SEEDS, count, [sys.executable, "-c", FRAGILE]))
    assert "ended with status 7" in answers[SEEDS[2]]["error"]
    assert [answers[c]["seconds"]["train"] for c in SEEDS if c.seed != 2] == [0, 1, 3, 4]


def test_stopping_early_ends_the_workers():
    with closing(run_cells(SEEDS, 2, [sys.executable, "-c", FRAGILE])) as runs:
        next(runs)
        assert workers_left()
    assert not workers_left()


def test_a_worker_that_was_stopped_starts_no_process():
    """A thread may be about to start one when the grid is stopped."""
    worker = Worker([sys.executable, "-c", FRAGILE])
    worker.stop()
    with pytest.raises(RuntimeError, match="was stopped"):
        worker.ask({"seed": 0})
    assert not workers_left()


def workers_left() -> list[psutil.Process]:
    """Those still at work; seed 2's may be dead and not yet waited for."""
    left = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a dead one has no command line
            if FRAGILE in child.cmdline():
                left.append(child)
    return left


def test_no_cells_are_no_work():
    assert list(run_cells([], 2)) == []


def fake(of: Cell) -> dict:
    """What a cell would give whose every picture is as asked."""
    scenes = reference_scenes(of.identity, of.photos, of.rho, of.seed)
    words = of.arm not in ("base", "custom_diffusion", "textual_inversion")
    asked = requests(scenes, of.identity[0], words=words)
    seen = {name: str(index) * len(asked) for name, index in indices(of.identity).items()}
    for name in ("background", "position"):
        seen[name] = "".join(str(max(getattr(r, name), 0)) for r in asked)
    return {
        "judge": seen,
        "reader": seen,
        "plain": "0" * len(asked),
        "similarity": dict.fromkeys((r.kind for r in asked), 0.5),
        "seconds": {"train": 1.0},
        "device": "cpu",
        "commit": "abc",
        "date": "2026-01-01",
    }


def damage(one: Cell, old: str, new: str) -> None:
    """Change what stands in a cell's line."""
    lines = cells.FILE.read_text().splitlines(keepends=True)
    changed = [line.replace(old, new) if one.key in line else line for line in lines]
    cells.FILE.write_text("".join(changed))


def test_only_absent_and_damaged_cells_are_run_again(folder: Path, capsys):
    listed = SEEDS[:3]
    for c in listed[:2]:
        store(c, fake(c))
    assert disentangle.absent(listed) == [listed[2]]
    damage(listed[0], '"recipe"', "")
    assert disentangle.absent(listed) == [listed[0], listed[2]]
    assert "To be done again" in capsys.readouterr().out


def test_a_damaged_cell_is_never_averaged_in(folder: Path):
    of = Grid(reported_identities(2), 1, ("custom_diffusion", "detex"))
    for c in of.cells():
        store(c, fake(c))
    assert set(measured(of.cells())) == set(of.cells())
    gone = of.cells()[-1]
    damage(gone, '"plain": "0', '"plain": "1')
    assert set(measured(of.cells())) == set(of.cells()) - {gone}


def test_an_incomplete_grid_prints_the_missing_cells_and_no_p(folder: Path, capsys):
    of = Grid(reported_identities(2), 1, ("custom_diffusion", "detex"))
    for c in of.cells()[:-1]:
        store(c, fake(c))
    disentangle.print_hypotheses(of)
    told = capsys.readouterr().out
    assert "1 cells are missing" in told
    assert " p " not in told


def test_the_report_is_written_and_says_what_is_missing(folder: Path):
    listed = study("main", 2, 1).cells()
    for c in listed:
        store(c, fake(c))
    for name in ("arms", "register"):
        for c in study(name, 2).cells():
            store(c, fake(c))
    for c in study("on_places", 2, 1).cells():
        store(c, fake(c))
    page = report.write_report(2, 1)
    text = page.read_text()
    assert f"All {len(listed)} cells of the main grid are there" in text
    assert "missing cells" not in text
    register = text[text.index("## The open questions") : text.index("## Inside")]
    assert "**2, incomplete** | - |" in register
    assert not re.search(r"\([+-]\d", register)  # no interval
    for name in ("hypotheses.png", "arms.png"):
        assert 0 < (page.parent / name).stat().st_size < 150_000
    damage(next(c for c in listed if c.arm == "detex"), '"recipe"', "")
    text = report.write_report(2, 1).read_text()
    assert f"Incomplete: 1 of {len(listed)} cells" in text
    rows = [line for line in text.splitlines() if line.startswith("| H")]
    assert len(rows) == 6
    assert all("missing cells: 1 | - | - | -" in row for row in rows)


@pytest.mark.slow
def test_a_cell_learns_draws_and_repeats_itself(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompts, "COUNTS", dict.fromkeys(prompts.COUNTS, 2))
    monkeypatch.setattr(cell, "STRIPS", folder)
    one = Cell("improved", reported_identities(1)[0], steps=8)
    first, base = cell.run(one), cell.run(one.base)
    assert len(first["judge"]["shape"]) == 14
    store(one, first)
    values = measure(one, load(one), base)
    assert {"S", "E", "R_P", "R_PB", "D", "Q"} < set(values)
    kept = ("judge", "reader", "plain", "similarity")
    again = cell.run(one)
    assert [again[name] for name in kept] == [first[name] for name in kept]


def kill(process: subprocess.Popen) -> None:
    """SIGKILL, or TerminateProcess on Windows, to the process and to its workers."""
    whole = psutil.Process(process.pid)
    for one in (*whole.children(recursive=True), whole):
        with suppress(psutil.NoSuchProcess):  # it has just ended by itself
            one.kill()
    process.communicate()


@pytest.mark.slow
def test_a_grid_killed_at_random_moments_ends_complete_with_no_cell_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cells, "FILE", tmp_path / "cells.jsonl")
    monkeypatch.setenv("DETEX_CELLS", str(tmp_path / "cells.jsonl"))
    command = [sys.executable, killed_grid.__file__]
    dice, left = random.Random(0), []
    there = b""
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        left.append(int(process.stdout.readline()))
        for _ in range(dice.randint(1, 4)):
            process.stdout.readline()
        time.sleep(dice.random() * 0.5)  # into a file being written
        kill(process)
        for one in killed_grid.CELLS:
            assert load(one) in (None, killed_grid.RESULT)  # and no DamagedCell
        now = cells.FILE.read_bytes() if cells.FILE.exists() else b""
        assert now.startswith(there)
        there = now[: now.rfind(b"\n") + 1]
    assert left == sorted(set(left), reverse=True) and left[-1] > 0
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    assert all(load(one) == killed_grid.RESULT for one in killed_grid.CELLS)
    assert cells.FILE.read_bytes().startswith(there)
    assert cells.FILE.read_bytes().count(b"\n") == len(killed_grid.CELLS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "count", "hypotheses"),
    [
        ("--arms base --subjects 1 --seeds 1 --workers 1", 1, 0),
        ("--quick --subjects 1 --steps 60 --workers 2", 3, 2),
    ],
)
def test_the_command_runs_keeps_and_finds_its_cells(
    tmp_path: Path, root: Path, options: str, count: int, hypotheses: int
):
    command = [sys.executable, "-m", "benchmarks.disentangle", *options.split()]
    where = os.environ | {"DETEX_CELLS": str(tmp_path / "cells.jsonl")}
    told = [
        subprocess.run(command, cwd=root, env=where, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert f"0 of {count} cells are there; {count} to run" in told[0].stdout
    assert f"{count} of {count} cells are there; 0 to run" in told[1].stdout
    assert (tmp_path / "cells.jsonl").read_text().count("\n") == count
    for run in told:
        lines = [line for line in run.stdout.splitlines() if line.startswith(("H1", "H2"))]
        assert len(lines) == hypotheses
        assert all("the direction is " in line for line in lines)


def test_the_committed_page_says_what_its_cells_say(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every line, but for the report's date; arms that have no cell yet may have come since."""
    committed = (root / "docs" / "science.md").read_text().splitlines()
    shutil.copy(root / "docs" / "science" / "notes.md", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "science.md")
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    written = report.write_report().read_text().splitlines()
    changed = [
        line
        for line in difflib.unified_diff(committed, written, lineterm="", n=0)
        if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]
    dated = ("- Report: ", "  torch ", "(This page is of an earlier run")
    unlike = [line for line in changed if not line[1:].startswith(dated) and line != "-"]
    assert all(line.startswith("+") and "**0, incomplete**" in line for line in unlike), unlike
