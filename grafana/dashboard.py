"""Source of dashboard.json: `python grafana/dashboard.py > grafana/dashboard.json`.

Uses Grafana's own builders, so that a misspelt option is an error here and not an empty panel
there. Every panel selects the job and the instance chosen above the dashboard.
"""

import sys
from string import ascii_uppercase

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
    """Return a selector of a metric for the chosen job and instance; label values are patterns."""
    matchers = {"job": "$job", "instance": "$instance"} | labels
    inside = ", ".join(f'{label}=~"{value}"' for label, value in matchers.items())
    return f"{metric}{{{inside}}}" + (f"[{window}]" if window else "")


def in_a_day(state: str) -> str:
    """Return the jobs that reached a state within 24 hours, also on a daemon younger than that."""
    now = of("i2vd_jobs", state=state)
    return f"clamp_min(sum({now} - ({now} offset 24h or {now} * 0)), 0)"


def quantile(q: float, metric: str, *by: str) -> str:
    """Return a quantile of the last hour; a shorter window would hold too few clips."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({q}, sum by ({labels}) (rate({of(metric + '_bucket', '1h')})))"


def query(expr: str, legend: str = "", *, instant: bool = False) -> Dataquery:
    """Return a Prometheus query; `legend` may contain {{labels}}."""
    target = Dataquery().expr(expr).legend_format(legend or "__auto")
    return target.instant() if instant else target.range()


def steps(*levels: tuple[float | None, str]) -> ThresholdsConfig:
    """Return colour thresholds; the first level is None, the lower end."""
    return (
        ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=colour) for value, colour in levels])
    )


def number(
    title: str, description: str, expr: str, unit: str, *levels: tuple[float | None, str]
) -> stat.Panel:
    """Return a panel with one number; a missing value is shown as "no data", not as 0."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
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


