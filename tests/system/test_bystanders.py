"""Tasks that only report never end the daemon; the others end it for all to see."""

import time

import pytest

from tests.system.conftest import Open
from tests.system.receiver import Receiver
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow


def sabotaged(quick_in: Open, *orders: str, **settings: str) -> Studio:
    studio = quick_in(SABOTAGE=" ".join(orders), **settings)
    studio.program = "tests.system.saboteur"
    return studio


@pytest.mark.parametrize(
    ("order", "task"),
    [
        ("daemon.webhooks:Webhook._send_next=2", "webhooks"),
        ("daemon.webhooks:Webhook._post=2", "webhooks"),
        ("rules.live:LiveRules.has_changed=2", "rules"),
        ("daemon.status:Status.line=3", "status"),
        ("daemon.estimate.memory:MemoryEstimator.record=2", "measurement"),
    ],
)
def test_a_bystander_that_fails_is_started_again(quick_in: Open, order: str, task: str) -> None:
    receiver = Receiver()
    receiver.open()
    studio = sabotaged(quick_in, order, NOTIFY_SOCKET="/nowhere/notify")
    with studio.config.open("a") as file:
        file.write(f'\n[[webhook]]\nurl = "http://127.0.0.1:{receiver.port}/"\n')
    try:
        studio.start()
        if "_send_next" in order:  # a new webhook starts with the next event
            studio.until(
                lambda: studio.metric("i2vd_background_failures_total") >= 2, "it has failed"
            )
            time.sleep(2.5)
        for number in (1, 2):
            studio.drop(f"{number}.png", picture(number))
            (job,) = studio.until_settled(f"{number}.png", "done")
            assert job["attempt"] == 1
        studio.until(
            lambda: studio.metric("i2vd_background_failures_total", task=task) >= 2, "it has failed"
        )
        told = [("done", "1.png"), ("done", "2.png")]
        studio.until(lambda: receiver.received == told, "the webhook is sent")
    finally:
        receiver.close()
    lines = [line for line in studio.log() if line["event"] == "background task failed"]
    assert {line["task"] for line in lines} == {task}
    assert studio.stop() == 0


@pytest.mark.parametrize(
    "order",
    [
        "daemon.dispatch.attempt:Attempt.run=9",
        "daemon.dispatch.dispatcher:Dispatcher._unload_idle=9",
        "daemon.fleet.membership:Membership.heartbeat=9",
        "daemon.intake.watcher:Watcher._scan_and_offer=9",
        "daemon.dispatch.watchdog:feed=9",
    ],
)
def test_an_essential_task_that_fails_ends_the_process_as_failed(
    quick_in: Open, order: str
) -> None:
    studio = sabotaged(quick_in, order)
    studio.drop("cat.png", picture(1))
    studio.start(ready=False)
    assert studio.wait(60) == 1
    lines = studio.log()
    assert lines[-1]["event"] == "exception uncaught"
    assert lines[-1]["level"] == "critical"
    assert "Sabotaged" in lines[-1]["exception"]


def test_a_metric_that_cannot_be_read_costs_no_other(quick_in: Open) -> None:
    studio = sabotaged(
        quick_in,
        "daemon.collectors:_free_bytes=1000",
        "daemon.jobs.queries:JobQueries.outcomes=1000",
        "daemon.jobs.operator:Operator.paused=1000",
    )
    studio.start()
    for _ in range(3):
        assert studio.metric("i2vd_ready") == 1
    lines = [line for line in studio.log() if line["event"] == "metrics unavailable"]
    assert len(lines) == 3, "once each"
