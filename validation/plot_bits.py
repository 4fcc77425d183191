#!/usr/bin/env python3
"""plot_bits.py TABLE [OUT.svg]: perplexity over true bits, a line a method, beside the unquantized model; to stdout unless OUT.svg is named.

TABLE is a Markdown file with a table of the columns `method`, `true bits` and `WikiText-2` (docs/methods.md), or a report.json that
`voronoi report` wrote, whose first text is taken. Standard library only; the same figures give the same bytes.
"""
import json
import math
import sys

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 130, 26, 48
# Hues that stand off white and black alike; the words take the page's own colour.
COLOURS = {"rtn": "#d55e00", "gptq": "#b8860b", "vptq": "#2a9d6f", "voronoi": "#3b82f6"}
OTHERS = ["#a855f7", "#ec4899", "#64748b"]


def of_markdown(text):
    """(method, bits, perplexity) of each row, as the table has them; `unquantized` among the methods."""
    columns, rows = None, []
    for line in text.splitlines():
        cells = [cell.strip(" *") for cell in line.strip().strip("|").split("|")]
        if columns is None:
            if {"method", "true bits", "WikiText-2"} <= set(cells):
                columns = [cells.index(name) for name in ("method", "true bits", "WikiText-2")]
        elif not line.startswith("|"):
            break
        elif not set(cells[0]) <= set("-: "):
            method, bits, perplexity = (cells[column] for column in columns)
            rows.append((method, float(bits), float(perplexity.replace(",", ""))))
    return rows


def of_report(report):
    rows = [row for row in report["rows"] if row["metric"] == "perplexity"]
    return [("unquantized" if row["bits_true"] is None else row["method"], row["bits_true"] or 16.0, row["perplexity"])
            for row in rows if row["text_sha256"] == rows[0]["text_sha256"]]


def draw(rows):
    methods = {}
    for method, bits, perplexity in rows:
        methods.setdefault(method, []).append((bits, perplexity))
    if "unquantized" not in methods or len(methods) < 2:
        raise SystemExit("plot_bits: the table needs a row of the unquantized model and rows of quantized ones")
    reference = methods.pop("unquantized")[0][1]
    all_bits = [bits for line in methods.values() for bits, _ in line]
    low_bits, high_bits = math.floor(min(all_bits)), math.ceil(max(all_bits))
    low, high = 0.9 * reference, 10 * reference  # what lies above is marked at the edge, with its number

    def x(bits):
        return LEFT + (bits - low_bits) / (high_bits - low_bits) * (WIDTH - LEFT - RIGHT)

    def y(perplexity):
        return TOP + math.log(high / perplexity) / math.log(high / low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Perplexity over true bits a weight</title>",
        "<style>text{fill:#1f2328}.g{stroke:#8b949e;stroke-opacity:.35}.r{stroke:#1f2328}svg{background:#fff}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.r{stroke:#e6edf3}svg{background:#0d1117}}</style>",
        f'<clipPath id="c"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath>',
    ]
    for tick in (digit * 10**power for power in range(0, 9) for digit in (1, 2, 3, 5)):
        if low <= tick <= high:
            out.append(f'<line class="g" x1="{LEFT}" y1="{y(tick):.1f}" x2="{WIDTH - RIGHT}" y2="{y(tick):.1f}"/>')
            out.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,}</text>')
    for bits in range(low_bits, high_bits + 1):
        out.append(f'<line class="g" x1="{x(bits):.1f}" y1="{TOP}" x2="{x(bits):.1f}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{x(bits):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{bits}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 10}" text-anchor="middle">true bits a weight, all that is stored counted</text>')
    out.append(f'<text x="{LEFT}" y="{TOP - 10}">perplexity (logarithmic), less is better</text>')
    out.append(f'<line class="r" stroke-dasharray="6 4" x1="{LEFT}" y1="{y(reference):.1f}" x2="{WIDTH - RIGHT}" y2="{y(reference):.1f}"/>')
    labels = [(y(reference), f"unquantized {reference:.4g}", None)]  # y, text, colour, of the right margin
    above = 0
    others = iter(OTHERS)
    for method, line in methods.items():
        colour = COLOURS.get(method) or next(others, OTHERS[-1])
        line = sorted(line)
        path = " ".join(f"{x(bits):.1f},{y(p):.1f}" for bits, p in line)
        width = 3 if method == "voronoi" else 2
        out.append(f'<polyline clip-path="url(#c)" fill="none" stroke="{colour}" stroke-width="{width}" points="{path}"/>')
        for bits, p in line:
            name = f"<title>{method}, {bits:g} bits: {p:,.6g}</title>"
            if p <= high:
                out.append(f'<circle cx="{x(bits):.1f}" cy="{y(p):.1f}" r="4" fill="{colour}">{name}</circle>')
                continue
            at = TOP + 18 * above
            above += 1
            out.append(f'<path d="M{x(bits) - 5:.1f} {at + 11}h10l-5-9z" fill="{colour}">{name}</path>')
            out.append(f'<text x="{x(bits) + 10:.1f}" y="{at + 11}" style="fill:{colour}">{method} {p:,.0f}</text>')
        labels.append((y(line[-1][1]), f"{method} {line[-1][1]:.4g}", colour))
    # The lines end close to each other: their names are spread upwards from the lowest.
    below = HEIGHT
    for at, text, colour in sorted(labels, key=lambda label: -label[0]):
        below = min(at + 4, below - 16)
        style = f' style="fill:{colour}"' if colour else ""
        out.append(f'<text x="{WIDTH - RIGHT + 6}" y="{below:.1f}"{style}>{text}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        text = file.read()
    picture = draw(of_report(json.loads(text)) if sys.argv[1].endswith(".json") else of_markdown(text))
    if len(sys.argv) == 3:
        with open(sys.argv[2], "w", encoding="utf-8") as file:
            file.write(picture)
    else:
        sys.stdout.write(picture)


main()
