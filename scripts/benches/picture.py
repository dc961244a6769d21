"""Bar charts as SVG text, nothing else needed: horizontal bars with the range of the runs and a line at the limit."""

from html import escape
from typing import Any

_WIDTH, _LABEL, _NUMBERS, _ROW, _TOP = 960, 250, 210, 30, 52
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #222 } .title { font-weight: 600; font-size: 15px }
  .note { fill: #666; font-size: 11px } .ours { fill: #2a7f62 } .limit { fill: #8a8f98 } .other { fill: #c9863b }
  .range { stroke: #222; stroke-width: 1.5 } .line { stroke: #8a8f98; stroke-dasharray: 4 3 } .paper { fill: #fff }
"""


def bars(title: str, summary: list[dict[str, Any]]) -> str:
    """Return a picture of the medians; an entry that does not count is named without a bar, a very long bar is cut."""
    counted = [entry for entry in summary if entry["counts"]]
    ours = [entry["median_s"] for entry in counted if entry["contender"].startswith("etl")]
    longest = max((entry["most_s"] for entry in counted), default=1.0)
    full = min(longest, 12 * min(ours)) if ours else longest
    scale = (_WIDTH - _LABEL - _NUMBERS) / full
    height = _TOP + _ROW * len(summary) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="16" y="28">{escape(title)}</text>',
    ]
    for number, entry in enumerate(summary):
        parts += _row(entry, _TOP + number * _ROW, scale, full)
    if counted and counted[0]["ratio"] == 1:
        x = _LABEL + counted[0]["median_s"] * scale
        parts.append(f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - 30}"/>')
    words = "bar: median · thin line: range of the runs · dashed: the limit · memory: peak PSS of all client processes"
    parts += [f'<text class="note" x="16" y="{height - 10}">{words}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def _row(entry: dict[str, Any], y: int, scale: float, full: float) -> list[str]:
    middle = y + _ROW // 2
    label = f'<text x="{_LABEL - 10}" y="{middle + 4}" text-anchor="end">{escape(entry["contender"])}</text>'
    if not entry["counts"]:
        return [label, f'<text class="note" x="{_LABEL}" y="{middle + 4}">does not count: its result differs</text>']
    kind = "ours" if entry["contender"].startswith("etl") else "limit" if entry["ratio"] == 1 else "other"
    width = min(entry["median_s"], full) * scale
    low, high = (_LABEL + min(entry[name], full) * scale for name in ("least_s", "most_s"))
    ratio = f" · {entry['ratio']:.2f}×" if entry["ratio"] else ""
    cut = " »" if entry["median_s"] > full else ""
    numbers = f"{cut}{entry['median_s']:.1f} s{ratio} · {entry['peak_mb']:,} MB"
    return [
        label,
        f'<rect class="{kind}" x="{_LABEL}" y="{y + 6}" width="{width:.1f}" height="{_ROW - 12}" rx="2"/>',
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<text x="{max(high, _LABEL + width) + 8:.1f}" y="{middle + 4}">{escape(numbers)}</text>',
    ]
