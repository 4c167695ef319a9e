"""The protocol: each message as one line, held word for word; the two ends may differ in age."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.children.protocol import (
    HEARTBEAT_TIMEOUTS,
    Cancel,
    Cancelled,
    ClipDone,
    Embed,
    Failed,
    FramesReady,
    FreeMemory,
    Generate,
    Hello,
    Inspect,
    Inspected,
    Load,
    Loaded,
    OutOfMemory,
    Output,
    Prepare,
    Prepared,
    Progress,
    QualityRejected,
    QueryMemory,
    Rejected,
    Reply,
    Request,
    Stage,
    Unavailable,
    dump,
    read_reply,
    read_request,
)
from pipeline.memory.modes import Mode
from pipeline.quality import Measurements
from pipeline.request.spec import Spec

SPEC = Spec(
    prompt="p",
    preset="draft",
    width=256,
    height=256,
    frames=8,
    fps=8,
    motion_fps=16,
    steps=20,
    guidance=9.0,
    seed=1,
)
SPEC_LINE = (
    '{"prompt":"p","negative_prompt":"","preset":"draft","width":256,"height":256,'
    '"framing":"crop","frames":8,"fps":8,"motion_fps":16,"steps":20,"guidance":9.0,'
    '"guidance_rescale":0.0,"sampler":"ddim","spacing":null,"speed":"exact","seed":1,"quality":18,'
    '"encoder":"x264","fallback":"auto"}'
)

SHA256 = "0123456789abcdef" * 4

REQUESTS = {
    '{"type":"inspect","lenient":false}': Inspect(),
    f'{{"type":"prepare","sha256":"{SHA256}","width":64,"height":64,"framing":"crop"}}': Prepare(
        sha256=SHA256, width=64, height=64, framing="crop"
    ),
    '{"type":"load","model":"micro","device":"cpu","dtype":"float32","max_memory":null}': Load(
        model="micro", device="cpu", dtype="float32"
    ),
    '{"type":"query_memory"}': QueryMemory(),
    f'{{"type":"generate","job":"j","spec":{SPEC_LINE},"mode":"chunked","width":256,"height":256,'
    '"frames":8,"picture":"/p.png","staging":"/s","limits":{"black":0.0,"grey":0.4,"motion":0.25,'
    '"similarity":0.2}}': Generate(
        job="j",
        spec=SPEC,
        mode=Mode.CHUNKED,
        width=256,
        height=256,
        frames=8,
        picture="/p.png",
        staging="/s",
    ),
    f'{{"type":"embed","job":"j","spec":{SPEC_LINE},"width":256,"height":256,'
    '"picture":"/p.png"}': Embed(job="j", spec=SPEC, width=256, height=256, picture="/p.png"),
    '{"type":"cancel","job":"7"}': Cancel(job="7"),
}
REPLIES = {
    '{"type":"hello","unprotected":["Landlock: not there"]}': Hello(
        unprotected=("Landlock: not there",)
    ),
    f'{{"type":"inspected","sha256":"{SHA256}","size":9,"width":64,"height":48,"format":"JPEG",'
    '"caption":"c"}': Inspected(
        sha256=SHA256, size=9, width=64, height=48, format="JPEG", caption="c"
    ),
    '{"type":"prepared"}': Prepared(),
    '{"type":"rejected","reason":"r","gone":false,"incomplete":false}': Rejected(reason="r"),
    '{"type":"unavailable","reason":"r"}': Unavailable(reason="r"),
    '{"type":"loaded","model":"micro","weights":"00","dtype":"float16","device":"cpu","device_name":"n",'
    '"memory":null,"versions":{"torch":"2"},"seconds":1.5}': Loaded(
        model="micro",
        weights="00",
        dtype="float16",
        device="cpu",
        device_name="n",
        memory=None,
        versions={"torch": "2"},
        seconds=1.5,
    ),
    '{"type":"free_memory","free":9}': FreeMemory(free=9),
    '{"job":"","type":"progress","stage":"denoise","step":1,"steps":50,"preview":"_9g="}': Progress(
        stage="denoise", step=1, steps=50, preview=b"\xff\xd8"
    ),
    '{"job":"7","leaked_bytes":0,"type":"frames_ready"}': FramesReady(job="7", leaked_bytes=0),
    f'{{"job":"","type":"clip_done","output":{{"sha256":"{SHA256}","size":9,"codec":"h264",'
    '"width":64,"height":64,'
    '"frames":8,"fps":8,"duration":1.0},"measurements":{"black":0.0,"grey":0.1,"motion":9.5,'
    '"similarity":0.9,"dropped":0},"seconds":{"condition":0.5},"peak_memory":null,'
    '"unread":{}}': ClipDone(
        output=Output(
            sha256=SHA256,
            size=9,
            codec="h264",
            width=64,
            height=64,
            frames=8,
            fps=8,
            duration=1.0,
        ),
        measurements=Measurements(black=0.0, grey=0.1, motion=9.5, similarity=0.9),
        seconds={"condition": 0.5},
        peak_memory=None,
    ),
    '{"job":"","leaked_bytes":null,"type":"quality_rejected","stage":"denoise","flaw":"not_finite","reason":"r",'
    '"measurements":null}': QualityRejected(stage="denoise", flaw="not_finite", reason="r"),
    '{"job":"","leaked_bytes":null,"type":"out_of_memory","stage":"decode","detail":"d",'
    '"requested":null,"allocated":null,"reserved":null}': OutOfMemory(stage="decode", detail="d"),
    '{"job":"","leaked_bytes":null,"type":"failed","stage":"encode_video","reason":"r","retry":true,'
    '"disk":false}': Failed(stage="encode_video", reason="r", retry=True),
    '{"job":"","leaked_bytes":null,"type":"cancelled"}': Cancelled(),
}


@pytest.mark.parametrize("line", REQUESTS)
def test_a_request_is_one_line_and_comes_back(line):
    assert dump(REQUESTS[line]) == line.encode() + b"\n"
    assert read_request(line.encode()) == REQUESTS[line]


@pytest.mark.parametrize("line", REPLIES)
def test_a_reply_is_one_line_and_comes_back(line):
    assert dump(REPLIES[line]) == line.encode() + b"\n"
    assert read_reply(line.encode()) == REPLIES[line]


def test_every_message_is_held():
    assert {type(m) for m in REQUESTS.values()} == set(get_args(get_args(Request)[0]))
    assert {type(m) for m in REPLIES.values()} == set(get_args(get_args(Reply)[0]))


def test_every_stage_has_its_limit_for_silence():
    assert tuple(HEARTBEAT_TIMEOUTS) == get_args(Stage)


@given(st.text())
def test_a_text_never_breaks_the_line(text):
    line = dump(Rejected(reason=text))
    assert line.count(b"\n") == 1
    assert read_reply(line) == Rejected(reason=text)


@given(st.binary() | st.text().map(str.encode))
def test_rubbish_is_a_validation_error(line):
    for read in (read_request, read_reply):
        try:
            read(line)
        except ValidationError:
            continue
        json.loads(line)


def test_an_unknown_key_is_rubbish():
    with pytest.raises(ValidationError):
        read_reply(b'{"type":"hello","more":1}')
