from __future__ import annotations

from marketd.feed.continuity import DUPLICATE, IN_ORDER, RENUMBERED, Contiguous, Rising


def test_first_number_is_in_order_whatever_it_is():
    assert Contiguous().accept(5_000_000, 10) == IN_ORDER
    assert Contiguous().accept(0, 10) == IN_ORDER


def test_hole_tells_how_many_and_since_when():
    ids = Contiguous()
    assert [ids.accept(7, 100), ids.accept(8, 110), ids.accept(12, 150)] == [IN_ORDER, IN_ORDER, 3]
    assert (ids.hole_from_ns, ids.last_ns) == (110, 150)
    assert ids.accept(13, 150) == IN_ORDER


def test_duplicate_leaves_the_state_as_it_was():
    ids = Contiguous()
    for number in (7, 8, 9):
        ids.accept(number, 100 + number)
    assert [ids.accept(9, 109), ids.accept(7, 107)] == [DUPLICATE, DUPLICATE]
    assert ids.accept(10, 109) == IN_ORDER


def test_smaller_but_later_number_is_a_new_count_and_not_dropped_for_ever():
    ids = Contiguous()
    ids.accept(9_000, 100)
    assert ids.accept(1, 200) == RENUMBERED
    assert ids.hole_from_ns == 100
    assert ids.accept(2, 201) == IN_ORDER


def test_rising_numbers_may_jump_and_stay_but_not_fall():
    ids = Rising()
    assert [ids.accept(number) for number in (5, 9, 9, 8, 1, 10)] == [True, True, True, False, False, True]
