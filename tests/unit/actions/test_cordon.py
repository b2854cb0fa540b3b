"""Whose cordon is taken away, and whose never is."""

from __future__ import annotations

import json

import pytest

from kops_py.actions.cordon import CordonState, cordon, finish, keep_reason, mark_of, mark_unfinished, uncordon
from kops_py.connect.base import JsonObject
from kops_py.model.cordon import CORDONED, UNFINISHED, Cordon, cordon_owner, read_cordon, stop_reason
from kops_py.model.errors import KubeError
from kops_py.observe.cluster import node_facts
from tests.fakes.kube import FakeKubeApi, node

PATH = "/api/v1/nodes/w1"
CONFLICT = KubeError("the Kubernetes API answered 409 Conflict to a patch", status=409, reason="Conflict")


@pytest.fixture
def api() -> FakeKubeApi:
    return FakeKubeApi([node("w1")])


def current(api: FakeKubeApi) -> JsonObject:
    found = api.object(PATH)
    assert found is not None
    return found


def stands(api: FakeKubeApi) -> tuple[bool, bool]:
    """Whether the node is cordoned, and whether it carries our mark."""
    found = current(api)
    return bool(found["spec"].get("unschedulable")), CORDONED in found["metadata"].get("annotations", {})


def by_a_person(api: FakeKubeApi, unschedulable: bool) -> None:
    def change(item: JsonObject) -> None:
        item["spec"]["unschedulable"] = unschedulable

    api.change(PATH, change)


def test_cordon_and_mark_are_one_patch(api: FakeKubeApi) -> None:
    result = cordon(api, "w1", by="ann@desk", run_id="r1")
    assert (result.state, result.ours) == (CordonState.CORDONED, True)
    assert api.writes() == [("patch", PATH)]
    assert stands(api) == (True, True)
    mark = json.loads(current(api)["metadata"]["annotations"][CORDONED])
    assert (mark["by"], mark["run"]) == ("ann@desk", "r1")
    assert mark["at"].endswith("Z")
    assert "ann@desk" in cordon_owner(node_facts(current(api)))


def test_uncordon_takes_both_away_in_one_patch(api: FakeKubeApi) -> None:
    cordon(api, "w1", by="ann", run_id="r1")
    result = uncordon(api, "w1")
    assert (result.state, result.ours) == (CordonState.UNCORDONED, False)
    assert result.cordon is not None
    assert result.cordon.run == "r1"
    assert stands(api) == (False, False)
    assert len(api.writes()) == 2
    assert uncordon(api, "w1").state is CordonState.NOT_CORDONED
    assert len(api.writes()) == 2


def test_a_cordon_of_a_person_stays_theirs(api: FakeKubeApi) -> None:
    by_a_person(api, True)
    for result in (cordon(api, "w1", by="ann", run_id="r1"), uncordon(api, "w1")):
        assert result.state is CordonState.FOREIGN
        assert not result.ours
        assert "kubectl uncordon w1" in result.message
    assert api.writes() == []
    assert stands(api) == (True, False)


def test_an_earlier_run_of_ours_is_still_ours(api: FakeKubeApi) -> None:
    cordon(api, "w1", by="ann", run_id="killed")
    result = cordon(api, "w1", by="bob", run_id="next")
    assert result.state is CordonState.CORDONED_EARLIER
    assert result.ours
    assert "killed" in result.message
    assert uncordon(api, "w1").state is CordonState.UNCORDONED


def test_a_person_cordons_in_the_very_moment(api: FakeKubeApi) -> None:
    api.before("patch", PATH, lambda: by_a_person(api, True))
    assert cordon(api, "w1", by="ann", run_id="r1").state is CordonState.FOREIGN
    assert stands(api) == (True, False)


def test_a_person_uncordoned_in_between(api: FakeKubeApi) -> None:
    cordon(api, "w1", by="ann", run_id="r1")
    by_a_person(api, False)
    result = uncordon(api, "w1")
    assert result.state is CordonState.UNCORDONED_BY_OTHERS
    assert "somebody else" in result.message
    assert stands(api) == (False, False)


def test_a_person_uncordons_in_the_very_moment(api: FakeKubeApi) -> None:
    cordon(api, "w1", by="ann", run_id="r1")
    api.before("patch", PATH, lambda: by_a_person(api, False))
    assert uncordon(api, "w1").state is CordonState.UNCORDONED_BY_OTHERS
    assert stands(api) == (False, False)


def test_a_mark_left_over_does_not_stop_a_new_cordon(api: FakeKubeApi) -> None:
    cordon(api, "w1", by="ann", run_id="old")
    by_a_person(api, False)
    result = cordon(api, "w1", by="bob", run_id="new")
    assert result.state is CordonState.CORDONED
    assert json.loads(current(api)["metadata"]["annotations"][CORDONED])["run"] == "new"


def test_a_person_cordoned_again_after_us(api: FakeKubeApi) -> None:
    """The mark is still there, but who set unschedulable last is on record."""
    cordon(api, "w1", by="ann", run_id="r1")

    def record(item: JsonObject) -> None:
        item["metadata"]["managedFields"] = [
            {"manager": "kops-py", "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{CORDONED}": {}}}}},
            {"manager": "kubectl-cordon", "fieldsV1": {"f:spec": {"f:unschedulable": {}}}},
        ]

    api.change(PATH, record)
    assert cordon(api, "w1", by="bob", run_id="r2").state is CordonState.FOREIGN
    assert uncordon(api, "w1").state is CordonState.FOREIGN
    assert stands(api) == (True, False)


