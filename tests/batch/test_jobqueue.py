"""Which server gets which job, and when a job is given up."""

import pytest

from detex_pack.detex.batch.jobqueue import FAILURES_IN_A_ROW, JobQueue


def queue_of(*keys: str) -> JobQueue:
    return JobQueue(dict.fromkeys(keys, ()))


@pytest.fixture
def queue() -> JobQueue:
    return queue_of("j1", "j2")


def test_each_job_is_taken_once_in_the_order_of_the_table(queue):
    assert [queue.take("A"), queue.take("B"), queue.take("A")] == ["j1", "j2", None]
    assert queue.empty


def test_a_server_stays_with_what_it_has_loaded():
    queue = JobQueue({"d1": "dog", "d2": "dog", "c1": "cat", "c2": "cat", "d3": "dog"})
    assert [queue.take(server) for server in "ABABA"] == ["d1", "c1", "d2", "c2", "d3"]


def test_a_server_without_jobs_of_its_own_helps_with_the_largest_rest():
    queue = JobQueue({"a1": "ape", "d1": "dog", "d2": "dog", "d3": "dog", "c1": "cat", "c2": "cat"})
    assert [queue.take("A"), queue.take("B"), queue.take("C")] == ["a1", "d1", "c1"]
    assert queue.take("A") == "d2"  # two dogs were left, and one cat


def test_a_failed_job_is_tried_on_another_server_and_then_given_up(queue):
    queue.take("A")
    assert not queue.failed("j1", "A", "AB")
    assert queue.take("A") == "j2"  # not j1 again
    assert queue.take("B") == "j1"
    assert queue.failed("j1", "B", "AB")


def test_a_failed_job_is_not_repeated_on_the_only_server():
    queue = queue_of("j1")
    queue.take("A")
    assert queue.failed("j1", "A", "A")
    assert queue.empty


def test_a_third_server_is_not_tried():
    queue = queue_of("j1")
    queue.take("A")
    assert not queue.failed("j1", "A", "ABC")
    queue.take("B")
    assert queue.failed("j1", "B", "ABC")


def test_a_lost_job_is_the_next_one_of_any_server(queue):
    queue.take("A")
    assert not queue.lost("j1")
    assert queue.take("B") == "j1"


def test_a_job_that_takes_three_servers_down_is_given_up():
    queue, ends = queue_of("j1"), []
    for server in "ABC":
        queue.take(server)
        ends.append(queue.lost("j1"))
    assert ends == [False, False, True]


def test_what_failed_on_all_servers_that_are_left_is_given_up(queue):
    queue.take("A")
    queue.failed("j1", "A", "AB")  # B is the last hope
    assert queue.hopeless("AB") == []
    assert queue.hopeless("A") == ["j1"]
    assert queue.take("A") == "j2"
    assert queue.hopeless("A") == []


def test_without_any_server_the_jobs_wait_for_another_run(queue):
    queue.take("A")
    queue.failed("j1", "A", "AB")
    assert queue.hopeless("") == []
    assert queue.take("B") == "j1"


def test_what_a_server_has_already_is_adopted_unless_another_has_it(queue):
    assert queue.adopt("j2")
    assert queue.take("B") == "j1"
    assert not queue.adopt("j1")
    assert not queue.adopt("not in the table")


def test_failures_in_a_row_end_the_run_and_a_success_counts_anew():
    queue = queue_of(*map(str, range(30)))

    def fail() -> None:
        queue.failed(queue.take("A"), "A", "A")

    for _ in range(FAILURES_IN_A_ROW - 1):
        fail()
    queue.take("A")
    queue.done()
    for _ in range(FAILURES_IN_A_ROW):
        assert not queue.broken
        fail()
    assert queue.broken
