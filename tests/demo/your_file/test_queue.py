"""The line for child processes: never more than places, in order, and one that leaves delays no other."""

from __future__ import annotations

import threading
import time

import pytest

from onnxferry.demo.your_file.queue import Line


def test_no_more_than_there_are_places_and_in_order() -> None:
    line, gate = Line(2), threading.Event()
    inside, most, order = [0], [0], list[int]()
    lock = threading.Lock()

    def visitor(number: int) -> None:
        with line.place():
            with lock:
                order.append(number)
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            gate.wait(30)
            with lock:
                inside[0] -= 1

    threads = []
    for number in range(6):
        threads.append(threading.Thread(target=visitor, args=(number,)))
        threads[-1].start()
        while number >= 2 and len(line._waiting) < number - 1:
            time.sleep(0.001)
        while number < 2 and len(order) <= number:
            time.sleep(0.001)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert most == [2]
    assert sorted(order[:2]) == [0, 1]
    assert sorted(order[2:]) == [2, 3, 4, 5]


def test_the_place_is_shown_and_who_leaves_holds_nobody_up() -> None:
    line, seen = Line(1), list[int]()

    def shown(before: int) -> None:
        seen.append(before)
        raise InterruptedError

    with line.place(), pytest.raises(InterruptedError), line.place(shown):
        pass
    assert seen == [0]
    with line.place(shown):
        pass
    assert seen == [0]


def test_an_error_inside_gives_the_place_back() -> None:
    line = Line(1)
    with pytest.raises(ValueError, match="x"), line.place():
        raise ValueError("x")
    with line.place(lambda _: pytest.fail("the place was not free")):
        pass
