from __future__ import annotations

from marketd.feed.continuity import DUPLICATE, IN_ORDER, OLDER_MAX, RENUMBERED, Contiguous, Rising


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


def test_one_number_that_is_far_too_large_does_not_silence_the_series_for_ever():
    ids = Rising()
    assert [ids.accept(5), ids.accept(9_000_000)] == [True, True]
    assert [ids.accept(number) for number in range(6, 6 + OLDER_MAX)] == [False] * OLDER_MAX
    assert [ids.accept(90), ids.accept(91), ids.accept(7)] == [True, True, False]


def test_old_numbers_between_new_ones_stay_dropped_however_many_they_are():
    ids = Rising()
    for number in range(1_000, 1_000 + 3 * OLDER_MAX):
        assert ids.accept(number)
        assert not ids.accept(number - 50)


def test_the_same_old_numbers_over_and_over_stay_dropped():
    ids = Rising()
    ids.accept(1_000)
    assert not any(ids.accept(number) for _ in range(20) for number in (7, 8, 9))


def test_one_trade_of_the_far_future_does_not_make_all_others_duplicates_for_ever():
    ids = Contiguous()
    ids.accept(5, 100)
    assert ids.accept(9_000_000, 10**18) > 0
    for number in range(6, 6 + OLDER_MAX):
        assert ids.accept(number, 100 + number) == DUPLICATE
    assert ids.accept(90, 200) == RENUMBERED
    assert (ids.hole_from_ns, ids.last_ns) == (200, 200)
    assert [ids.accept(91, 201), ids.accept(90, 200)] == [IN_ORDER, DUPLICATE]


def test_a_block_that_a_venue_sends_again_is_dropped_whole():
    ids = Contiguous()
    for number in range(100):
        ids.accept(number, number)
    for _ in range(3):
        assert {ids.accept(number, number) for number in range(50, 100)} == {DUPLICATE}
    assert ids.accept(100, 100) == IN_ORDER
