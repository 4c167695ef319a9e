"""Makes dashboard.json: `python grafana/dashboard.py > grafana/dashboard.json`.

Written with Grafana's own builders, so that a misspelt option is an error here and not an empty
panel there. Every panel asks the job and the instance chosen above the board.
"""

import sys

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
HEIGHT = 8
THIRD, HALF, WHOLE = 8, 12, 24
EIGHTH = 3


def of(metric: str, window: str = "", **labels: str) -> str:
    """A selector of a metric for the chosen job and instance; a label's value is a pattern."""
    chosen_ones = {"job": "$job", "instance": "$instance"} | labels
    inside = ", ".join(f'{label}=~"{value}"' for label, value in chosen_ones.items())
    return f"{metric}{{{inside}}}" + (f"[{window}]" if window else "")


def in_a_day(state: str) -> str:
    """Jobs that came to a state within 24 hours; those of a daemon younger than that count too."""
    now = of("i2vd_jobs", state=state)
    return f"clamp_min(sum({now} - ({now} offset 24h or {now} * 0)), 0)"


def quantile(q: float, metric: str, *by: str) -> str:
    """Over the last hour, for clips come seldom."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({of(metric + '_bucket', '1h')})))"


def query(expr: str, legend: str = "", *, instant: bool = False) -> Dataquery:
    """A question to Prometheus; `legend` may hold {{labels}}."""
    asked = Dataquery().expr(expr).legend_format(legend or "__auto")
    return asked.instant() if instant else asked.range()


def steps(*levels: tuple[float | None, str]) -> ThresholdsConfig:
    """Colours from each level on; the first level is None, the bottom."""
    return (
        ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=colour) for value, colour in levels])
    )


def number(
    title: str, says: str, expr: str, unit: str, *levels: tuple[float | None, str]
) -> stat.Panel:
    """One figure in large type. "no data" stays apart from 0."""
    return (
        stat.Panel()
        .title(title)
        .description(says)
        .unit(unit)
        .datasource(SOURCE)
        .with_target(query(expr, instant=True).ref_id("A"))
        .thresholds(steps(*(levels or ((None, BLUE),))))
        .color_mode(looks.BigValueColorMode.BACKGROUND_SOLID)
        .graph_mode(looks.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("no data")
        .span(EIGHTH)
        .height(4)
    )


def words(panel: stat.Panel, zero: str, one: str) -> stat.Panel:
    """Say words instead of 0 and 1."""
    return panel.mappings(
        [
            ValueMap(
                options={
                    "0": ValueMappingResult(text=zero, index=0),
                    "1": ValueMappingResult(text=one, index=1),
                }
            )
        ]
    )


def graph(
    title: str, says: str, unit: str, *queries: Dataquery, span: int = THIRD, stacked: bool = False
) -> timeseries.Panel:
    """Lines over time; stacked ones are filled."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(says)
        .unit(unit)
        .datasource(SOURCE)
        .min(0)
        .fill_opacity(40 if stacked else 8)
        .show_points(looks.VisibilityMode.AUTO)
        .tooltip(
            common.VizTooltipOptions()
            .mode(looks.TooltipDisplayMode.MULTI)
            .sort(looks.SortOrder.DESCENDING)
        )
        .no_value("no data")
        .span(span)
        .height(HEIGHT)
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    for letter, each in zip("ABC", queries, strict=False):
        panel = panel.with_target(each.ref_id(letter))
    return panel


