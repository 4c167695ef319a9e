"""The files for Prometheus and Grafana, checked with promtool and a real daemon's metrics."""

import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from daemon.telemetry.gpu_metrics import GpuCollector
from grafana.picture import filled
from tests.system.needs import missing, needs

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((GRAFANA / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
TESTS = yaml.safe_load((GRAFANA / "alerts_test.yml").read_text())["tests"]

NOT_DATA = ("row", "text")
NOT_HERE = {
    *(family.name for family in GpuCollector().describe()),  # no machine of the tests has a GPU
    "i2vd_peak_memory_bytes",  # a CPU does not count it
    "i2vd_memory_prediction_ratio",
}


def promtool(*words: str | Path, stdin: str | None = None) -> str:
    program = needs("promtool", package="prometheus")
    result = subprocess.run(
        [program, *map(str, words)],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=GRAFANA,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] not in NOT_DATA]


def expressions() -> dict[str, str]:
    """Return every query of the dashboard and of the alerts, by its place."""
    found = {
        f"panel {panel['title']!r} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    return found | {f"alert {rule['alert']}": rule["expr"] for rule in RULES}


def families(scrape: str) -> dict[str, Metric]:
    """Return i2vd's metrics by name, as Prometheus names them; counters with their _total."""
    found = {family.name: family for family in GpuCollector().describe()}
    for family in text_string_to_metric_families(scrape):
        if family.name.startswith("i2vd_") and not family.name.endswith("_created"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = family
    return found


def series(scrape: str) -> set[str]:
    """Return the series names that a query can use."""
    names = set()
    for name, family in families(scrape).items():
        endings = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("",)
        names |= {name + ending for ending in endings}
    return names


# --- Prometheus


def test_configuration_and_rules_are_sound():
    promtool("check", "config", "prometheus.yml")
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "alerts.yml")


def test_alerts_fire_and_keep_silent():
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tested_both_ways():
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    tested = sorted(test["name"] for test in TESTS)
    assert tested == sorted(f"{name} {what}" for name in names for what in ("fires", "is silent"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule):
    assert re.fullmatch(r"I2vd([A-Z][a-z]+)+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["description"]) > 60


@pytest.mark.slow
def test_a_real_scrape_is_clean(scrape):
    assert promtool("check", "metrics", stdin=scrape) == ""


def test_no_picture_adds_a_label(scrape):
    """Labels are presets, rules, inboxes, stages and fixed names, never names of pictures."""
    labels = {
        value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert not any("png" in value for value in labels)


@pytest.mark.slow
def test_every_query_asks_for_metrics_that_exist(scrape):
    known = series(scrape)
    for place, expr in expressions().items():
        names = set(re.findall(r"\bi2vd_[a-z0-9_]+", expr))
        assert names - known == set(), place
        assert names or expr.startswith("up{"), place


@pytest.mark.slow
def test_every_metric_is_on_the_board_or_in_an_alert(scrape):
    asked = set(re.findall(r"\bi2vd_[a-z0-9_]+", " ".join(expressions().values())))
    unseen = {
        name for name in families(scrape) if not {name, f"{name}_bucket", f"{name}_sum"} & asked
    }
    assert unseen == set()


@pytest.mark.slow
def test_the_readme_knows_every_metric(scrape):
    rows = re.findall(
        r"^\| `(i2vd_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$",
        (GRAFANA / "README.md").read_text(),
        re.MULTILINE,
    )
    told = {name: (kind, help_text) for name, kind, _, help_text in rows}
    assert told == {name: (f.type, f.documentation) for name, f in families(scrape).items()}
    labels = {name: set(re.findall(r"`(\w+)`", text)) for name, _, text, _ in rows}
    for name, family in families(scrape).items():
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == labels[name], name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_its_runbook(rule):
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


# --- the board


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_shows_what_prometheus_scraped(prometheus, panel):
    """No query comes back empty or not-a-number, but for what only a GPU has."""
    for target in panel["targets"]:
        found = prometheus.ask(filled(target["expr"], "1m"))
        names = set(re.findall(r"\bi2vd_[a-z0-9_]+", target["expr"]))
        if names <= NOT_HERE:
            assert found == []
            continue
        values = [float(series["value"][1]) for series in found]
        assert any(math.isfinite(value) for value in values), target["expr"]


def test_the_board_can_be_drawn(prometheus, tmp_path):
    file = tmp_path / "board.png"
    command = [sys.executable, str(GRAFANA / "picture.py"), prometheus.url, str(file)]
    subprocess.run([*command, "--minutes", "1", "--window", "30s"], check=True, timeout=120)
    with Image.open(file) as drawn:
        assert len(drawn.convert("RGB").getcolors(2**24)) > 100


def test_every_query_is_promql(tmp_path):
    """As recording rules: promtool then parses them."""
    rules = []
    for number, expr in enumerate(expressions().values()):
        rules.append({"record": f"query:{number}", "expr": filled(expr, "5m")})
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_every_panel_explains_itself():
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"] == "no data", panel["title"]


def test_every_panel_asks_the_chosen_source_job_and_instance():
    assert {v["name"] for v in DASHBOARD["templating"]["list"]} == {"datasource", "job", "instance"}
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            selectors = re.findall(r"\bi2vd_[a-z0-9_]+\{(.*?)\}", target["expr"])
            assert selectors, panel["title"]
            for selector in selectors:
                assert 'job=~"$job"' in selector, panel["title"]
                assert 'instance=~"$instance"' in selector, panel["title"]


def test_ids_are_unique():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), panel["title"]


def test_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_board_is_what_the_script_makes():
    if find_spec("grafana_foundation_sdk") is None:
        missing("this test needs: pip install -c constraints.txt grafana-foundation-sdk")
    made = subprocess.run(
        [sys.executable, str(GRAFANA / "dashboard.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert made.stdout == (GRAFANA / "dashboard.json").read_text()


@pytest.mark.parametrize("file", ["datasources/i2vd.yml", "dashboards/i2vd.yml"])
def test_provisioning_is_yaml_of_version_1(file):
    assert yaml.safe_load((GRAFANA / "provisioning" / file).read_text())["apiVersion"] == 1
