"""Plans: what the audit proposes, the file that a person changes, and what `apply` makes of data; every wrong plan is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.audit.facts import Fact, Facts
from headstart.audit.label_errors import LabelErrors
from headstart.audit.plan import Drop, LookAt, Plan, Relabel, make_plan
from headstart.data import Dataset, class_targets, dataset_from_arrays
from headstart.errors import DataError, ParameterError

FULL = Plan(
    data="photos",
    drop=(Drop("cat/0.jpg", "cannot be read: the file is empty"), Drop("dog/ö.jpg", "exact copy of dog/1.jpg")),
    group_from=r"(p\d+)_",
    keep_together=(("cat/1.jpg", "cat/2.jpg"), ("dog/1.jpg", "dog/2.jpg", "cat/3.jpg")),
    relabel=(Relabel("cat/4.jpg", ("dog",)), Relabel("cat/5.jpg", ("cat",), ("dog",))),
    look_at=(LookAt("cat/6.jpg", ("cat",), ("dog",), 0.9875), LookAt("x.jpg", ("cat", "dog"), (), 0.5)),
)


def data(count=6, *, parts=None, groups=None, classes=("cat", "dog")) -> Dataset:
    """Images 0.jpg, 1.jpg, ...: even ones are cats, odd ones dogs."""
    return Dataset(
        inputs=tuple(Path("/photos") / f"{i}.jpg" for i in range(count)),
        targets=class_targets(np.arange(count) % len(classes), classes),
        parts=np.array(parts if parts is not None else ["train"] * count, dtype="U5"),
        groups=None if groups is None else np.array(groups, dtype=np.str_),
        source="photos",
        root=Path("/photos"),
    )


def test_a_plan_is_written_and_read_unchanged(tmp_path):
    FULL.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == FULL
    empty = Plan(data="photos")
    empty.write(tmp_path / "empty.json")
    assert Plan.read(tmp_path / "empty.json") == empty


def test_the_file_is_one_for_people(tmp_path):
    FULL.write(tmp_path / "plan.json")
    lines = (tmp_path / "plan.json").read_text(encoding="utf-8").splitlines()
    assert '  {"path": "dog/ö.jpg", "reason": "exact copy of dog/1.jpg"}' in lines
    assert '  {"path": "cat/6.jpg", "label": "cat", "suggested": "dog", "score": 0.9875},' in lines
    assert '  ["cat/1.jpg", "cat/2.jpg"],' in lines
    values = json.loads("\n".join(lines))
    assert values["headstart_plan"] == 1
    assert "No image file is changed" in values["about"]


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
labels = st.lists(names, max_size=3).map(tuple)


@settings(deadline=None, max_examples=40)
@given(
    plan=st.builds(
        Plan,
        data=names,
        drop=st.lists(st.builds(Drop, names, names), max_size=3).map(tuple),
        group_from=st.none() | names,
        keep_together=st.lists(st.lists(names, max_size=3).map(tuple), max_size=3).map(tuple),
        look_at=st.lists(st.builds(LookAt, names, labels, labels, st.floats(0, 1).map(lambda x: round(x, 4))), max_size=3).map(tuple),
    )
)
def test_any_plan_survives_writing(plan, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.json"
    plan.write(path)
    assert Plan.read(path) == plan


def test_dropped_and_relabelled_images():
    before = data()
    plan = Plan("photos", drop=(Drop("0.jpg", "exact copy of 2.jpg"), Drop("3.jpg")), relabel=(Relabel("2.jpg", ("dog",)),))
    after, notes = plan.apply(before)
    assert after.names() == ("1.jpg", "2.jpg", "4.jpg", "5.jpg")
    assert [after.labels(i)[0] for i in range(4)] == ["dog", "dog", "cat", "dog"]
    assert not after.grouped
    assert notes == [
        "The plan leaves out 2 of 6 images (1 x exact copy, 1 x by hand).",
        "The plan gives 1 images another label.",
    ]
    assert before.targets.array.tolist() == [0, 1, 0, 1, 0, 1]  # the data that came in are as they were


def test_an_empty_plan_changes_nothing():
    before = data(groups=list("aabbcc"))
    after, notes = Plan("photos").apply(before)
    assert after.names() == before.names()
    assert np.array_equal(after.targets.array, before.targets.array)
    assert np.array_equal(after.groups, before.groups)
    assert notes == []


def test_what_is_to_be_looked_at_is_left_alone():
    plan = Plan("photos", look_at=(LookAt("0.jpg", ("cat",), ("dog",), 0.99), LookAt("no longer there.jpg", ("cat",), ("dog",), 0.9)))
    after, notes = plan.apply(data())
    assert np.array_equal(after.targets.array, data().targets.array)
    assert notes == ["2 images of the plan are under 'look_at'; nothing is done about them."]


def test_an_entry_that_is_moved_as_it_is(tmp_path):
    path = tmp_path / "plan.json"
    entry = '{"path": "%s", "label": "cat", "suggested": "dog", "score": 0.9}'
    path.write_text(f'{{"headstart_plan": 1, "relabel": [{entry % "0.jpg"}], "drop": [{entry % "2.jpg"}]}}')
    after, _ = Plan.read(path).apply(data())
    assert after.names() == ("0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg")
    assert after.labels(0) == ("dog",)
    path.write_text('{"headstart_plan": 1, "relabel": [{"path": "0.jpg", "label": "dog", "suggested": "dog", "score": 0.9}]}')
    assert Plan.read(path).apply(data())[0].labels(0) == ("dog",)


def test_a_label_and_another_suggestion_are_refused():
    plan = Plan("photos", relabel=(Relabel("0.jpg", ("bird",), ("dog",)),))
    with pytest.raises(DataError, match=r"two labels for '0.jpg' under 'relabel': 'bird' and, as suggested, 'dog'. Write the right one"):
        plan.apply(data(classes=("cat", "dog", "bird")))


def test_several_labels():
    several = dataset_from_arrays(np.zeros((3, 4, 4, 3), np.uint8), np.array([[1, 0], [1, 1], [0, 0]], bool), classes=["cat", "dog"])
    plan = Plan("", relabel=(Relabel("array[0]", ("dog", "cat")), Relabel("array[1]", ())))
    after, notes = plan.apply(several)
    assert after.targets.array.tolist() == [[True, True], [False, False], [False, False]]
    assert notes == ["The plan gives 2 images another label."]
    with pytest.raises(DataError, match=r"gives '0.jpg' 2 labels, but each image of these data has exactly one"):
        Plan("photos", relabel=(Relabel("0.jpg", ("cat", "dog")),)).apply(data())


def test_groups_are_kept_and_joined():
    plan = Plan("photos", keep_together=(("0.jpg", "2.jpg"), ("4.jpg", "5.jpg")))
    alone, notes = plan.apply(data())
    assert partition(alone.groups) == {(0, 2), (1,), (3,), (4, 5)}
    assert notes == ["The plan keeps 4 images together in 2 groups."]
    joined, _ = plan.apply(data(groups=list("aabbcd")))
    assert partition(joined.groups) == {(0, 1, 2, 3), (4, 5)}
    assert set(joined.groups) == {"a", "c"}


def test_groups_from_names_and_given_groups_are_joined():
    plan = Plan("photos", group_from=r"^([0-2])")
    found, notes = plan.apply(data(count=12))
    assert partition(found.groups) == {(0,), (1, 10, 11), (2,), *((i,) for i in range(3, 10))}
    assert any("groups from the file names: 10 groups of 12 images" in note for note in notes)
    both, _ = plan.apply(data(count=12, groups=[*"abcdefghij", "a", "k"]))
    assert partition(both.groups) == {(0, 1, 10, 11), *((i,) for i in range(2, 10))}


def partition(groups):
    return {tuple(np.flatnonzero(groups == name).tolist()) for name in set(groups.tolist())}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.lists(st.lists(st.integers(0, 11), max_size=4), max_size=5), st.data())
def test_groups_are_the_connected_components(count, lists, draw):
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    given_groups = draw.draw(st.lists(st.sampled_from("abcde"), min_size=count, max_size=count))
    lists = [[i for i in rows if i < count] for rows in lists]
    after, _ = Plan("photos", keep_together=tuple(tuple(f"{i}.jpg" for i in rows) for rows in lists)).apply(
        data(count, groups=given_groups)
    )
    edges = [(rows[0], i) for rows in lists if rows for i in rows] + [(given_groups.index(name), i) for i, name in enumerate(given_groups)]
    one, two = np.array(edges).T
    _, wanted = connected_components(coo_matrix((np.ones(len(one)), (one, two)), shape=(count, count)), directed=False)
    assert partition(after.groups) == partition(wanted.astype(str))


def test_classes_that_are_lost_are_told():
    plan = Plan("photos", drop=tuple(Drop(f"{i}.jpg") for i in (0, 2, 4)))
    after, notes = plan.apply(data())
    assert after.classes == ("cat", "dog")
    assert "The plan leaves no training image of 'cat'." in notes
    with pytest.raises(DataError, match="the plan leaves out all 6 images; take entries out of 'drop'"):
        Plan("photos", drop=tuple(Drop(f"{i}.jpg") for i in range(6))).apply(data())


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan("other", drop=(Drop("7.jpg"), Drop("8.jpg"))), "names 2 images under 'drop' that the data do not have, for example '7.jpg'"),
        (Plan("other", drop=(Drop("7.jpg"),)), "It was made for other, and these data are photos. Make the plan again"),
        (Plan("photos", relabel=(Relabel("00.jpg", ("cat",)),)), r"images under 'relabel' .* Did you mean 0.jpg\? Make the plan again"),
        (Plan("photos", keep_together=(("0.jpg", "9.jpg"),)), "under 'keep_together' that the data do not have, for example '9.jpg'"),
        (
            Plan("photos", relabel=(Relabel("0.jpg", ("dgo",)),)),
            r"as 'dgo', which is not a class of the data. Did you mean dog\? The classes",
        ),
    ],
)
def test_plans_for_other_data_are_refused(plan, message):
    with pytest.raises(DataError, match=message):
        plan.apply(data())


def test_wrong_patterns_are_refused():
    with pytest.raises(ParameterError, match="is not a regular expression"):
        Plan("photos", group_from="(").apply(data())
    with pytest.raises(ParameterError, match="matches none of the 6 names"):
        Plan("photos", group_from="patient").apply(data())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"headstart_plan": 1, "drop": [{"path": "a"} {"path": "b"}]}', "not valid JSON (line 1, column 46: Expecting ',' delimiter"),
        ('{"headstart_plan": 1, "drop": [], "drop": []}', "the plan has 'drop' twice in one place; put both together"),
        ("[1]", 'is JSON, but not a plan: "headstart_plan": 1 is missing'),
        ('{"drop": []}', 'is JSON, but not a plan: "headstart_plan": 1 is missing'),
        ('{"headstart_plan": 2}', "is a plan of version 2; this Headstart reads version 1. Make the plan again"),
        ('{"headstart_plan": true}', "is a plan of version True"),
        ('{"headstart_plan": 1, "dorp": []}', "'dorp' is not known here. Did you mean drop? Allowed are headstart_plan, about,"),
        ('{"headstart_plan": 1, "drop": {}}', "'drop' is {}; expected a list, empty if need be: []"),
        ('{"headstart_plan": 1, "drop": ["a"]}', "'drop', entry 1, is 'a'; expected an object such as"),
        ('{"headstart_plan": 1, "drop": [{"path": "a"}, {}]}', "'drop', entry 2: 'path' is missing"),
        ('{"headstart_plan": 1, "drop": [{"path": 3}]}', "'drop', entry 1: 'path' is 3; expected a text"),
        ('{"headstart_plan": 1, "drop": [{"path": "a", "why": ""}]}', "'drop', entry 1: 'why' is not known here."),
        ('{"headstart_plan": 1, "group_from": 3}', "'group_from' is 3; expected a text"),
        ('{"headstart_plan": 1, "keep_together": ["a", "b"]}', "'keep_together', entry 1, is 'a'; expected a list of images such as"),
        ('{"headstart_plan": 1, "relabel": [{"path": "a"}]}', "'relabel', entry 1: 'label' is missing"),
        ('{"headstart_plan": 1, "relabel": [{"path": "a", "label": 1}]}', "'label' is 1; expected a class, or a list of classes"),
        (
            '{"headstart_plan": 1, "look_at": [{"path": "a", "label": "b", "suggested": "c", "score": "high"}]}',
            "'look_at', entry 1: 'score' is 'high'; expected a number",
        ),
        (
            '{"headstart_plan": 1, "drop": [{"path": "a"}], "relabel": [{"path": "a", "label": "b"}]}',
            "'a' is in 'drop' and in 'relabel'; take it out of one of them",
        ),
        (
            '{"headstart_plan": 1, "relabel": [{"path": "a", "label": "b"}, {"path": "a", "label": "c"}]}',
            "'a' is in 'relabel' twice; keep one of the entries",
        ),
        ("[" * 100_000, "the plan is not valid JSON (nested too deep)"),
    ],
)
def test_wrong_files_are_refused_in_words(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Plan.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(
        DataError, match=r"none.json: the plan cannot be read \(No such file.*`headstart check DATA --deep --fix FILE` writes one"
    ):
        Plan.read(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="the plan cannot be read"):
        Plan.read(tmp_path / "latin.json")
    with pytest.raises(ParameterError, match="cannot be written: No such file or directory"):
        Plan("x").write(tmp_path / "no folder" / "plan.json")


def facts(count, *, same=(), refused=()):
    """Facts of images of which those in each set of `same` have the same bytes."""
    digest = {row: b"group %d" % i for i, rows in enumerate(same) for row in rows}
    return Facts(
        tuple(Fact(digest.get(i, b"%d" % i), "the file is empty" if i in refused else "", "PNG", "RGB", 4, 4, 9) for i in range(count))
    )


def test_proposals_for_files_and_copies():
    before = data(10, parts=["train"] * 6 + ["val"] + ["test"] * 3)
    plan = make_plan(before, facts(10, same=[(2, 4), (3, 7, 9), (0, 6)], refused=[5]), group_from="x")
    assert plan.group_from == "x"
    assert plan.drop == (
        Drop("4.jpg", "exact copy of 2.jpg"),
        Drop("5.jpg", "cannot be read: the file is empty"),
        Drop("6.jpg", "exact copy of 0.jpg in the training part"),
        Drop("7.jpg", "exact copy of 3.jpg in the training part"),
        Drop("9.jpg", "exact copy of 3.jpg in the training part"),
    )
    assert (plan.keep_together, plan.look_at) == ((), ())


def test_proposals_for_near_copies():
    before = data(12, parts=["train"] * 8 + ["test"] * 4)
    plan = make_plan(before, facts(12, refused=[6]), near_copies=[(0, 2, 8), (1, 3), (4, 6), (9, 11)])
    assert plan.drop == (
        Drop("6.jpg", "cannot be read: the file is empty"),
        Drop("8.jpg", "near copy of 0.jpg in the training part"),
    )
    assert plan.keep_together == (("0.jpg", "2.jpg"), ("1.jpg", "3.jpg"), ("9.jpg", "11.jpg"))


def test_contradictory_copies_are_for_a_person():
    plan = make_plan(data(6), facts(6, same=[(0, 1, 2)]), near_copies=[(3, 4)])
    assert plan.drop == ()
    assert plan.keep_together == (("0.jpg", "1.jpg", "2.jpg"), ("3.jpg", "4.jpg"))
    assert [(entry.path, entry.label, entry.suggested, round(entry.score, 2)) for entry in plan.look_at] == [
        ("0.jpg", ("cat",), ("dog",), 0.33),
        ("1.jpg", ("dog",), ("cat",), 0.67),
        ("2.jpg", ("cat",), ("dog",), 0.33),
        ("3.jpg", ("dog",), ("cat",), 0.5),
        ("4.jpg", ("cat",), ("dog",), 0.5),
    ]


def test_broken_copies_are_called_broken():
    plan = make_plan(data(6), facts(6, same=[(1, 5)], refused=[1, 5]))
    assert plan.drop == tuple(Drop(f"{i}.jpg", "cannot be read: the file is empty") for i in (1, 5))


def test_nothing_is_both_left_out_and_kept_together():
    before = data(9, parts=["train"] * 6 + ["test"] * 3)
    plan = make_plan(before, facts(9, same=[(7, 8)]), near_copies=[(0, 7, 8)])
    assert [entry.path for entry in plan.drop] == ["7.jpg", "8.jpg"]
    assert plan.keep_together == ()
    assert [entry.path for entry in plan.look_at] == ["7.jpg", "8.jpg", "0.jpg"]


def test_proposals_for_labels():
    errors = LabelErrors(np.array([2, 0, 1]), np.array([1, 1, 0]), np.array([0.99, 0.9, 0.1]), likely=2, share=0.1)
    plan = make_plan(data(6), facts(6), label_errors=errors, rows=[2, 3, 4])
    assert plan.look_at == (LookAt("4.jpg", ("cat",), ("dog",), 0.99), LookAt("2.jpg", ("cat",), ("dog",), 0.9))
    several = dataset_from_arrays(np.zeros((2, 4, 4, 3), np.uint8), np.array([[1, 0], [1, 1]], bool), classes=["cat", "dog"])
    doubts = LabelErrors(np.array([0, 1]), np.array([1, 0]), np.array([0.99, 0.9]), likely=2, share=0.1)
    assert [entry.suggested for entry in make_plan(several, facts(2), label_errors=doubts).look_at] == [("cat", "dog"), ("dog",)]


def test_a_proposal_can_be_followed(tmp_path):
    before = data(12, parts=["train"] * 8 + ["test"] * 4)
    errors = LabelErrors(np.array([1]), np.array([0]), np.array([0.99]), likely=1, share=0.1)
    plan = make_plan(before, facts(12, same=[(5, 7)], refused=[6]), near_copies=[(0, 2, 8)], label_errors=errors)
    plan.write(tmp_path / "plan.json")
    after, notes = Plan.read(tmp_path / "plan.json").apply(before)
    assert after.names() == tuple(f"{i}.jpg" for i in (0, 1, 2, 3, 4, 5, 9, 10, 11))
    assert after.groups[0] == after.groups[2]
    assert len(set(after.groups)) == 8
    assert notes[0] == "The plan leaves out 3 of 12 images (1 x cannot be read, 1 x exact copy, 1 x near copy)."