def glance() -> list[stat.Panel]:
    """What one reads in five seconds."""
    ready = number(
        "Ready",
        "Pictures are taken and clips can be made, on every instance. /readyz says why not.",
        f"min({of('i2vd_ready')})",
        units.NoUnit,
        (None, RED),
        (1, GREEN),
    )
    paused = number(
        "Claiming",
        "Whether somebody has said `i2vd pause`.",
        f"max({of('i2vd_paused')})",
        units.NoUnit,
        (None, GREEN),
        (1, ORANGE),
    )
    return [
        words(ready, "not ready", "ready"),
        words(paused, "working", "paused"),
        number(
            "Waiting",
            "Jobs in the queue.",
            f"sum({of('i2vd_jobs', state='queued')})",
            units.Short,
        ),
        number(
            "Oldest waits",
            "For how long the oldest job in the queue has waited.",
            f"max({of('i2vd_queue_oldest_seconds')})",
            units.Seconds,
            (None, GREEN),
            (1800, ORANGE),
            (7200, RED),
        ),
        number(
            "All done in",
            "When the whole queue will be done, at the pace of the last clips; no data before the "
            "first clip.",
            f"max({of('i2vd_queue_eta_seconds')})",
            units.Seconds,
        ),
        number(
            "In hand",
            "Jobs that are being made or published now.",
            f"sum({of('i2vd_jobs', state='running|publishing')})",
            units.Short,
        ),
        number(
            "Clips in 24 h",
            "Jobs done within a day.",
            in_a_day("done"),
            units.Short,
            (None, GREEN),
        ),
        number(
            "Failed in 24 h",
            "Jobs and pictures given up within a day; `i2vd jobs --state failed` says why.",
            in_a_day("failed"),
            units.Short,
            (None, GREEN),
            (1, ORANGE),
            (10, RED),
        ),
    ]


def throughput() -> list[timeseries.Panel]:
    """How much, and how fast."""
    finished = of("i2vd_jobs_finished_total", "$__rate_interval")
    done = of("i2vd_jobs_finished_total", "$__rate_interval", outcome="done")
    return [
        graph(
            "Clips an hour",
            "Pace of finished clips, by preset.",
            units.Short,
            query(f"3600 * sum by (preset) (rate({done}))", "{{preset}}"),
            stacked=True,
        ),
        graph(
            "Ended jobs an hour",
            "Pace of ended jobs, by outcome.",
            units.Short,
            query(f"3600 * sum by (outcome) (rate({finished}))", "{{outcome}}"),
            stacked=True,
        ),
        graph(
            "Jobs by state",
            "What the ledger holds and has not ended.",
            units.Short,
            query(
                f"sum by (state) ({of('i2vd_jobs', state='queued|running|publishing')})",
                "{{state}}",
            ),
            stacked=True,
        ),
        graph(
            "From arrival to clip",
            "Seconds from a picture's arrival to its clip, waiting included, by preset; half and "
            "nine tenths of the clips of the last hour took less.",
            units.Seconds,
            query(quantile(0.5, "i2vd_clip_seconds", "preset"), "half, {{preset}}"),
            query(quantile(0.9, "i2vd_clip_seconds", "preset"), "nine tenths, {{preset}}"),
        ),
        graph(
            "Seconds by stage",
            "Mean time of the attempts of the last hour in each stage.",
            units.Seconds,
            query(
                f"sum by (stage) (rate({of('i2vd_stage_seconds_sum', '1h')}))"
                f" / sum by (stage) (rate({of('i2vd_stage_seconds_count', '1h')}))",
                "{{stage}}",
            ),
            stacked=True,
        ),
        graph(
            "Denoising steps a second",
            "The GPU's real pace; 0 while nothing is made.",
            units.Short,
            query(
                f"sum by (instance) (rate({of('i2vd_denoising_steps_total', '$__rate_interval')}))",
                "{{instance}}",
            ),
        ),
        graph(
            "Predicted and actual time",
            "Predicted seconds of the clips of the last six hours over the actual ones: "
            "1 is right, 2 means that clips take half of the predicted time.",
            units.Short,
            query(
                f"sum(increase({of('i2vd_clip_predicted_seconds_total', '6h')}))"
                f" / sum(increase({of('i2vd_clip_actual_seconds_total', '6h')}))",
                "predicted / actual",
            ),
            span=WHOLE,
        ),
    ]


