#!/usr/bin/env python3
"""Cost per call against payload size and against calls in flight.

    plot.py measure POINTS.csv NAME=COMMAND... [--rounds N] [--seconds S]
    plot.py draw POINTS.csv PAYLOAD.svg IN_FLIGHT.svg

`measure` runs each `COMMAND echo-LENGTH-IN_FLIGHT N` in turn, point by point, and writes the
median of the rounds. `draw` needs nothing but the file. Only the standard library is used.
"""

import argparse
import csv
import json
import math
import shlex
import statistics
import subprocess
import sys

SIZES = [16 << (2 * k) for k in range(11)]  # 16 B to 16 MiB
IN_FLIGHT = [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000]
SMALL = 16

# ---------------------------------------------------------------- measure


def points():
    """Payload lengths one call at a time, then small payloads with many in flight."""
    return [(size, 1) for size in SIZES] + [(SMALL, calls) for calls in IN_FLIGHT[1:]]


def run(command, size, in_flight, n):
    """Returns the microseconds per call."""
    words = [*shlex.split(command), f"echo-{size}-{in_flight}", str(n)]
    output = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    result = json.loads(output.stdout)
    return result["seconds"] * 1e6 / result["n"]


def calibrate(command, size, in_flight, seconds):
    """Returns how many calls take about this long, but at least enough to fill the window twice."""
    n = least = max(2 * in_flight, 5)
    while True:
        took = run(command, size, in_flight, n) * n / 1e6
        if took > seconds / 4 or n >= 1 << 22:
            return max(least, min(1 << 22, int(n * seconds / took)))
        n *= 4


def measure(args):
    peers = dict(peer.split("=", 1) for peer in args.peers)
    rows = []
    for size, in_flight in points():
        counts = {name: calibrate(cmd, size, in_flight, args.seconds) for name, cmd in peers.items()}
        # Interleaved, so that disturbances affect all programs.
        rounds = [
            {name: run(cmd, size, in_flight, counts[name]) for name, cmd in peers.items()}
            for _ in range(args.rounds)
        ]
        for name in peers:
            rows.append([name, size, in_flight, round(statistics.median(r[name] for r in rounds), 4)])
            print(*rows[-1], file=sys.stderr)
    with open(args.points, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["peer", "size", "in_flight", "us_per_call"])
        writer.writerows(rows)


# ---------------------------------------------------------------- draw

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 130, 44, 56
# Distinguishable with colour vision deficiencies.
COLOURS = ["#0072b2", "#666666", "#d55e00", "#009e73", "#cc79a7", "#e69f00"]
PREFIXES = ["", "Ki", "Mi", "Gi"]


def bytes_text(n):
    power = min(int(math.log2(n)) // 10, len(PREFIXES) - 1)
    return f"{n >> 10 * power} {PREFIXES[power]}B"


def time_text(us):
    for factor, unit in [(1e-6, "s"), (1e-3, "ms"), (1, "µs"), (1e3, "ns")]:
        if us * factor >= 0.9995:
            return f"{us * factor:g} {unit}"
    return f"{us * 1e3:g} ns"


class Scale:
    """A logarithmic axis."""

    def __init__(self, low, high, start, end):
        self.low, self.high = math.log10(low), math.log10(high)
        self.start, self.end = start, end

    def at(self, value):
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def chart(title, x_title, lines, x_ticks, x_text):
    """SVG of `lines`: by name, a list of (x, y)."""
    ys = [y for line in lines.values() for _, y in line]
    decades = range(math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys))) + 1)
    x = Scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = Scale(10.0 ** decades[0], 10.0 ** decades[-1], HEIGHT - BOTTOM, TOP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15">{title}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{x_title}</text>',
    ]
    for decade in decades:
        at = y.at(10.0**decade)
        out.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        text = time_text(10.0**decade)
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x_ticks:
        at = x.at(tick)
        out.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        text = x_text(tick)
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    # Names are at the ends of their lines, moved apart where they would overlap.
    below = -math.inf
    names = sorted(lines, key=lambda name: y.at(lines[name][-1][1]))
    label_at = {}
    for name in names:
        below = label_at[name] = max(y.at(lines[name][-1][1]), below + 16)
    for colour, (name, line) in zip(COLOURS, lines.items()):
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for a, b in line:
            out.append(f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="2.5" fill="{colour}"/>')
        out.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{label_at[name] + 4:.1f}" fill="{colour}">{name}</text>'
        )
    out.append("</svg>")
    return "\n".join(out) + "\n"


def draw(args):
    with open(args.points, newline="") as file:
        rows = [
            (row["peer"], int(row["size"]), int(row["in_flight"]), float(row["us_per_call"]))
            for row in csv.DictReader(file)
        ]

    def lines(keep, key):
        by_peer = {}
        for row in sorted(filter(keep, rows), key=key):
            by_peer.setdefault(row[0], []).append((key(row), row[3]))
        # In the order of the file, so that a peer has the same colour in all charts.
        return {name: by_peer[name] for name in dict.fromkeys(row[0] for row in rows)}

    with open(args.payload, "w") as file:
        by_size = lines(lambda row: row[2] == 1, lambda row: row[1])
        file.write(
            chart(
                "Cost of a call that echoes its payload, one at a time",
                "payload",
                by_size,
                SIZES[::2],
                bytes_text,
            )
        )
    with open(args.in_flight, "w") as file:
        by_in_flight = lines(lambda row: row[1] == SMALL, lambda row: row[2])
        file.write(
            chart(
                f"Cost of a call of {SMALL} bytes, many in flight",
                "calls in flight",
                by_in_flight,
                [10**k for k in range(6)],
                lambda n: f"{n:,}",
            )
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("measure")
    command.add_argument("points")
    command.add_argument("peers", nargs="+", metavar="NAME=COMMAND")
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--seconds", type=float, default=0.2, help="for each point (0.2)")
    command.set_defaults(do=measure)
    command = commands.add_parser("draw")
    command.add_argument("points")
    command.add_argument("payload")
    command.add_argument("in_flight")
    command.set_defaults(do=draw)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
