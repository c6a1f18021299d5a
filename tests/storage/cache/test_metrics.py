import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumiai.storage.cache.keyvalue import StoreSize
from kumiai.storage.cache.metrics import Alert, AlertRule, CacheMetrics, LatencyHistogram
from tests.storage.cache.stores import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@given(st.lists(st.floats(1e-6, 90.0), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_percentile_is_right_within_a_bucket(seconds: list[float], share: float) -> None:
    histogram = LatencyHistogram()
    for each in seconds:
        histogram.add(each)
    exact = sorted(seconds)[min(len(seconds) - 1, max(0, -int(-share * len(seconds) // 1) - 1))]

    assert exact <= histogram.percentile(share) * (1 + 1e-9)
    assert histogram.percentile(share) <= max(exact * 1.26, 1e-6)
    assert histogram.count == len(seconds)
    assert histogram.sum_seconds == pytest.approx(sum(seconds))


def test_percentiles_at_the_ends() -> None:
    histogram = LatencyHistogram()
    assert histogram.percentile(0.5) == 0.0

    histogram.add(1e9)
    assert histogram.percentile(0.5) == pytest.approx(100.0)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share"):
            histogram.percentile(share)


def test_rates_are_of_the_start_and_of_the_last_minute(clock: HandClock) -> None:
    metrics = CacheMetrics(clock=clock)
    assert metrics.hit_rate == 1.0
    for _ in range(3):
        metrics.add_hit(0.001)
    metrics.add_hit(0.001, is_negative=True)
    clock.seconds += 100

    for _ in range(4):
        metrics.add_miss(0.001)
        metrics.add_load(0.5)
    metrics.add_load(0.5, has_failed=True)
    metrics.add_error()

    assert metrics.hit_rate == 0.5
    assert metrics.measure("hit_rate") == 0.0
    assert metrics.measure("loads_per_second") == pytest.approx(5 / 60)
    assert metrics.measure("errors_per_second") == pytest.approx(1 / 60)
    assert (metrics.counts.negative_hits, metrics.counts.load_errors) == (1, 1)
    clock.seconds += 100
    assert metrics.measure("hit_rate") == 1.0


def test_rates_of_a_long_life_need_no_more_memory(clock: HandClock) -> None:
    metrics = CacheMetrics(clock=clock)
    for _ in range(1000):
        clock.seconds += 1
        metrics.add_hit(0.001)

    assert len(metrics._slices) <= 61
    assert metrics.measure("loads_per_second") == 0.0


def test_an_alert_begins_after_its_time_and_ends_on_the_other_side(clock: HandClock) -> None:
    told: list[Alert] = []
    rule = AlertRule("deep", "outbox_depth", 100, for_seconds=10, clear_limit=50)
    metrics = CacheMetrics(rules=[rule], on_alert=told.append, clock=clock)

    def look(depth: int, after: float) -> list[bool]:
        clock.seconds += after
        metrics.set_outbox(depth=depth, age_seconds=0.0, parked=0)
        return [alert.is_active for alert in metrics.check_alerts()]

    assert look(101, 0) == []
    assert look(100, 5) == []  # it must last, so it begins anew
    assert look(101, 1) == []
    assert look(150, 9.9) == []
    assert look(150, 0.1) == [True]
    assert metrics.active_alerts == (rule,)
    assert look(60, 100) == []  # between the limits: still on
    assert look(50, 1) == []
    assert look(50, 10) == [False]
    assert [(alert.rule.name, alert.is_active) for alert in told] == [
        ("deep", True),
        ("deep", False),
    ]
    assert metrics.active_alerts == ()


def test_an_alert_may_be_about_too_little(clock: HandClock) -> None:
    metrics = CacheMetrics(
        rules=[AlertRule("cold", "hit_rate", 0.5, is_above=False, clear_limit=0.8)], clock=clock
    )
    metrics.add_miss(0.1)

    (alert,) = metrics.check_alerts()

    assert (alert.is_active, alert.value, alert.at) == (True, 0.0, clock.seconds)
    assert metrics.check_alerts() == []


@pytest.mark.parametrize(
    "options",
    [
        {"for_seconds": -1.0},
        {"clear_limit": 2.0},
        {"clear_limit": 0.5, "is_above": False},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        AlertRule("name", "keys", 1.0, **options)  # type: ignore[arg-type]


def test_every_measure_can_be_taken(clock: HandClock) -> None:
    metrics = CacheMetrics(clock=clock)
    metrics.set_size(StoreSize(keys=3, bytes=500))
    metrics.set_outbox(depth=4, age_seconds=2.5, parked=1)
    metrics.add_hit(0.001)
    metrics.add_load(0.1)

    assert metrics.measure("keys") == 3
    assert metrics.measure("size_bytes") == 500
    assert metrics.measure("outbox_depth") == 4
    assert metrics.measure("outbox_age_seconds") == 2.5
    assert metrics.measure("outbox_parked") == 1
    assert metrics.measure("get_seconds_p99") == pytest.approx(0.001)
    assert metrics.measure("load_seconds_p99") == pytest.approx(0.1)


def test_the_dashboard_is_ready_for_json(clock: HandClock) -> None:
    metrics = CacheMetrics(rules=[AlertRule("cold", "hit_rate", 0.5, is_above=False)], clock=clock)
    metrics.add_miss(0.002)
    metrics.check_alerts()

    data = json.loads(json.dumps(metrics.dashboard_data()))

    assert data["alerts"] == ["cold"]
    assert data["counts"]["misses"] == 1
    assert data["last_minute"]["hit_rate"] == 0.0
    assert data["get_seconds"]["count"] == 1
    assert data["at"] == clock.seconds


def test_the_samples_have_each_name_once_with_its_labels(clock: HandClock) -> None:
    samples = CacheMetrics(clock=clock).samples()

    names = [(sample.name, sample.labels) for sample in samples]
    assert len(set(names)) == len(names)
    assert all(sample.name.startswith("kumiai_cache_") and sample.help for sample in samples)
    assert ("kumiai_cache_hits_total", ()) in names
    assert ("kumiai_cache_get_seconds", (("quantile", "0.99"),)) in names
