"""Rules over http: those in force, and reading them again."""

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

if TYPE_CHECKING:
    from daemon.app import App


def rules(app: "App") -> APIRouter:
    """The calls."""
    calls = APIRouter(prefix="/api/rules", tags=["rules"])

    @calls.get("")
    def in_force() -> dict[str, Any]:
        """The rules in force, in order, and how the last reload went."""
        return {
            name: {
                "digest": live.rules.digest,
                "rules": [rule.name for rule in live.rules.rules if rule.enabled],
                "ok": live.last.ok if live.last else False,
                "mistakes": [str(m) for m in live.last.mistakes] if live.last else [],
                "warnings": [str(m) for m in live.last.warnings] if live.last else [],
            }
            for name, live in app.rules.items()
        }

    @calls.post("/reload")
    async def reload() -> dict[str, Any]:
        """Read the rule files again; the last good set stays where something is wrong."""
        return {
            name: {"ok": result.ok, "mistakes": [str(m) for m in result.mistakes]}
            for name, result in app.reload_rules().items()
        }

    return calls
