"""Trial: a sample clip that tells a sick worker from jobs that fail by themselves.

Two different jobs that fail on a device with no clip between them may be the fault of the worker,
the device or the model. A new worker then generates the sample picture with the smallest preset.
The failures are the jobs' own only if it succeeds.
"""

import asyncio
import hashlib
import random
from functools import partial
from pathlib import Path

import structlog

from daemon.config.settings import Inbox
from daemon.dispatch.slot import Slot
from daemon.services import Services
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest
from pipeline.children.protocol import Prepared
from pipeline.memory import ladder
from pipeline.memory.modes import Rung
from pipeline.request.spec import Request, resolve

_SAMPLE = Path(__file__).parents[1] / "samples" / "landscape.jpg"
_SAMPLE_SIZE = (1200, 800)
_ADVICE = "check the model's files, the driver, and the memory of device and host"

log = structlog.get_logger()


async def judge(
    services: Services,
    slot: Slot,
    inbox: Inbox,
    job: str,
    staging: Path,
    outcome: GenerationFailure,
) -> GenerationFailure:
    """Return the outcome if the slot's worker is sound, else the failure of the slot.

    The sample clip runs under the name of the job, so that it can be stopped like it. The worker
    is replaced first, unless it still encodes another clip. Raises OSError.
    """
    log.warning("worker suspected, sample clip started", device=slot.device, reason=outcome.reason)
    if len(slot.running) <= 1:
        await slot.generator.close()
    match await _generate_sample(services, slot, inbox, job, staging / "trial"):
        case None:
            log.info("sample clip generated, worker sound", device=slot.device)
            slot.trust()
            return outcome
        case GenerationFailure(kind="ended" | "cancelled" | "disk") as ended:
            return ended
        case GenerationFailure(reason=reason):
            log.error("sample clip failed, worker sick", device=slot.device, reason=reason)
            problem = f"{outcome.reason}; the sample clip fails too: {reason}; {_ADVICE}"
            slot.distrust(problem)
            return GenerationFailure("load", problem, retry=True)


async def _generate_sample(
    services: Services, slot: Slot, inbox: Inbox, job: str, folder: Path
) -> GenerationFailure | None:
    """Generate the sample clip in a new folder; return the failure, if any."""
    run = services.folder_threads.run
    await run(inbox, folder.mkdir)
    content = await asyncio.to_thread(_SAMPLE.read_bytes)
    sha256 = hashlib.sha256(content).hexdigest()
    spec = resolve(
        Request(prompt="film", preset=next(iter(services.family.presets))),
        services.family,
        source=_SAMPLE_SIZE,
        sha256=sha256,
        rng=random.Random(0),
    )
    clean = folder / "picture.png"
    prepared = await services.image_pool.prepare(
        _SAMPLE, sha256, spec, clean, within=_SAMPLE.parent, in_thread=partial(run, inbox)
    )
    if not isinstance(prepared, Prepared):
        return GenerationFailure("disk", prepared.reason, retry=True)

    def needs(rung: Rung) -> int:
        return services.memory.predicted(rung, spec, slot.generator.dtype)

    rungs = ladder.rungs(spec, services.family, needs)
    request = GenerationRequest(
        job, spec, rungs, lambda rung, at: services.memory.needs(rung, spec, at), clean, folder
    )
    outcome = await slot.generator.generate(request, lambda _: None)
    return None if isinstance(outcome, Clip) else outcome
