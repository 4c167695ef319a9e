"""Webhooks: a receiver hears of each job, signed, in order, and after any pause of either side."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.system.conftest import Open
from tests.system.receiver import Receiver
from tests.system.studio import ROOT, Studio, picture

pytestmark = pytest.mark.slow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def studio(quick_in: Open, receiver: Receiver) -> Studio:
    studio = quick_in()
    (studio.root / "secret").write_text(SECRET)
    hook = f'[[webhook]]\nurl = "http://127.0.0.1:{receiver.port}/i2vd"\nsecret_file = "secret"\n'
    studio.settings(f"{studio.config.read_text()}\n{hook}")
    studio.rule("10-bad", '[match]\nnames = ["bad*"]\n\n[make]\nprompt = "fail"\n')
    return studio


def test_each_end_of_a_job_is_told_once_and_signed(studio: Studio, receiver: Receiver) -> None:
    receiver.answers = [500, 301]
    receiver.open()
    studio.start()
    for name in ("one.png", "bad.png", "two.png"):
        studio.drop(name, picture(len(name)))
        studio.until_settled(name, "done", "failed")
    studio.until(lambda: len(receiver.messages) == 3, "all are told")
    assert receiver.received == [("done", "one.png"), ("failed", "bad.png"), ("done", "two.png")]
    for headers, body in receiver.messages:
        Webhook(SECRET).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"two", b"six"), headers)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    named: dict[str, Any] = {}
    exec(example, named)
    headers, body = receiver.messages[1]
    assert named["receive"](body, headers, SECRET)[:2] == ("failed", "bad.png")
    message = json.loads(receiver.messages[0][1])
    assert message["job"]["result"]["clip"] == str(studio.outbox / "one.mp4")
    assert json.loads(receiver.messages[1][1])["detail"]
    assert studio.metric("i2vd_webhook_messages_total", outcome="retried") == 2
    assert studio.metric("i2vd_webhook_messages_total", outcome="delivered") == 3


def test_a_receiver_that_was_away_hears_all_of_it_also_over_a_restart(
    studio: Studio, receiver: Receiver
) -> None:
    studio.start()
    for name in ("one.png", "two.png"):
        studio.drop(name, picture(len(name)))
        studio.until_settled(name, "done")
    studio.kill()
    receiver.open()
    studio.start()
    studio.drop("three.png", picture(3))
    studio.until(lambda: len(receiver.messages) == 3, "all are told")
    assert receiver.received == [("done", "one.png"), ("done", "two.png"), ("done", "three.png")]


def test_a_new_hook_is_not_told_what_was_before(studio: Studio, receiver: Receiver) -> None:
    receiver.open()
    with_hook = studio.config.read_text()
    studio.settings(with_hook.partition("[[webhook]]")[0])
    studio.start()
    studio.drop("old.png", picture(1))
    studio.until_settled("old.png", "done")
    studio.stop()
    studio.settings(with_hook)
    studio.start()
    studio.drop("new.png", picture(2))
    studio.until(lambda: receiver.messages, "it is told")
    assert receiver.received == [("done", "new.png")]


def test_a_secret_that_cannot_be_read_keeps_the_daemon_from_starting(studio: Studio) -> None:
    (studio.root / "secret").unlink()
    assert studio.start(ready=False).wait() == 2
    assert "webhook.secret_file" in studio.log_file.read_text()