def test_an_attempt_whose_answer_was_lost_is_recognised(api: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connector repeats a patch; when the first one was carried out, the second meets a conflict."""
    carried_out: list[JsonObject] = []
    patch = api.patch

    def lose(path: str, body: JsonObject, *, content_type: str) -> JsonObject:
        carried_out.append(patch(path, body, content_type=content_type))
        raise CONFLICT

    monkeypatch.setattr(api, "patch", lose)
    result = cordon(api, "w1", by="ann", run_id="r1")
    assert result.state is CordonState.CORDONED
    assert uncordon(api, "w1").state is CordonState.UNCORDONED
    assert len(carried_out) == 2
    assert stands(api) == (False, False)


def test_endless_conflicts_end(api: FakeKubeApi) -> None:
    api.fail("patch", PATH, CONFLICT, times=50)
    with pytest.raises(KubeError, match="changed by others") as caught:
        cordon(api, "w1", by="ann", run_id="r1")
    assert caught.value.status == 409
    assert stands(api) == (False, False)


def test_other_errors_and_absent_nodes_are_told(api: FakeKubeApi) -> None:
    api.fail("patch", PATH, KubeError("no", status=403))
    with pytest.raises(KubeError, match="no"):
        cordon(api, "w1", by="ann", run_id="r1")
    with pytest.raises(KubeError, match="w9 is not a node of the cluster"):
        cordon(api, "w9", by="ann", run_id="r1")
    with pytest.raises(KubeError, match="w9 is not a node of the cluster"):
        uncordon(api, "w9")


@pytest.mark.parametrize("text", ["", "yes", "[]", "null", '{"by": null}'])
def test_a_damaged_mark_still_counts(api: FakeKubeApi, text: str) -> None:
    assert read_cordon({CORDONED: text}) == Cordon("", "", "")
    assert read_cordon({}) is None
    by_a_person(api, True)
    api.change(PATH, lambda item: item["metadata"].update(annotations={CORDONED: text}))
    assert cordon_owner(node_facts(current(api))) == "kops-py"
    assert uncordon(api, "w1").state is CordonState.UNCORDONED


def marks(api: FakeKubeApi) -> dict[str, str]:
    return {k: v for k, v in current(api)["metadata"].get("annotations", {}).items() if k.startswith("kops-py/")}


def test_an_uncordon_can_leave_a_mark_in_the_same_patch_and_finish_takes_it_away(api: FakeKubeApi) -> None:
    cordon(api, "w1", by="ann", run_id="r1")
    result = uncordon(api, "w1", unfinished=mark_of("ann", "t-upgrade-1"))
    assert result.state is CordonState.UNCORDONED
    assert len(api.writes()) == 2
    assert set(marks(api)) == {UNFINISHED}
    assert stop_reason(node_facts(current(api))) == "its upgrade has not come to its end"
    finish(api, "w1")
    assert marks(api) == {}
    finish(api, "w1")
    assert len(api.writes()) == 3


def test_an_uncordon_by_hand_clears_the_mark_and_the_reason(api: FakeKubeApi) -> None:
    mark_unfinished(api, "w1", by="ann", run_id="t-patch-1")
    cordon(api, "w1", by="ann", run_id="t-patch-1")
    keep_reason(api, "w1", "drain: a budget does not allow it")
    assert stop_reason(node_facts(current(api))) == "its patch stopped: drain: a budget does not allow it"
    assert cordon(api, "w1", by="bob", run_id="t-patch-2").state is CordonState.CORDONED_EARLIER
    assert uncordon(api, "w1").state is CordonState.UNCORDONED
    assert marks(api) == {}
    assert stop_reason(node_facts(current(api))) == ""
    mark_unfinished(api, "w1", by="ann", run_id="t-patch-1")
    keep_reason(api, "w1", "gate: no")
    assert stop_reason(node_facts(current(api))) == "its patch has not come to its end: gate: no"
    uncordon(api, "w1")
    assert marks(api) == {}


def test_a_node_that_a_person_took_over_meanwhile_is_still_unfinished(api: FakeKubeApi) -> None:
    by_a_person(api, True)
    assert uncordon(api, "w1", unfinished=mark_of("ann", "t-upgrade-1")).state is CordonState.FOREIGN
    assert (stands(api), set(marks(api))) == ((True, False), {UNFINISHED})
    by_a_person(api, False)
    assert uncordon(api, "w1", unfinished=mark_of("ann", "t-upgrade-1")).state is CordonState.NOT_CORDONED
    assert len(api.writes()) == 1


def test_a_reason_is_short_and_only_for_nodes_of_ours(api: FakeKubeApi) -> None:
    by_a_person(api, True)
    keep_reason(api, "w1", "whatever")
    assert api.writes() == []
    by_a_person(api, False)
    cordon(api, "w1", by="ann", run_id="t-upgrade-1")
    keep_reason(api, "w1", "x" * 5000)
    found = read_cordon(marks(api))
    assert found is not None
    assert (found.by, found.reason) == ("ann", "x" * 500)
