"""Cost against size, for the benches: as numbers with the power of the size that
fits them, and as a picture."""


import math


def power(points):
    """The exponent of a power that fits the last two points: what is constant
    counts least there."""
    (x0, y0), (x1, y1) = points[-2:]
    return math.log(y1 / y0) / math.log(x1 / x0)


def draw(path, found):
    """Two curves, axes from 0."""
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="760" height="300" '
             'font-family="sans-serif" font-size="12">'
             '<rect width="760" height="300" fill="#fff"/>']
    for k, (what, points) in enumerate(found.items()):
        left, top, width, height = 60 + 380 * k, 40, 290, 200
        most_x = max(x for x, _ in points)
        most_y = max(y for _, y in points)
        at = [(left + width * x / most_x, top + height * (1 - y / most_y))
              for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(
            f'<text x="{left}" y="24">CPU seconds by {what}</text>'
            f'<path d="M{left} {top}v{height}h{width}" fill="none" '
            f'stroke="#888"/><polyline points="{left},{top + height} {line}" '
            'fill="none" stroke="#36c" stroke-dasharray="3 3"/>')
        for (x, y), (value, seconds) in zip(at, points):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" '
                         f'fill="#36c"/><text x="{x - 8:.1f}" '
                         f'y="{top + height + 18}">{value}</text>'
                         f'<text x="{x - 30:.1f}" y="{y - 8:.1f}">'
                         f'{seconds:.2f}</text>')
    path.write_text("".join(parts) + "</svg>\n")


def show(path, found):
    """Print {what: [(size, CPU seconds)]}, and draw it."""
    for what, points in found.items():
        print(f"CPU seconds by {what}: " + ", ".join(
            f"{x}: {y:.2f}" for x, y in points)
            + f"; grows as its power {power(points):.2f}")
    draw(path, found)
    print(f"drawn: {path}")
