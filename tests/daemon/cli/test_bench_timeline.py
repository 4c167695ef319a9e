"""`i2vd bench timeline`: reading a trace, start-up times and idle times of the device."""

import json
from pathlib import Path

import pytest

from daemon.cli.bench_timeline import Start, Stretch, Wait, start, stretches, waits


def test_idle_time_ends_when_the_next_clip_uses_the_device() -> None:
    timeline = [
        Stretch("1", "condition", 0.0, 1.0),
        Stretch("1", "denoise", 1.0, 5.0),
        Stretch("1", "decode", 5.0, 6.0),
        Stretch("1", "encode_video", 6.0, 9.0),
        Stretch("2", "condition", 6.5, 7.0),
        Stretch("2", "decode", 7.0, 8.0),
        Stretch("3", "condition", 8.0, 9.0),
    ]
    assert waits(timeline) == [Wait("1", busy=6.0, idle=0.5), Wait("2", busy=1.5, idle=0.0)]


def test_a_trace_of_a_killed_worker_is_readable_once_it_is_closed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    event = {"name": "denoise", "ts": 2_000_000, "dur": 500_000, "args": {"job": "7"}}
    load = {"name": "load", "ts": 1_000_000, "dur": 500_000, "args": {"job": ""}}
    trace.write_text(f"[\n{json.dumps(event)},\n{json.dumps(load)},\n{{}}]\n")
    assert stretches(trace) == [Stretch("7", "denoise", pytest.approx(2.0), pytest.approx(2.5))]


def test_start_up_times_are_those_of_the_first_worker(tmp_path: Path) -> None:
    def event(name: str, ts: float, dur: float, job: str = "") -> dict[str, object]:
        return {"name": name, "ts": ts * 1e6, "dur": dur * 1e6, "args": {"job": job}}

    events = [
        event("start", 100.0, 3.0),
        event("load", 103.5, 1.0),
        event("condition", 105.0, 0.5, "7"),
        event("step", 105.5, 0.25, "7"),
        event("step", 105.75, 0.125, "7"),
        event("denoise", 105.5, 0.375, "7"),
        event("start", 200.0, 9.0),
    ]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps([*events, {}]))
    assert start(trace) == Start(libraries=3.0, model=4.5, first_step=5.75)
    assert [each.stage for each in stretches(trace)] == ["condition", "denoise"]
