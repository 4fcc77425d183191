#!/usr/bin/env python3
"""picture.py ROOT: docs/perplexity.svg, which `voronoi compare` made, shows the figures that the table of docs/methods.md has."""
import pathlib
import re
import sys
import xml.etree.ElementTree

TABLE = ("method", "true bits", "WikiText-2")


def table_rows(text):
    """(method, true bits, perplexity) of the first table with these columns."""
    columns, rows = None, []
    for line in text.splitlines():
        cells = [cell.strip(" *") for cell in line.strip().strip("|").split("|")]
        if columns is None and set(TABLE) <= set(cells):
            columns = [cells.index(name) for name in TABLE]
        elif columns is not None and not line.startswith("|"):
            break
        elif columns is not None and not set(cells[0]) <= set("-: "):
            method, bits, perplexity = (cells[column] for column in columns)
            rows.append((method, float(bits), float(perplexity.replace(",", ""))))
    return rows


def number(text):
    return float(text.replace("\u202f", ""))


def main():
    docs = pathlib.Path(sys.argv[1]) / "docs"
    texts = ["".join(element.itertext()) for element in xml.etree.ElementTree.parse(docs / "perplexity.svg").iter()]
    shown, unquantized = [], []
    for text in texts:
        if match := re.fullmatch(r"([^ ]+) [0-9.]+ bits: ([^ ]+) at ([^ ]+) true bits a weight", text):
            shown.append((match[1], number(match[3]), number(match[2])))
        elif match := re.fullmatch(r"unquantized ([^ ]+)", text):
            unquantized.append(number(match[1]))
    rows = table_rows((docs / "methods.md").read_text(encoding="utf-8"))
    if len(rows) < 2:
        raise SystemExit("FAILED: no table of figures in docs/methods.md")
    # The table rounds bits to 0.01 and perplexities to four digits or more.
    missing = [row for row in rows if not any(
        abs(perplexity / row[2] - 1) < 1e-3 and (row[0] == "unquantized" or (method == row[0] and abs(bits - row[1]) < 0.011))
        for method, bits, perplexity in shown + [("unquantized", None, value) for value in unquantized])]
    if missing:
        raise SystemExit(f"FAILED: docs/perplexity.svg does not show {missing}; `voronoi compare` makes it anew (compare.svg)")
    print(f"{len(rows)} figures are shown")


main()
