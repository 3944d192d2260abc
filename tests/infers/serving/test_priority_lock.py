import threading
import time

from infers.serving.priority_lock import PriorityLock


def test_a_person_goes_before_the_job_that_gives_way():
    gate, order = PriorityLock(), []
    job_holds, person_waits = threading.Event(), threading.Event()

    def job():
        with gate.background():
            job_holds.set()
            person_waits.wait()
            while not gate._waiting:
                time.sleep(0.001)
            gate.give_way()
            order.append("job")

    def person():
        job_holds.wait()
        person_waits.set()
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


def test_giving_way_to_nobody_costs_nothing_and_errors_free_the_gate():
    gate = PriorityLock()
    try:
        with gate.background():
            gate.give_way()
            raise ValueError
    except ValueError:
        pass
    with gate.interactive():
        pass


def run_all(*functions):
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
