"""When a full synchronisation is due, and for what reason the log gives."""

from k8s_ovs.agent.schedule import SPACING, SyncSchedule


def test_what_is_tried_again_keeps_its_reason() -> None:
    schedule = SyncSchedule(period=60, first=0.2, most=10)
    assert schedule.due(0) == "start"
    schedule.begin()
    schedule.failed(0)
    assert schedule.due(0.1) is None
    assert schedule.due(0.2) == "start"
    schedule.begin()
    schedule.succeeded(0.2)
    schedule.failed(1)
    assert schedule.due(1.2) == "a commit failed"


def test_news_hurry_what_failed_but_not_in_a_hot_loop() -> None:
    schedule = SyncSchedule(period=60, first=0.2, most=10)
    schedule.begin()
    schedule.succeeded(0)
    schedule.request("the switch was restarted", 1)
    assert schedule.due(1) == "the switch was restarted"
    schedule.begin()
    schedule.failed(1)
    schedule.request("more news", 1)
    assert schedule.due(1) is None
    assert schedule.due(1 + SPACING) == "the switch was restarted"


def test_once_a_period_without_any_reason() -> None:
    schedule = SyncSchedule(period=60, first=0.2, most=10)
    schedule.begin()
    schedule.succeeded(0)
    assert (schedule.due(59), schedule.due(60), schedule.wait(50)) == (None, "period", 10)
