"""For promtool, in a copy of deploy/: the board's queries as rules, and a configuration that it can read.

python tools/deploy/queries.py COPY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml


def main() -> int:
    copy = Path(sys.argv[1])
    board = json.loads((copy / "deploy/grafana/town.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    rules = [
        {"record": f"board:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    (copy / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    configuration = copy / "deploy/prometheus/prometheus.yml"
    jobs = yaml.safe_load(configuration.read_text("utf-8"))
    for job in jobs["scrape_configs"]:
        del job["kubernetes_sd_configs"]
    configuration.write_text(yaml.safe_dump(jobs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
