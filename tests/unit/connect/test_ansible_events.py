from __future__ import annotations

from typing import Any

import pytest

from kops_py.connect.ansible_events import EventCollector, message_of
from kops_py.connect.base import AnsibleStatus


def event(kind: str, host: str = "", task: str = "", **data: Any) -> dict[str, Any]:
    return {"event": kind, "event_data": {"host": host, "task": task, **data}}


def stats(**groups: dict[str, int]) -> dict[str, Any]:
    return {"event": "playbook_on_stats", "event_data": groups}


def test_hosts_end_ok_failed_unreachable_and_not_run() -> None:
    begun: list[tuple[str, str]] = []
    collector = EventCollector(["a", "b", "c", "d"], lambda host, task: begun.append((host, task)))
    for one in (
        event("runner_on_start", "a", "one"),
        event("runner_on_ok", "a", "one", res={"changed": True}),
        event("runner_on_start", "b", "one"),
        event("runner_on_failed", "b", "one", res={"msg": "no space left"}),
        event("runner_on_start", "c", "one"),
        event("runner_on_unreachable", "c", "one", res={"msg": "timed out", "unreachable": True}),
        stats(ok={"a": 1}, failures={"b": 1}, dark={"c": 1}, processed={"a": 1, "b": 1, "c": 1}),
    ):
        assert collector.handle(one) is False
    results = collector.results()
    assert [results[name].status for name in "abcd"] == [
        AnsibleStatus.OK,
        AnsibleStatus.FAILED,
        AnsibleStatus.UNREACHABLE,
        AnsibleStatus.NOT_RUN,
    ]
    assert (results["a"].ok, results["a"].changed, results["a"].changed_tasks) == (1, 1, ("one",))
    assert (results["b"].task, results["b"].message) == ("one", "no space left")
    assert results["c"].message == "timed out"
    assert begun == [("a", "one"), ("b", "one"), ("c", "one")]


def test_first_failure_counts_and_ignored_or_rescued_ones_do_not() -> None:
    collector = EventCollector(["a", "b"])
    collector.handle(event("runner_on_failed", "a", "may fail", ignore_errors=True, res={"msg": "x"}))
    collector.handle(event("runner_on_failed", "a", "first", res={"msg": "first"}))
    collector.handle(event("runner_on_failed", "a", "always", res={"msg": "second"}))
    collector.handle(event("runner_on_failed", "b", "rescued", res={"msg": "x"}))
    collector.handle(stats(ok={"b": 1}, failures={"a": 1}, processed={"a": 1, "b": 1}, rescued={"b": 1}))
    results = collector.results()
    assert (results["a"].task, results["a"].message) == ("first", "first")
    assert (results["b"].status, results["b"].task) == (AnsibleStatus.OK, "")


def test_without_a_summary_a_host_that_was_working_did_not_run() -> None:
    collector = EventCollector(["a", "b"])
    collector.handle(event("runner_on_start", "a", "long one"))
    collector.handle(event("runner_on_failed", "b", "x", res={"msg": "m"}))
    results = collector.results()
    assert not collector.finished
    assert (results["a"].status, results["a"].task) == (AnsibleStatus.NOT_RUN, "long one")
    assert results["b"].status is AnsibleStatus.FAILED


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"msg": "non-zero return code", "rc": 3, "stderr": "E: broken"}, "non-zero return code\nE: broken"),
        ({"msg": "non-zero return code", "rc": 3, "stderr": ""}, "non-zero return code\nexit status 3"),
        ({"msg": "MODULE FAILURE", "module_stderr": "Traceback"}, "MODULE FAILURE\nTraceback"),
        ({"msg": "apt failed: E: x", "stderr": "E: x"}, "apt failed: E: x"),
        ({}, "no message"),
        ({"censored": "hidden", "msg": "secret"}, "the module's answer is hidden (no_log)"),
        ({"_ansible_no_log": True, "msg": "secret"}, "the module's answer is hidden (no_log)"),
        (
            {
                "msg": "One or more items failed",
                "results": [
                    {"item": "good", "failed": False, "msg": "fine"},
                    {"item": "b.tar", "_ansible_item_label": "b", "failed": True, "msg": "no route"},
                ],
            },
            "b: no route",
        ),
        (
            {"results": [{"item": "x", "failed": True, "_ansible_no_log": True, "msg": "secret"}]},
            "the module's answer is hidden (no_log)",
        ),
    ],
)
def test_message_says_what_the_module_said(result: dict[str, Any], message: str) -> None:
    assert message_of(result) == message


def test_long_messages_keep_both_ends() -> None:
    message = message_of({"msg": "begin" + "x" * 100_000 + "end"})
    assert len(message) < 5000
    assert message.startswith("begin")
    assert message.endswith("end")


@pytest.mark.parametrize(
    ("results", "item", "message"),
    [
        # ansible-core 2.21: only the item's own event says which one failed
        ([{"item": "a", "msg": ""}, {"item": "b", "msg": "no route"}], {"item": "b", "msg": "no route"}, "b: no route"),
        ([{"item": "a", "msg": ""}, {"item": "b", "failed": True, "msg": "x"}], {"item": "b", "msg": "x"}, "b: x"),
        ([{"censored": "hidden"}], {"censored": "hidden"}, "the module's answer is hidden (no_log)"),
    ],
)
def test_a_failed_loop_names_the_item(results: list[dict[str, Any]], item: dict[str, Any], message: str) -> None:
    collector = EventCollector(["a"])
    # a failure that was ignored is not told with the next one
    collector.handle(event("runner_on_start", "a", "ignored"))
    collector.handle(event("runner_item_on_failed", "a", "ignored", res={"item": "old", "msg": "old"}))
    collector.handle(event("runner_on_failed", "a", "ignored", ignore_errors=True, res={"msg": "items failed"}))
    collector.handle(event("runner_on_start", "a", "loop"))
    collector.handle(event("runner_item_on_failed", "a", "loop", res=item))
    collector.handle(event("runner_on_failed", "a", "loop", res={"msg": "items failed", "results": results}))
    assert (collector.results()["a"].task, collector.results()["a"].message) == ("loop", message)
