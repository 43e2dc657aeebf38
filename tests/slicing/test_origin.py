"""The walk from a symptom to its origin, on traces made by hand."""

from whynan.records import TensorSummary
from whynan.trace import Edge, Leaf, OpRecord, Trace, find_origin

TENSOR = TensorSummary((2,), "float32")


def record(index, name="op", kind="nan", edges=(), kinds=None, **fields):
    kinds = kinds or (kind,)
    samples = {(index, number): number for number in range(len(kinds))}
    return OpRecord(
        index, name, f"aten.{name}", "forward", (), kind, tuple(edges), samples=samples, kinds=kinds, **fields
    )


def edge(parent, kind="nan", target=None, number=None):
    return Edge(0, kind, parent, place=None if number is None else (parent, number), target=target)


def leaf(kind="nan", constant=False):
    return Edge(0, kind, None, Leaf(1, 0, TENSOR, constant))


def trace(*records):
    return Trace(records={record.index: record for record in records})


def test_a_chain_leads_to_its_first_op():
    found = find_origin(trace(record(1), record(2, edges=[edge(1)]), record(3, edges=[edge(2)])), [edge(3)])
    assert found is not None and found.origin is not None and found.origin.index == 1
    assert [step.index for step in found.path] == [1, 2, 3]


def test_nothing_leads_nowhere():
    assert find_origin(trace(record(1)), []) is None
    assert find_origin(trace(), [edge(9)]) is None


def test_of_two_births_the_first_in_time():
    found = find_origin(trace(record(1), record(2), record(3, edges=[edge(2), edge(1)])), [edge(3)])
    assert found is not None and found.origin is not None and found.origin.index == 1


def test_what_does_not_reach_the_symptom_is_never_blamed():
    found = find_origin(trace(record(1), record(2), record(3, edges=[edge(2)])), [edge(3)])
    assert found is not None and found.origin is not None and found.origin.index == 2


def test_a_leaf_comes_before_any_op():
    found = find_origin(trace(record(1), record(2, edges=[edge(1), leaf()])), [edge(2)])
    assert found is not None and found.origin is None and found.leaf is not None


def test_a_literal_infinity_is_no_birth():
    ops = [record(1, "full", "-inf", literal=True), record(2, "_softmax", "nan", [edge(1, "-inf")])]
    found = find_origin(trace(*ops), [edge(2)])
    assert found is not None and found.origin is not None
    assert (found.origin.name, found.intended) == ("_softmax", True)


def test_an_infinity_of_arithmetic_is_the_birth():
    ops = [record(1, "log", "-inf"), record(2, "mul", "nan", [edge(1, "-inf")])]
    found = find_origin(trace(*ops), [edge(2)])
    assert found is not None and found.origin is not None
    assert (found.origin.name, found.intended) == ("log", False)


def test_a_nan_is_made_by_nan_inputs_not_by_infinities_beside():
    ops = [record(1, "exp", "inf"), record(2, "sqrt"), record(3, "add", "nan", [edge(1, "inf"), edge(2)])]
    found = find_origin(trace(*ops), [edge(3)])
    assert found is not None and found.origin is not None and found.origin.name == "sqrt"


def test_single_elements_are_followed():
    rows = record(3, "stack", edges=[edge(1, target=0), edge(2, target=1)], kinds=("nan", "nan"))
    for number, index in ((0, 1), (1, 2)):
        found = find_origin(trace(record(1), record(2), rows), [edge(3, number=number)])
        assert found is not None and found.origin is not None and found.origin.index == index


def test_an_element_may_be_born_where_another_came_in():
    sqrt = record(2, "sqrt", edges=[edge(1, target=0)], kinds=("nan", "nan"))
    found = find_origin(trace(record(1), sqrt), [edge(2, number=1)])
    assert found is not None and found.origin is not None and found.origin.name == "sqrt"


def test_elements_that_were_not_sampled_count_by_their_kind():
    cat = record(3, "cat", edges=[edge(1, "nan", 0), edge(2, "inf", 1)], kinds=("nan", "inf"))
    ops = trace(record(1, "sqrt"), record(2, "exp", "inf"), cat)
    for kind, name in (("nan", "sqrt"), ("inf", "exp")):
        found = find_origin(ops, [Edge(0, kind, 3, place=(3, 999))])
        assert found is not None and found.origin is not None and found.origin.name == name


def test_a_circle_ends():
    found = find_origin(trace(record(1, edges=[edge(2)]), record(2, edges=[edge(1)])), [edge(2)])
    assert found is None


def test_a_modules_mask_is_no_birth_where_a_row_of_it_is_subtracted_from_itself():
    for name, is_buffer, is_op in (("sub", True, True), ("sub", False, False), ("mul", True, False)):
        ops = trace(record(1, name, "nan", [leaf("-inf")]))
        found = find_origin(ops, [edge(1)], lambda leaf: True, lambda leaf, held=is_buffer: held)
        assert found is not None
        assert (found.origin is not None) is is_op, (name, is_buffer)
