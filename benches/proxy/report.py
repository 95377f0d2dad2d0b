"""What people read, and what programs read."""

import json
from rig import middle


class Table:
    """Medians with their ranges, part by part; nothing is thrown away."""

    def __init__(self):
        self.parts = []

    def title(self, text):
        self.parts.append((text, []))

    def row(self, name, *cells):
        self.parts[-1][1].append((name, [(unit, list(values)) for unit, values in cells]))

    def show(self):
        for title, rows in self.parts:
            print(f"\n{title}")
            width = max((len(name) for name, _ in rows), default=0)
            for name, cells in rows:
                print(f"  {name:{width}}  " + "   ".join(cell(unit, values) for unit, values in cells))

    def as_json(self):
        return [
            {"title": title, "rows": [{"name": name, **dict(cells)} for name, cells in rows]}
            for title, rows in self.parts
        ]


def cell(unit, values):
    text = f"{number(middle(values))} {unit}"
    return text if len(values) < 2 else f"{text} ({number(min(values))}–{number(max(values))})"


def number(value):
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


# What is printed last, in this order; others follow.
VALUES = """cpu_ratio_1 cpu_ratio_64 cpu_ratio_256 haproxy_ratio_64 added_p50_us added_p99_us sse_kib_per_stream
sse_cpu_us_per_event rss_idle_mib bytes_per_family start_ms binary_mib""".split()


def show_values(values):
    """The further ones first: what matters stands last."""
    print()
    for name in [*(name for name in values if name not in VALUES), *(name for name in VALUES if name in values)]:
        print(f"{name}={values[name]:.2f}" if values[name] < 100 else f"{name}={values[name]:.0f}")


def svg(table, path):
    """Every row that was measured against nginx: its median as a mark, its range as a line."""
    rows = [
        (title, name, values)
        for title, part in table.parts
        for name, cells in part
        for unit, values in cells
        if unit == "× nginx" and name.split(",")[0] != "nginx"
    ]
    if not rows:
        return
    left, width, step = 230, 420, 22
    height = step * (len(rows) + len({title for title, *_ in rows})) + 50
    most = max(2.0, max(max(values) for *_, values in rows) * 1.05)
    at = lambda value: left + width * value / most
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 60} {height}" '
        'font-family="sans-serif" font-size="12">',
        "<style>text{fill:#24292f}.r{stroke:#0969da}.m{fill:#0969da}.p .r{stroke:#6e7781}.p .m{fill:#6e7781}"
        ".n{stroke:#cf222e}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>",
        f'<line class="n" x1="{at(1):.1f}" x2="{at(1):.1f}" y1="20" y2="{height - 20}"/>',
        f'<text x="{at(1):.1f}" y="14" text-anchor="middle">nginx</text>',
    ]
    y, last = 20, None
    for title, name, values in rows:
        y += step
        if title != last:
            out.append(f'<text x="4" y="{y}" font-weight="bold">{title}</text>')
            last, y = title, y + step
        kind = "" if name.startswith("proxy") else ' class="p"'
        low, mid, high = at(min(values)), at(middle(values)), at(max(values))
        out.append(
            f'<g{kind}><text x="16" y="{y}">{name}</text>'
            f'<line class="r" stroke-width="2" x1="{low:.1f}" x2="{high:.1f}" y1="{y - 4}" y2="{y - 4}"/>'
            f'<circle class="m" r="4.5" cx="{mid:.1f}" cy="{y - 4}"/>'
            f'<text x="{high + 8:.1f}" y="{y}">{middle(values):.2f}</text></g>'
        )
    out.append("</svg>")
    path.write_text("\n".join(out) + "\n")
