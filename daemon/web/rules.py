"""Rules and presets: show and reload them, and dry runs of a picture."""

import random
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from daemon.estimate import requirements
from daemon.estimate.estimator import Estimator
from daemon.intake.dry_run import DryRun, dry_run
from daemon.intake.intake import Overrides, Plan, checker, plan
from daemon.intake.submit import make_override
from daemon.services import Services
from daemon.web.actions import Actions
from daemon.web.request_body import RequestBody
from daemon.web.submit import find_inbox
from pipeline.checkpoint.text_limit import text_limit_of
from pipeline.children.protocol import Inspected
from pipeline.request.presets import Preset
from pipeline.request.spec import Request
from rules.live import LiveRules

Pixels = Annotated[int, Field(ge=1, le=100_000)]


class ActiveRule(BaseModel):
    """One active rule: its conditions and its settings."""

    name: str
    description: str
    match: dict[str, Any]
    make: dict[str, Any]


class ActiveRules(BaseModel):
    """The active rules of one inbox, in order, and the result of the last reload."""

    digest: str
    rules: list[str]
    described: list[ActiveRule]
    ok: bool
    mistakes: list[str]
    warnings: list[str]


class ExplainRequest(RequestBody):
    """A hypothetical picture; `make` overrides the rule, as an override file would."""

    inbox: str | None = None
    path: str = Field(default="picture.jpg", min_length=1, max_length=1000)
    width: Pixels = 1024
    height: Pixels = 1024
    caption: str = Field(default="", max_length=500)
    make: dict[str, Any] = Field(default_factory=dict)


class Presets(BaseModel):
    """The model's presets, the JSON schema of a clip's settings, and each preset's requirements."""

    model: str
    presets: dict[str, Preset]
    multiple: int
    sides: list[int]
    settings: dict[str, Any]
    needs: list[requirements.Requirement]


def create_router(services: Services, actions: Actions) -> APIRouter:
    """Create the router of rules, presets and dry runs."""
    router = APIRouter(prefix="/api", tags=["rules"])

    def active() -> dict[str, ActiveRules]:
        return {name: _active_rules(live) for name, live in services.rules.items()}

    @router.get("/rules")
    def list_rules() -> dict[str, ActiveRules]:
        """Return the active rules by inbox."""
        return active()

    @router.post("/rules/reload")
    async def reload_rules() -> dict[str, ActiveRules]:
        """Reload the rule files; an inbox with errors keeps its last valid rules."""
        await actions.reload_rules()
        return active()

    @router.get("/presets")
    def get_presets() -> Presets:
        """Return the presets, the settings of a clip, and each preset's requirements here."""
        family = services.family
        return Presets(
            model=services.settings.model.name,
            presets=family.presets,
            multiple=family.multiple,
            sides=list(family.sides),
            settings=Request.model_json_schema(),
            needs=requirements.known(services.settings, services.memory, services.durations),
        )

    @router.post("/explain")
    def explain(request: ExplainRequest) -> DryRun:
        """Dry run: return the matching rule, the resulting specs and their cost for a picture."""
        planned = _plan_picture(services, request)
        estimator = Estimator(services.settings, services.memory)
        limit = text_limit_of(services.settings.model.name)
        size = (request.width, request.height)
        return dry_run(planned, size, estimator, services.durations, limit)

    return router


def _active_rules(live: LiveRules) -> ActiveRules:
    enabled = [rule for rule in live.rules.rules if rule.enabled]
    return ActiveRules(
        digest=live.rules.digest,
        rules=[rule.name for rule in enabled],
        described=[
            ActiveRule(
                name=rule.name,
                description=rule.description,
                match={key: value for key, value in vars(rule.match).items() if value},
                make=dict(rule.make.keys),
            )
            for rule in enabled
        ],
        ok=live.last.ok if live.last else False,
        mistakes=[str(m) for m in live.last.mistakes] if live.last else [],
        warnings=[str(m) for m in live.last.warnings] if live.last else [],
    )


def _plan_picture(services: Services, request: ExplainRequest) -> Plan:
    inbox = find_inbox(services, request.inbox)
    family = services.family
    picture = Inspected(
        sha256="0" * 64, size=0, width=request.width, height=request.height, format="",
        caption=request.caption,
    )  # fmt: skip
    overrides: Overrides = (None, [])
    if request.make:
        _, overriding, mistakes = make_override(request.make, checker(family), inbox.overrides)
        overrides = (overriding, mistakes)
    path = str(PurePosixPath(request.path))
    rules = services.rules[inbox.name].rules
    return plan(path, picture, overrides, rules, family, random.SystemRandom())
