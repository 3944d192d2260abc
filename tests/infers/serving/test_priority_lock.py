import threading
from contextlib import suppress

from infers.serving.priority_lock import PriorityLock
from tests.infers.fakes import wait_until

SECONDS = 60


def test_a_person_goes_before_the_job_that_gives_way():
    gate, order = PriorityLock(), []
    job_holds = threading.Event()

    def job():
        with gate.background():
            job_holds.set()
            wait_until(lambda: gate.waiting == 1)
            gate.give_way()
            order.append("job")

    def person():
        assert job_holds.wait(SECONDS)
        with gate.interactive():
            order.append("person")

    run_all(job, person)
    assert order == ["person", "job"]


def test_only_one_computes_at_a_time():
    gate, inside, most = PriorityLock(), [], []

    def compute(turn):
        for _ in range(50):
            with turn():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    run_all(*[lambda: compute(gate.interactive)] * 3, lambda: compute(gate.background))
    assert max(most) == 1


def test_giving_way_to_nobody_keeps_the_turn_and_an_error_ends_it():
    gate, order = PriorityLock(), []

    def job():
        with suppress(ValueError), gate.background():
            gate.give_way()
            threading.Thread(target=person, daemon=True).start()
            wait_until(lambda: gate.waiting == 1)
            order.append("job")
            raise ValueError

    def person():
        with gate.interactive():
            order.append("person")

    run_all(job)
    wait_until(lambda: order == ["job", "person"])


def run_all(*functions):
    """Run functions in threads of their own; pytest fails the test in which a thread raises."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
