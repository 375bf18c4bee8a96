"""The folder of results: kept by content, shown by row, never half written."""

import csv
import io
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from simulated import Simulated

from detex_pack.detex.batch.job import Job
from detex_pack.detex.batch.meter import Meter
from detex_pack.detex.batch.progress import status, write_progress
from detex_pack.detex.batch.run import Run, Task
from detex_pack.detex.batch.server import Ending
from detex_pack.detex.batch.sheet import ON_A_PAGE, write_sheet
from detex_pack.detex.batch.store import JobStore, Record
from detex_pack.detex.batch.view import View
from detex_pack.detex.concept.files import replace_file

DONE = Record("done", "http://a", 1.25)


def job(row: int, key: str, stem: str = "") -> Job:
    return Job(row, "", stem or f"{row:04d}", key, {})


def shown(path: Path) -> dict[str, bytes]:
    """What a user sees: the pictures by name."""
    return {f.name: f.read_bytes() for f in path.glob("*.png")}


def listed(path: Path) -> list[dict[str, str]]:
    """The lines of results.csv."""
    with (path / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def store(out: Path):
    with JobStore(out / ".jobs") as opened:
        yield opened


def arranged(out: Path, store: JobStore, *jobs: Job) -> View:
    view = View(out, store, jobs)
    view.arrange()
    view.write_results()
    return view


def test_a_kept_job_is_found_by_the_next_run(out):
    with JobStore(out) as first:
        first.keep("k", DONE, [("1.png", b"red")])
    with JobStore(out) as second:
        record = second.record("k")
        assert (record.status, record.server, record.seconds) == ("done", "http://a", 1.25)
        assert list(record.files) == ["1.png"]
        assert second.file("k", "1.png").read_bytes() == b"red"


def test_a_job_whose_files_do_not_all_come_leaves_nothing(store):
    def files():
        yield "1.png", b"red"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.keep("k", DONE, files())
    assert store.record("k") is None
    assert [path.name for path in store.path.iterdir()] == ["lock"]


def test_what_a_killed_run_left_half_done_is_cleared(out):
    (out / "k.123.part").mkdir(parents=True)
    with JobStore(out) as store:
        assert store.record("k") is None
    assert not (out / "k.123.part").exists()


def test_the_first_result_of_a_job_stays(store):
    store.keep("k", DONE, [("1.png", b"first")])
    store.keep("k", DONE, [("1.png", b"second")])
    assert store.file("k", "1.png").read_bytes() == b"first"


def test_failures_are_forgotten_on_request_and_successes_are_not(out):
    with JobStore(out) as store:
        store.keep("bad", Record("failed", error="no memory"))
        store.keep("good", DONE)
        store.forget_failures()
    with JobStore(out) as store:
        assert store.record("bad") is None and store.record("good")


def test_what_was_asked_for_is_known_to_the_next_run(out):
    with JobStore(out) as store:
        store.note_queued("p1", "k1", "A")
        store.note_queued("p2", "k2", "A")
        store.note_home("A", "p1")
        store.note_queued("p3", "k3", "B")
    with JobStore(out) as store:
        assert store.queued_at("A") == {"p2": "k2"}


def test_two_runs_do_not_work_in_one_folder(out, store):
    with pytest.raises(ValueError, match=f"Another run works in {out}"):
        JobStore(out / ".jobs").__enter__()


def test_one_file_is_named_after_the_row_several_are_numbered(out, store):
    store.keep("one", DONE, [("1.png", b"a")])
    store.keep("two", DONE, [("1.png", b"b"), ("2.png", b"c")])
    arranged(out, store, job(1, "one", "0001_red"), job(2, "two"))
    assert shown(out) == {"0001_red.png": b"a", "0002_1.png": b"b", "0002_2.png": b"c"}


def test_rows_that_are_equal_show_the_same_picture(out, store):
    store.keep("k", DONE, [("1.png", b"a")])
    arranged(out, store, job(1, "k"), job(2, "k"))
    assert shown(out) == {"0001.png": b"a", "0002.png": b"a"}


def test_pictures_follow_their_rows(out, store):
    store.keep("a", DONE, [("1.png", b"a")])
    store.keep("b", DONE, [("1.png", b"b")])
    arranged(out, store, job(1, "a"), job(2, "b"))
    arranged(out, store, job(1, "new"), job(2, "b", "0002_cube"), job(3, "a"))
    assert shown(out) == {"0002_cube.png": b"b", "0003.png": b"a"}


def test_a_row_that_is_changed_back_has_its_picture_again(out, store):
    store.keep("a", DONE, [("1.png", b"a")])
    arranged(out, store, job(1, "a"))
    arranged(out, store, job(1, "b"))
    assert shown(out) == {}
    arranged(out, store, job(1, "a"))
    assert shown(out) == {"0001.png": b"a"}


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def by_a_new_file(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def in_its_old_size_and_time(path: Path, content: bytes) -> None:
    before = path.stat()
    path.write_bytes(content[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(params=[in_place, by_a_new_file, in_its_old_size_and_time])
def painted(request, out, store) -> bytes:
    """What a user has made of row 1's picture."""
    store.keep("a", DONE, [("1.png", b"a")])
    arranged(out, store, job(1, "a"))
    request.param(out / "0001.png", b"painted over")
    return (out / "0001.png").read_bytes()


def test_a_picture_that_a_user_has_changed_is_not_thrown_away(painted, out, store):
    arranged(out, store, job(1, "a"))
    with pytest.raises(ValueError, match=r"0001.png stands where a result will come"):
        arranged(out, store, job(1, "b"))
    store.keep("b", DONE, [("1.png", b"b")])
    with pytest.raises(ValueError, match=r"0001.png stands where a result will come"):
        arranged(out, store, job(1, "b"))
    arranged(out, store)  # the row is gone; its picture may stay
    assert shown(out) == {"0001.png": painted}


def test_a_user_s_changes_do_not_reach_what_is_kept(painted, out, store):
    arranged(out, store, job(1, "a"), job(2, "a"))
    assert shown(out) == {"0001.png": painted, "0002.png": b"a"}


def test_a_changed_picture_is_not_listed_as_a_rendering(painted, out, store):
    arranged(out, store, job(1, "a"), job(2, "a"))
    assert [line["files"] for line in listed(out)] == ["", "0002.png"]


def test_a_file_that_comes_during_the_run_is_neither_replaced_nor_listed(out, store):
    view = arranged(out, store, job(1, "a"))
    (out / "0001.png").write_bytes(b"mine")
    store.keep("a", DONE, [("1.png", b"a")])
    view.show(job(1, "a"))
    view.write_results()
    assert shown(out) == {"0001.png": b"mine"}
    assert listed(out)[0]["files"] == ""


def test_what_is_deleted_from_the_store_is_rendered_and_shown_again(out):
    with JobStore(out / ".jobs") as store:
        view = arranged(out, store, job(1, "a"), job(2, "b"))
        for key in "ab":
            store.keep(key, DONE, [("1.png", key.encode())])
        view.show(job(1, "a"))
        view.show(job(2, "b"))
    shutil.rmtree(out / ".jobs" / "a" / "a")
    with JobStore(out / ".jobs") as store:
        view = arranged(out, store, job(1, "a"), job(2, "b"))
        assert shown(out) == {"0002.png": b"b"}
        store.keep("a", DONE, [("1.png", b"a once more")])
        view.show(job(1, "a"))
    assert shown(out) == {"0001.png": b"a once more", "0002.png": b"b"}


def test_a_changed_picture_stops_the_run_where_its_job_is_kept_no_more(painted, out, store):
    store.__exit__()
    shutil.rmtree(out / ".jobs" / "a" / "a")
    with (
        JobStore(out / ".jobs") as next_store,
        pytest.raises(ValueError, match=r"0001.png stands .* it was changed since"),
    ):
        arranged(out, next_store, job(1, "a"))
    assert shown(out) == {"0001.png": painted}


def test_without_shown_jsonl_pictures_are_known_by_their_content(out, store):
    store.keep("a", DONE, [("1.png", b"a")])
    arranged(out, store, job(1, "a"))
    (out / ".jobs" / "shown.jsonl").unlink()
    (out / "results.csv").unlink()
    arranged(out, store, job(1, "a"))
    arranged(out, store, job(2, "a"))
    assert shown(out) == {"0002.png": b"a"}


@pytest.mark.parametrize("text", ["{\n", "[1]\n", "\0\0\0\n"])
def test_a_damaged_shown_jsonl_is_named_with_its_remedy(text, out, store):
    (out / ".jobs" / "shown.jsonl").write_text(text)
    told = rf"{re.escape(str(out))}.*shown.jsonl is damaged.*Delete it and results.csv"
    with pytest.raises(ValueError, match=told):
        arranged(out, store, job(1, "a"))


def test_a_line_that_a_crash_left_half_written_is_passed_over(out, store):
    store.keep("a", DONE, [("1.png", b"a")])
    arranged(out, store, job(1, "a"))
    with (out / ".jobs" / "shown.jsonl").open("a") as file:
        file.write('["0002.png", "12')
    arranged(out, store, job(1, "a"))
    assert shown(out) == {"0001.png": b"a"}


DAMAGED = ["", "{", "[1]", "\0\0\0"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_queued_json_is_named_with_its_remedy(text, out):
    out.mkdir()
    (out / "queued.json").write_text(text)
    told = rf"{re.escape(str(out))}.*queued.json is damaged.*Delete it; "
    with pytest.raises(ValueError, match=told), JobStore(out):
        pass
    (out / "queued.json").unlink()
    with JobStore(out) as store:  # the folder is not held by the one that failed
        assert store.queued_at("A") == {}


@pytest.mark.parametrize("text", [*DAMAGED, "{}", '{"status": "done", "files": ["1.png"]}'])
def test_a_damaged_record_is_named_with_its_remedy(text, out):
    (out / "k" / "k").mkdir(parents=True)
    (out / "k" / "k" / "record.json").write_text(text)
    told = rf"record.json is damaged.*Delete the folder {re.escape(str(out / 'k' / 'k'))}; "
    with pytest.raises(ValueError, match=told), JobStore(out):
        pass


def test_a_file_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, c=call: (done.append(n), c(*a)))
    replace_file(tmp_path / "file", b"new")
    assert done == ["fsync", "replace"]


def test_a_file_that_a_scanner_holds_for_a_moment_is_replaced_all_the_same(tmp_path, monkeypatch):
    replace, refused = os.replace, [PermissionError("held"), PermissionError("held")]

    def held_for_a_moment(source, target) -> None:
        if refused:
            raise refused.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", held_for_a_moment)
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_half_files_of_a_crash_are_cleared_away(out):
    (out / "k.1.part").mkdir(parents=True)
    (out / ".queued.json.1.part").write_bytes(b"half")
    with JobStore(out):
        assert not list(out.glob("*.part"))


@pytest.mark.parametrize("name", ["0001.png", "0001_2.png", "results.csv"])
def test_a_file_of_someone_else_is_not_overwritten(name, out, store):
    (out / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"{name} stands .* Move it away, or choose another --out"):
        arranged(out, store, job(1, "a"))
    assert (out / name).read_bytes() == b"mine"


def test_other_files_may_lie_in_the_folder(out, store):
    (out / "jobs.csv").write_text("text\n")
    arranged(out, store, job(1, "a"))
    assert (out / "jobs.csv").exists()


def test_results_has_a_line_for_each_row(out, store):
    store.keep("a", DONE, [("1.png", b"a"), ("2.png", b"b")])
    store.keep("b", Record("failed", "http://b", error="node 3 (KSampler): no memory"))
    arranged(out, store, job(1, "a"), job(2, "b"), job(3, "c"))
    lines = listed(out)
    assert [line["status"] for line in lines] == ["done", "failed", "waiting"]
    assert [line["row"] for line in lines] == ["1", "2", "3"]
    assert lines[0]["files"] == "0001_1.png; 0001_2.png"
    assert (lines[0]["server"], lines[0]["seconds"]) == ("http://a", "1.2")
    assert lines[1]["error"] == "node 3 (KSampler): no memory"


def test_the_meter_tells_how_far_it_is(out, store):
    store.keep("a", DONE)
    now = [100.0]
    jobs = [job(1, "a"), job(2, "b"), job(3, "c"), job(4, "d")]
    run = Run({}, jobs, store, View(out, store, jobs), Simulated({"A": [], "B": []}))
    run.present = {"A", "B"}
    meter = Meter(run, io.StringIO(), clock=lambda: now[0])
    assert meter.line() == "[######------------------] 1/4, 2 servers"
    run._on_ending(Task("A", "b"), Ending("done"))
    now[0] += 120
    left = "120.0 s a job, 4 min left"
    assert meter.line() == f"[############------------] 2/4, 2 servers, {left}"


def test_a_log_gets_notes_at_once_and_a_line_now_and_then(out, store):
    now, log = [0.0], io.StringIO()
    run = Run({}, [job(1, "a")], store, View(out, store, []), Simulated({"A": []}))
    run.present = {"A"}
    meter = Meter(run, log, clock=lambda: now[0])
    meter.show()
    run._on_ending(Task("A", "a"), Ending("failed", "node 3 (KSampler): no memory"))
    now[0] = 31.0
    meter.show()
    assert log.getvalue().splitlines() == [
        "Row 1 failed on A: node 3 (KSampler): no memory",
        "[########################] 1/1, 1 failed, 1 server, 31.0 s a job, 0 s left",
    ]


def test_results_have_the_row_s_values(out, store):
    row = Job(1, "", "0001", "a", {}, {"seed": "7", "server": "mine"})
    View(out, store, [row], ("seed", "server", "text")).write_results()
    (line,) = listed(out)
    assert (line["seed"], line["server (set)"], line["text"]) == ("7", "mine", "")


def test_a_long_table_s_pictures_lie_in_folders_and_move_there(out, store):
    store.keep("k", DONE, [("1.png", b"a")])
    arranged(out, store, job(7, "k", "0007"))
    arranged(out, store, job(7, "k", "00/00007"))
    assert not shown(out)
    assert (out / "00" / "00007.png").read_bytes() == b"a"
    (out / "01").mkdir()
    (out / "01" / "01234.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"01234.png stands where a result will come"):
        arranged(out, store, job(1234, "b", "01/01234"))


def test_the_contact_sheet_labels_each_picture_and_has_pages(out, store):
    store.keep("k", DONE, [("1.png", b"a"), ("2.mp4", b"b")])
    rows = [
        Job(n, "<dog>", f"{n:04d}", "k", {}, {"text": "a & b"}) for n in range(1, ON_A_PAGE + 2)
    ]
    view = arranged(out, store, *rows)
    write_sheet(view)
    first, second = ((out / f"contact_sheet{n}.html").read_text() for n in ("", "_2"))
    assert (first.count("<img"), second.count("<img")) == (ON_A_PAGE, 1)
    assert '<img loading="lazy" src="0001_1.png"' in first and "0001_2.mp4</a>" in first
    assert "<b>501 &lt;dog&gt;</b><br>text: a &amp; b" in second


def test_status_tells_what_runs_where_and_how_long_it_takes(out, store):
    store.keep("a", DONE)
    jobs = [job(1, "a"), job(2, "b"), job(3, "c")]
    run = Run({}, jobs, store, View(out, store, jobs), Simulated({"A": [], "B": []}))
    begun = time.time() - 120
    run.tasks["call"] = Task("B", "c", "p", time.time() - 90)
    run._on_ending(Task("A", "b"), Ending("done"))
    write_progress(run, begun)
    told = status(out).splitlines()
    assert told[0] == "2 of 3 rows done, 0 failed, 1 open."
    assert told[1].startswith("Running since ")
    assert told[2:] == [
        "1 rows in 2 min: 120.0 s a row, 2 min left at this pace.",
        "  row 3 on B for 2 min",
        "  A does not answer",
        "  B does not answer",
    ]
    store.__exit__()
    assert status(out).endswith("at this pace.")
    assert "stopped 0 s ago. Run the same command again to go on." in status(out)