def memory() -> list[timeseries.Panel]:
    """The ladder, and what goes wrong in making."""
    return [
        graph(
            "Out of memory",
            "Steps down the ladder in an hour, by the mode that had no room.",
            units.Short,
            query(f"sum by (mode) (increase({of('i2vd_fallbacks_total', '1h')}))", "{{mode}}"),
            query(f"sum(increase({of('i2vd_clips_degraded_total', '1h')}))", "clips made smaller"),
        ),
        graph(
            "Peak memory",
            "Most device memory that the last clip of a preset reserved.",
            units.BytesIEC,
            query(f"max by (preset) ({of('i2vd_peak_memory_bytes')})", "{{preset}}"),
        ),
        graph(
            "Predicted and measured memory",
            "Ratio of the last clip in each mode: above 1 the prediction was high, below 1 it was "
            "too low. The next prediction is corrected by it.",
            units.Short,
            query(f"max by (mode) ({of('i2vd_memory_prediction_ratio')})", "{{mode}}"),
        ),
        graph(
            "Retries and child exits",
            "Failed attempts that are tried again, and unexpected child exits, in an hour.",
            units.Short,
            query(f"sum(increase({of('i2vd_retries_total', '1h')}))", "retries"),
            query(
                f"sum by (child, cause) (increase({of('i2vd_child_exits_total', '1h')}))",
                "{{child}}: {{cause}}",
            ),
            span=HALF,
        ),
        graph(
            "Rejected by the quality check",
            "Clips whose frames were black, grey, frozen or unlike the picture, in an hour.",
            units.Short,
            query(
                f"sum by (flaw) (increase({of('i2vd_quality_rejections_total', '1h')}))", "{{flaw}}"
            ),
            span=HALF,
        ),
        graph(
            "Motion of clips",
            "Mean difference of a pixel to the first frame, of 255; a tenth of the clips of the "
            "last hour moved less. The quality check rejects clips below its limit.",
            units.Short,
            query(quantile(0.1, "i2vd_clip_motion_levels"), "a tenth"),
            query(quantile(0.5, "i2vd_clip_motion_levels"), "half"),
            span=HALF,
        ),
        graph(
            "Similarity of clips",
            "Of the first frame to the picture, 1 is equal. A tenth of the clips of the last hour "
            "were below the lower line. The quality check rejects clips below its limit.",
            units.Short,
            query(quantile(0.1, "i2vd_clip_similarity"), "a tenth"),
            query(quantile(0.5, "i2vd_clip_similarity"), "half"),
            span=HALF,
        ),
    ]


def gpu() -> list[timeseries.Panel]:
    """The cards, as their driver sees them; no data on a host without one."""

    def each(metric: str) -> Dataquery:
        return query(f"max by (instance, gpu) ({of(metric)})", "{{instance}} GPU {{gpu}}")

    return [
        graph(
            "GPU memory in use",
            "By any process on the card, against what the card has.",
            units.BytesIEC,
            each("i2vd_gpu_memory_used_bytes"),
            query(f"max by (instance, gpu) ({of('i2vd_gpu_memory_total_bytes')})", "all of it"),
        ),
        graph(
            "GPU at work",
            "Share of the time in which a card computes.",
            units.PercentUnit,
            each("i2vd_gpu_utilization_ratio"),
        ),
        graph(
            "GPUs that answer",
            "1 while a card answers, 0 when it was there and does not.",
            units.NoUnit,
            each("i2vd_gpu_up"),
        ),
        graph(
            "GPU temperature",
            "Of the chip. Most cards slow down from about 85 degrees on.",
            units.Celsius,
            each("i2vd_gpu_temperature_celsius"),
            span=HALF,
        ),
        graph(
            "GPU power",
            "Electrical power that a card draws.",
            units.Watt,
            each("i2vd_gpu_power_watts"),
            span=HALF,
        ),
    ]


