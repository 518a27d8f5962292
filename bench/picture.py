"""`make picture`: boots a new town once with `gastown up` and draws what happened as an SVG."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

GASTOWN = Path(sys.executable).with_name("gastown")
LEFT, WIDTH, ROW, TOP, RIGHT = 230, 560, 22, 46, 20
COLOURS = {"hall": "#8b949e", "container process": "#8b949e", "prewarm": "#2f81f7", "mayor start": "#2da44e"}
OTHER = "#a371f7"
LAST = {"first word", "answer"}


def boot(folder: str) -> dict[str, object]:
    report = Path(folder) / "up.json"
    command = [str(GASTOWN), "up", "--dir", f"{folder}/town", "--port", "0", "--exit-after-first-answer"]
    subprocess.run([*command, "--json", str(report)], check=True, env=dict(os.environ))
    return json.loads(report.read_text())


def draw(bars: list[dict[str, object]]) -> str:
    """One row a bar; the axis is in seconds since `gastown up` was called."""
    total = max(float(bar["endMs"] or 0) for bar in bars)
    height = TOP + ROW * len(bars) + 24
    scale = WIDTH / total
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}"',
        '  font-family="ui-monospace, monospace" font-size="12">',
        "<title>What happens when a town boots, in milliseconds</title>",
        f'<rect width="{LEFT + WIDTH + RIGHT}" height="{height}" fill="#ffffff"/>',
    ]
    for second in range(int(total / 1000) + 1):
        x = LEFT + second * 1000 * scale
        lines.append(f'<line x1="{x:.1f}" y1="{TOP - 14}" x2="{x:.1f}" y2="{height - 14}" stroke="#d0d7de"/>')
        lines.append(f'<text x="{x:.1f}" y="{TOP - 20}" text-anchor="middle" fill="#57606a">{second} s</text>')
    for row, bar in enumerate(bars):
        name, start, end = str(bar["name"]), float(bar["startMs"]), float(bar["endMs"] or bar["startMs"])
        y, x, width = TOP + row * ROW, LEFT + start * scale, max((end - start) * scale, 1.5)
        colour = COLOURS.get(name.strip(), "#d4a72c" if name in LAST else OTHER)
        lines.append(f'<text x="8" y="{y + 12}" fill="#1f2328" xml:space="preserve">{escape(name)}</text>')
        lines.append(
            f'<text x="{LEFT - 10}" y="{y + 12}" text-anchor="end" fill="#57606a">{end - start:.0f} ms</text>'
        )
        lines.append(f'<rect x="{x:.1f}" y="{y + 1}" width="{width:.1f}" height="14" rx="2" fill="{colour}"/>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="gastown-picture-") as folder:
        report = boot(folder)
    bars = report["bars"]
    assert isinstance(bars, list)
    target.write_text(draw(bars))
    print(f"drawn: {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
