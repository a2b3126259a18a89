from actors.recent import Recent


def test_what_is_asked_for_once_an_age_stays_and_the_rest_goes():
    recent = Recent(10)
    for number in range(4):
        recent.put(number, str(number))
    recent.age()
    assert recent.get(1) == "1"
    recent.age()
    assert [recent.get(number) for number in range(4)] == [None, "1", None, None]
    assert (list(recent), list(recent.values()), len(recent)) == ([1], ["1"], 1)


def test_a_full_one_ages_by_itself_and_is_never_above_two_ages():
    recent = Recent(10)
    for number in range(100):
        recent.put(number, number)
        assert recent.get(7) == (None if number < 7 else 7)
        assert len(recent) <= 20
    assert (recent.get(99), recent.get(50)) == (99, None)


def test_a_key_has_one_value_in_whatever_age():
    recent = Recent(10)
    recent.put("a", 1)
    recent.age()
    recent.put("b", 2)
    assert recent.get("a") == 1
    assert sorted(recent) == ["a", "b"]
    recent.clear()
    assert (len(recent), recent.get("a"), recent.full) == (0, None, False)