def map_values(panel: stat.Panel, zero: str, one: str) -> stat.Panel:
    """Show texts instead of 0 and 1."""
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
    title: str,
    description: str,
    unit: str,
    *queries: Dataquery,
    span: int = THIRD,
    stacked: bool = False,
) -> timeseries.Panel:
    """Return a panel with lines over time; stacked ones are filled."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
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
    for letter, each in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(each.ref_id(letter))
    return panel


def overview_panels() -> list[stat.Panel]:
    """Return the first row, which can be read in five seconds."""
    ready = number(
        "Ready",
        "Every instance accepts pictures and can make clips. /readyz gives the reason if not.",
        f"min({of('i2vd_ready')})",
        units.NoUnit,
        (None, RED),
        (1, GREEN),
    )
    paused = number(
        "Claiming",
        "Claiming is paused after `i2vd pause`.",
        f"max({of('i2vd_paused')})",
        units.NoUnit,
        (None, GREEN),
        (1, ORANGE),
    )
    return [
        map_values(ready, "not ready", "ready"),
        map_values(paused, "working", "paused"),
        number(
            "Queued",
            "Jobs in the queue.",
            f"sum({of('i2vd_jobs', state='queued')})",
            units.Short,
        ),
        number(
            "Oldest queued job",
            "Age of the oldest job in the queue.",
            f"max({of('i2vd_queue_oldest_seconds')})",
            units.Seconds,
            (None, GREEN),
            (1800, ORANGE),
            (7200, RED),
        ),
        number(
            "Queue ETA",
            "Estimated time until the whole queue is done; no data before the first clip.",
            f"max({of('i2vd_queue_eta_seconds')})",
            units.Seconds,
        ),
        number(
            "Running",
            "Jobs that are running or being published.",
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
            "Failed jobs and rejected pictures of one day; see `i2vd jobs --state failed`.",
            in_a_day("failed"),
            units.Short,
            (None, GREEN),
            (1, ORANGE),
            (10, RED),
        ),
    ]


def throughput_panels() -> list[timeseries.Panel]:
    """Return the panels of throughput and time."""
    finished = of("i2vd_jobs_finished_total", "$__rate_interval")
    done = of("i2vd_jobs_finished_total", "$__rate_interval", outcome="done")
    return [
        graph(
            "Clips an hour",
            "Rate of finished clips, by preset.",
            units.Short,
            query(f"3600 * sum by (preset) (rate({done}))", "{{preset}}"),
            stacked=True,
        ),
        graph(
            "Ended jobs an hour",
            "Rate of ended jobs, by outcome.",
            units.Short,
            query(f"3600 * sum by (outcome) (rate({finished}))", "{{outcome}}"),
            stacked=True,
        ),
        graph(
            "Jobs by state",
            "Jobs in the queue that have not ended.",
            units.Short,
            query(
                f"sum by (state) ({of('i2vd_jobs', state='queued|running|publishing')})",
                "{{state}}",
            ),
            stacked=True,
        ),
        graph(
            "From arrival to clip",
            "Seconds from a picture's arrival to its clip, including the wait, by preset: median "
            "and 90th percentile of the last hour.",
            units.Seconds,
            query(quantile(0.5, "i2vd_clip_seconds", "preset"), "median, {{preset}}"),
            query(quantile(0.9, "i2vd_clip_seconds", "preset"), "90th percentile, {{preset}}"),
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
            "Denoising speed of each instance; 0 while no job runs.",
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


def memory_panels() -> list[timeseries.Panel]:
    """Return the panels of memory, fallbacks, faults and clip quality."""
    return [
        graph(
            "Out of memory",
            "Fallbacks to the next rung in an hour, by the memory mode that did not fit.",
            units.Short,
            query(f"sum by (mode) (increase({of('i2vd_fallbacks_total', '1h')}))", "{{mode}}"),
            query(f"sum(increase({of('i2vd_clips_degraded_total', '1h')}))", "clips made smaller"),
        ),
        graph(
            "Peak memory",
            "Peak device memory that the last clip of a preset reserved.",
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
            "In an hour: failed attempts that are tried again, unexpected child exits, failures of "
            "background tasks, and lost log lines.",
            units.Short,
            query(f"sum(increase({of('i2vd_retries_total', '1h')}))", "retries"),
            query(
                f"sum by (child, cause) (increase({of('i2vd_child_exits_total', '1h')}))",
                "{{child}}: {{cause}}",
            ),
            query(
                f"sum by (task) (increase({of('i2vd_background_failures_total', '1h')}))",
                "background task: {{task}}",
            ),
            query(f"sum(increase({of('i2vd_log_lines_lost_total', '1h')}))", "log lines lost"),
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
            "Mean pixel difference to the first frame, of 255. A tenth of the clips of the "
            "last hour moved less. The quality check rejects clips below its limit.",
            units.Short,
            query(quantile(0.1, "i2vd_clip_motion_levels"), "10th percentile"),
            query(quantile(0.5, "i2vd_clip_motion_levels"), "median"),
            span=HALF,
        ),
        graph(
            "Similarity of clips",
            "Of the first frame to the picture, 1 is equal. A tenth of the clips of the last hour "
            "were below the lower line. The quality check rejects clips below its limit.",
            units.Short,
            query(quantile(0.1, "i2vd_clip_similarity"), "10th percentile"),
            query(quantile(0.5, "i2vd_clip_similarity"), "median"),
            span=HALF,
        ),
    ]


def gpu_panels() -> list[timeseries.Panel]:
    """Return the panels of the GPUs; "no data" on a host without one."""

    def each(metric: str) -> Dataquery:
        return query(f"max by (instance, gpu) ({of(metric)})", "{{instance}} GPU {{gpu}}")

    return [
        graph(
            "GPU memory in use",
            "Memory used by all processes on the card, and its total memory.",
            units.BytesIEC,
            each("i2vd_gpu_memory_used_bytes"),
            query(f"max by (instance, gpu) ({of('i2vd_gpu_memory_total_bytes')})", "total"),
        ),
        graph(
            "GPU utilization",
            "Share of the time in which a card is busy.",
            units.PercentUnit,
            each("i2vd_gpu_utilization_ratio"),
        ),
        graph(
            "GPUs that answer",
            "1 if a card answers, 0 if it was found at the start and does not.",
            units.NoUnit,
            each("i2vd_gpu_up"),
        ),
        graph(
            "GPU temperature",
            "Temperature of the chip. Most cards throttle from about 85 degrees on.",
            units.Celsius,
            each("i2vd_gpu_temperature_celsius"),
            span=HALF,
        ),
        graph(
            "GPU power",
            "Power draw of a card.",
            units.Watt,
            each("i2vd_gpu_power_watts"),
            span=HALF,
        ),
    ]


def intake_panels() -> list[timeseries.Panel]:
    """Return the panels of the inboxes and of rejected or unmatched pictures."""
    return [
        graph(
            "Rejected pictures",
            "Pictures rejected in an hour, by reason: unreadable, or an invalid override file.",
            units.Short,
            query(
                f"sum by (reason) (increase({of('i2vd_pictures_rejected_total', '1h')}))",
                "{{reason}}",
            ),
        ),
        graph(
            "Skipped files",
            "Files that were in an inbox for a minute and belong to no job, by reason.",
            units.Short,
            query(f"sum by (reason) ({of('i2vd_skipped_files')})", "{{reason}}"),
        ),
        graph(
            "Scan time",
            "Duration of the last scan of an inbox.",
            units.Seconds,
            query(f"max by (inbox) ({of('i2vd_scan_seconds')})", "{{inbox}}"),
        ),
        graph(
            "Inbox available",
            "1 if the inbox can be read.",
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


def system_panels() -> list[timeseries.Panel | stat.Panel]:
    """Return the panels of disk space, rules, versions and hosts."""
    reloaded = number(
        "Rules",
        "Result of the last reload of every inbox's rules. After a failure the last valid rules "
        "stay in force.",
        f"min({of('i2vd_rules_last_reload_successful')})",
        units.NoUnit,
        (None, RED),
        (1, GREEN),
    )
    return [
        graph(
            "Free space",
            "Free bytes on the file system of each folder.",
            units.BytesIEC,
            query(f"min by (inbox, folder) ({of('i2vd_free_bytes')})", "{{inbox}} {{folder}}"),
            span=HALF,
        ),
        map_values(reloaded, "rejected", "in force").span(4).height(HEIGHT),
        number(
            "Age of the rules",
            "Time since the last successful reload of any inbox's rules.",
            f"time() - max({of('i2vd_rules_last_reload_success_timestamp_seconds')})",
            units.Seconds,
        )
        .span(4)
        .height(HEIGHT),
        number(
            "Version",
            "Number of instances by version.",
            f"count by (version) ({of('i2vd_build_info')})",
            units.Short,
        )
        .text_mode(looks.BigValueTextMode.VALUE_AND_NAME)
        .span(4)
        .height(HEIGHT),
        graph(
            "Hosts",
            "Hosts that share the queue, by state; a drained one may be stopped.",
            units.Short,
            query(
                f"max by (state) (sum by (instance, state) ({of('i2vd_host_state')}))",
                "{{state}}",
            ),
            span=WHOLE,
            stacked=True,
        ),
    ]


def variable(label: str, metric: str) -> QueryVariable:
    """Return a variable with the label's values in a metric; all are selected at first."""
    return (
        QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def board() -> Dashboard:
    """Return the whole dashboard."""
    built = (
        Dashboard("i2vd")
        .uid("i2vd")
        .description("i2vd turns pictures into short clips: readiness, queue, throughput, faults.")
        .tags(["i2vd"])
        .refresh("30s")
        .time("now-24h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "i2vd_build_info"))
        .with_variable(variable("instance", 'i2vd_build_info{job=~"$job"}'))
    )
    last_id = 0
    for title, panels in (
        ("Overview", overview_panels()),
        ("Throughput and time", throughput_panels()),
        ("Memory and faults", memory_panels()),
        ("GPU", gpu_panels()),
        ("Intake", intake_panels()),
        ("System", system_panels()),
    ):
        last_id += 1
        built = built.with_row(Row(title).id(last_id))
        for panel in panels:
            last_id += 1
            built = built.with_panel(panel.id(last_id))
    return built


def as_json() -> str:
    """Return the text of dashboard.json."""
    return JSONEncoder(sort_keys=True, indent=2).encode(board().build()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_json())
