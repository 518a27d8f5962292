"""What `/metrics` says, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gastown.testing.town import FakeTown

__all__ = ["Scrape", "scrape"]


class Scrape:
    """One scrape. `families` are by the name of the table; calling it gives the sum of all series that fit."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, Metric] = {}
        for family in text_string_to_metric_families(text):
            # The parser takes the `_total` of a counter for a suffix.
            self.families[family.name + ("_total" if family.type == "counter" else "")] = family
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name whose labels hold `labels`; 0 where there are none."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"gastown_{name}" and labels.items() <= sample.labels.items()
        )

    def within(self, name: str, seconds: float, **labels: str) -> float:
        """How many observations of a histogram were `seconds` at most, which must be one of its bounds."""
        bound = str(float(seconds))
        assert bound in {sample.labels.get("le") for sample in self.samples}
        return self(f"{name}_bucket", le=bound, **labels)


async def scrape(town: FakeTown) -> Scrape:
    answer = await town.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(answer.text)
