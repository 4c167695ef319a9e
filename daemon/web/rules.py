"""Rules and presets over http: those in force, reading them again, and what they would make."""

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
from daemon.web.submit import inbox_of
from pipeline.children.protocol import Inspected
from pipeline.request.presets import Preset
from pipeline.request.spec import Request
from rules.live import LiveRules

Pixels = Annotated[int, Field(ge=1, le=100_000)]


class RuleInForce(BaseModel):
    """One rule: what it asks of a picture, and what it makes of it."""

    name: str
    description: str
    match: dict[str, Any]
    make: dict[str, Any]


class RulesInForce(BaseModel):
    """The rules of one inbox, in order, and how the last reload went."""

    digest: str
    rules: list[str]
    described: list[RuleInForce]
    ok: bool
    mistakes: list[str]
    warnings: list[str]


class Question(BaseModel):
    """A picture that might be dropped. `make` overrides the rule, as a sidecar would."""

    inbox: str | None = None
    path: str = Field(default="picture.jpg", min_length=1, max_length=1000)
    width: Pixels = 1024
    height: Pixels = 1024
    caption: str = Field(default="", max_length=500)
    make: dict[str, Any] = {}


class Presets(BaseModel):
    """The model's presets, the settings of a clip as JSON schema, and what each preset needs."""

    model: str
    presets: dict[str, Preset]
    multiple: int
    sides: list[int]
    settings: dict[str, Any]
    needs: list[requirements.Requirement]


def rules(services: Services, actions: Actions) -> APIRouter:
    """The calls."""
    calls = APIRouter(prefix="/api", tags=["rules"])

    def told() -> dict[str, RulesInForce]:
        return {name: _in_force(live) for name, live in services.rules.items()}

    @calls.get("/rules")
    def in_force() -> dict[str, RulesInForce]:
        """The rules in force, by inbox."""
        return told()

    @calls.post("/rules/reload")
    async def reload() -> dict[str, RulesInForce]:
        """Read the rule files again; the last good set stays where something is wrong."""
        actions.reload_rules()
        return told()

    @calls.get("/presets")
    def presets() -> Presets:
        """The presets, what may be asked of a clip, and what each preset needs here."""
        family = services.family
        return Presets(
            model=services.settings.model.name,
            presets=family.presets,
            multiple=family.multiple,
            sides=list(family.sides),
            settings=Request.model_json_schema(),
            needs=requirements.known(services.settings, services.memory, services.durations),
        )

    @calls.post("/explain")
    def explain(question: Question) -> DryRun:
        """Which rule would take such a picture and why, what would be made, and what it costs."""
        planned = _planned(services, question)
        estimator = Estimator(services.settings, services.memory)
        return dry_run(planned, (question.width, question.height), estimator, services.durations)

    return calls


def _in_force(live: LiveRules) -> RulesInForce:
    enabled = [rule for rule in live.rules.rules if rule.enabled]
    return RulesInForce(
        digest=live.rules.digest,
        rules=[rule.name for rule in enabled],
        described=[
            RuleInForce(
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


def _planned(services: Services, question: Question) -> Plan:
    inbox = inbox_of(services, question.inbox)
    family = services.family
    picture = Inspected(
        sha256="0" * 64, size=0, width=question.width, height=question.height, format="",
        caption=question.caption,
    )  # fmt: skip
    beside: Overrides = (None, [])
    if question.make:
        _, asked, mistakes = make_override(question.make, checker(family))
        beside = (asked, mistakes)
    path = str(PurePosixPath(question.path))
    rules = services.rules[inbox.name].rules
    return plan(path, picture, beside, rules, family, random.SystemRandom())
