"""Which server gets which job, and when a job is given up."""

import threading

import pytest

from detex_pack.detex.render.schedule import FAILURES_IN_A_ROW, Schedule


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(["j1", "j2"], ["A", "B"])


def test_each_job_is_taken_once_in_the_order_of_the_table(schedule):
    assert [schedule.take("A"), schedule.take("B"), schedule.take("A")] == ["j1", "j2", None]


def test_equal_jobs_are_one():
    schedule = Schedule(["j1", "j1"], ["A"])
    assert [schedule.take("A"), schedule.take("A")] == ["j1", None]


def test_it_is_finished_when_nothing_waits_or_runs(schedule):
    for key in (schedule.take("A"), schedule.take("B")):
        assert not schedule.finished
        schedule.done(key)
    assert schedule.finished


class Watched(set):
    """Jobs in flight; while one comes or goes, another thread asks whether all is finished."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.seen, self.threads = schedule, [], []

    def look(self) -> None:
        thread = threading.Thread(target=lambda: self.seen.append(self.schedule.finished))
        thread.start()
        thread.join(0.2)  # it answers now, or waits until the job has arrived
        self.threads.append(thread)

    def add(self, key: str) -> None:
        self.look()
        super().add(key)

    def discard(self, key: str) -> None:
        super().discard(key)
        self.look()


def test_a_job_that_changes_hands_is_not_taken_for_finished():
    schedule = Schedule(["j1"], ["A", "B"])
    schedule._in_flight = watched = Watched(schedule)
    schedule.take("A")
    schedule.lost("j1")
    for thread in watched.threads:
        thread.join()
    assert watched.seen == [False, False]


def test_a_failed_job_is_tried_on_another_server_and_then_given_up(schedule):
    schedule.take("A")
    assert not schedule.failed("j1", "A")
    assert schedule.take("A") == "j2"  # not j1 again
    assert schedule.take("B") == "j1"
    assert schedule.failed("j1", "B")


def test_a_failed_job_is_not_repeated_on_the_only_server():
    schedule = Schedule(["j1"], ["A"])
    schedule.take("A")
    assert schedule.failed("j1", "A")
    assert schedule.finished


def test_a_third_server_is_not_tried():
    schedule = Schedule(["j1"], "ABC")
    schedule.take("A")
    assert not schedule.failed("j1", "A")
    schedule.take("B")
    assert schedule.failed("j1", "B")


def test_a_lost_job_is_the_next_one_of_any_server(schedule):
    schedule.take("A")
    assert not schedule.lost("j1")
    assert schedule.take("B") == "j1"


def test_a_job_that_takes_three_servers_down_is_given_up():
    schedule = Schedule(["j1"], "ABCD")
    ends = []
    for server in "ABC":
        schedule.take(server)
        ends.append(schedule.lost("j1"))
    assert ends == [False, False, True]


def test_when_a_server_leaves_what_failed_on_all_others_is_given_up(schedule):
    schedule.take("A")
    schedule.failed("j1", "A")  # B is the last hope
    assert schedule.leave("B") == ["j1"]
    assert schedule.take("A") == "j2"
    assert not schedule.leave("B")


def test_when_all_servers_have_left_the_jobs_wait_for_another_run(schedule):
    schedule.take("A")
    schedule.failed("j1", "A")
    schedule.leave("A")
    assert schedule.leave("B") == []
    assert (schedule.servers, schedule.finished) == (0, False)
    schedule.come("B")
    assert schedule.take("B") == "j1"


def test_what_a_server_has_already_is_adopted_unless_another_has_it(schedule):
    assert schedule.adopt("j2")
    assert schedule.take("B") == "j1"
    assert not schedule.adopt("j1")
    assert not schedule.adopt("not in the table")


def test_failures_in_a_row_end_the_run_and_a_success_counts_anew():
    schedule = Schedule([str(n) for n in range(30)], ["A"])
    for _ in range(FAILURES_IN_A_ROW - 1):
        schedule.failed(schedule.take("A"), "A")
    schedule.done(schedule.take("A"))
    for _ in range(FAILURES_IN_A_ROW):
        assert not schedule.broken
        schedule.failed(schedule.take("A"), "A")
    assert schedule.broken