def intake() -> list[timeseries.Panel]:
    """What comes in, and what does not get further."""
    return [
        graph(
            "Pictures put aside",
            "Rejected in an hour, by reason: unreadable, or a sidecar that is wrong.",
            units.Short,
            query(
                f"sum by (reason) (increase({of('i2vd_pictures_rejected_total', '1h')}))",
                "{{reason}}",
            ),
        ),
        graph(
            "Pictures without a rule",
            "They lie in the inbox because no rule takes them.",
            units.Short,
            query(f"sum by (inbox) ({of('i2vd_inbox_unmatched')})", "{{inbox}}"),
        ),
        graph(
            "Scan",
            "Seconds that the last look at an inbox took.",
            units.Seconds,
            query(f"max by (inbox) ({of('i2vd_scan_seconds')})", "{{inbox}}"),
        ),
        graph(
            "Inbox there",
            "1 while the inbox can be read.",
            units.NoUnit,
            query(f"min by (inbox) ({of('i2vd_inbox_available')})", "{{inbox}}"),
            span=HALF,
        ),
        graph(
            "Watched by inotify",
            "1 if inotify events wake the scan, 0 if the inbox is only polled, as a network share.",
            units.NoUnit,
            query(f"min by (inbox) ({of('i2vd_inbox_inotify')})", "{{inbox}}"),
            span=HALF,
        ),
    ]


def house() -> list[timeseries.Panel | stat.Panel]:
    """Space, rules, version, hosts."""
    reloaded = number(
        "Rules",
        "Whether the last reload of every inbox's rules succeeded; if not, the last good set is "
        "in force.",
        f"min({of('i2vd_rules_last_reload_successful')})",
        units.NoUnit,
        (None, RED),
        (1, GREEN),
    )
    return [
        graph(
            "Free space",
            "Bytes free where each folder lies.",
            units.BytesIEC,
            query(f"min by (inbox, folder) ({of('i2vd_free_bytes')})", "{{inbox}} {{folder}}"),
            span=HALF,
        ),
        words(reloaded, "mistakes", "in force").span(4).height(HEIGHT),
        number(
            "Age of the rules",
            "Since the last successful reload of any inbox's rules.",
            f"time() - max({of('i2vd_rules_last_reload_success_timestamp_seconds')})",
            units.Seconds,
        )
        .span(4)
        .height(HEIGHT),
        number(
            "Version",
            "Instances by the version that they run.",
            f"count by (version) ({of('i2vd_build_info')})",
            units.Short,
        )
        .text_mode(looks.BigValueTextMode.VALUE_AND_NAME)
        .span(4)
        .height(HEIGHT),
        graph(
            "Hosts",
            "Hosts that work on one queue, by state; a drained one may be stopped.",
            units.Short,
            query(
                f"max by (state) (sum by (instance, state) ({of('i2vd_host_state')}))",
                "{{state}}",
            ),
            span=WHOLE,
            stacked=True,
        ),
    ]


def chosen(label: str, among: str) -> QueryVariable:
    """A label's values to choose from, all at first."""
    return (
        QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({among}, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def board() -> Dashboard:
    """The whole board."""
    built = (
        Dashboard("i2vd")
        .uid("i2vd")
        .description("Pictures into short videos: is it working, how much waits, what failed.")
        .tags(["i2vd"])
        .refresh("30s")
        .time("now-24h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(chosen("job", "i2vd_build_info"))
        .with_variable(chosen("instance", 'i2vd_build_info{job=~"$job"}'))
    )
    number_of = 0
    for title, panels in (
        ("At a glance", glance()),
        ("Throughput and time", throughput()),
        ("Memory and faults", memory()),
        ("GPU", gpu()),
        ("Intake", intake()),
        ("House", house()),
    ):
        number_of += 1
        built = built.with_row(Row(title).id(number_of))
        for panel in panels:
            number_of += 1
            built = built.with_panel(panel.id(number_of))
    return built


def as_json() -> str:
    """The text of dashboard.json."""
    return JSONEncoder(sort_keys=True, indent=2).encode(board().build()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_json())
