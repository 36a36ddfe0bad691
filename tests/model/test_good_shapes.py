from deployments.model.good_shapes import GoodShapes

OPEN = GoodShapes([[True, False, True], [True]])


def test_a_compilation_of_one_shape_cannot_vary() -> None:
    assert OPEN.can_vary
    assert not GoodShapes([[False, False], []]).can_vary
    assert not GoodShapes([]).can_vary


def test_others_are_the_smallest_that_succeeded_then_guesses_in_open_dimensions() -> None:
    good = GoodShapes([[True, False, True], [True]])
    asked = ((1, 3, 8), (1,))
    guesses = [((2, 3, 9), (2,)), ((2, 3, 16), (2,)), ((1, 3, 7), (1,))]
    assert 2 * guesses == good.others(asked)
    for rows in (1, 3, 2):
        good.add(((rows, 3, 8), (rows,)))
    assert 2 * [((2, 3, 8), (2,)), ((3, 3, 8), (3,)), guesses[0]] == good.others(asked)
    good.add(((5, 3, 8), (5,)))
    assert 2 * [((rows, 3, 8), (rows,)) for rows in (2, 3, 5)] == good.others(asked)


def test_those_that_succeeded_long_ago_are_forgotten() -> None:
    good = GoodShapes([[True]])
    for size in range(64):
        good.add(((size,),))
    good.add(((0,),))
    assert ((1,),) in good
    good.add(((64,),))
    assert ((1,),) not in good
    assert all(((size,),) in good for size in (0, 2, 63, 64))
