"""The things that stand in a landscape: a function each, whose colour is already tinted by the sky."""

from __future__ import annotations

from collections.abc import Callable

from .painting import BLACK, LAMPS_ON, WHITE, Brush, Color, mix


def house(brush: Brush, roof: Color) -> None:
    """Draws pale walls, a coloured roof, a door and two windows, lit after dark."""
    brush.rectangle(brush.shade((240, 226, 200)), -30, -40, 30, 0)
    brush.polygon(roof, (-38, -38), (0, -74), (38, -38))
    brush.rectangle(brush.shade((110, 70, 40)), -8, -22, 8, 0)
    glass = (255, 224, 120) if brush.sky.darkness > LAMPS_ON else brush.shade((150, 200, 236), 0.5)
    brush.rectangle(glass, -24, -32, -12, -20)
    brush.rectangle(glass, 12, -32, 24, -20)


def pine_tree(brush: Brush, _: Color) -> None:
    """Draws a trunk and three green tiers, whatever the colour."""
    brush.rectangle(brush.shade((100, 66, 40)), -5, -16, 5, 0)
    for tier in range(3):
        half, foot = 26 - 5 * tier, -14 - 20 * tier
        needles = brush.shade((28, 104 + 8 * tier, 60), 0.7)
        brush.polygon(needles, (-half, foot), (0, foot - 36), (half, foot))


def round_tree(brush: Brush, crown: Color) -> None:
    """Draws a trunk under three coloured discs."""
    brush.rectangle(brush.shade((110, 72, 44)), -6, -34, 6, 0)
    for u, v, radius in ((-16, -48, 20), (16, -48, 20), (0, -66, 24)):
        brush.disc(crown, u, v, radius)


def tent(brush: Brush, cloth: Color) -> None:
    """Draws a coloured triangle with a dark opening."""
    brush.polygon(cloth, (-38, 0), (0, -54), (38, 0))
    brush.polygon(mix(cloth, BLACK, 0.6), (-11, 0), (0, -34), (11, 0))


def lighthouse(brush: Brush, stripes: Color) -> None:
    """Draws a white tower with two coloured stripes, a lamp and a coloured cap."""
    brush.polygon(brush.shade((246, 246, 244)), (-17, 0), (-11, -84), (11, -84), (17, 0))
    for stripe in range(2):
        low, high = 15.2 - 2.4 * stripe, 14 - 2.4 * stripe  # half widths: the tower tapers
        foot, head = -20 - 34 * stripe, -37 - 34 * stripe
        brush.polygon(stripes, (-low, foot), (-high, head), (high, head), (low, foot))
    brush.rectangle((255, 232, 130), -9, -100, 9, -84)
    brush.polygon(stripes, (-13, -100), (0, -114), (13, -100))


def rock(brush: Brush) -> None:
    """Draws the rock under a lighthouse in the sea."""
    brush.ellipse(brush.shade((110, 100, 92)), -32, -8, 32, 10)


def sailboat(brush: Brush, sails: Color) -> None:
    """Draws a brown hull, a mast, a coloured main sail and a paler jib."""
    brush.polygon(brush.shade((130, 84, 50)), (-36, -14), (36, -14), (24, 4), (-24, 4))
    brush.line(brush.shade((90, 60, 40)), 3, (0, -14), (0, -78))
    brush.polygon(sails, (3, -76), (3, -18), (34, -18))
    brush.polygon(mix(sails, WHITE, 0.4), (-3, -66), (-3, -18), (-26, -18))


def cactus(brush: Brush, _: Color) -> None:
    """Draws a green column with two arms, whatever the colour."""
    flesh = brush.shade((48, 132, 66))
    brush.pill(flesh, 8, -8, -70, 8, 0)
    brush.pill(flesh, 5, -28, -50, -18, -28)
    brush.rectangle(flesh, -26, -34, -6, -26)
    brush.pill(flesh, 5, 18, -60, 28, -36)
    brush.rectangle(flesh, 6, -43, 26, -35)


def snowman(brush: Brush, scarf: Color) -> None:
    """Draws three balls of snow, a coloured scarf, a carrot and two eyes."""
    snow, edge = brush.shade((250, 250, 254), 0.5), brush.shade((200, 208, 222), 0.5)
    for v, radius in ((-18, 22), (-50, 16), (-76, 12)):
        brush.disc(snow, 0, v, radius, outline=edge)
    brush.rectangle(scarf, -13, -66, 13, -60)
    brush.polygon((240, 130, 40), (0, -76), (14, -73), (0, -71))
    brush.ellipse((20, 20, 20), -6, -82, -3, -79)
    brush.ellipse((20, 20, 20), 3, -82, 6, -79)


THINGS: dict[str, Callable[[Brush, Color], None]] = {
    "house": house,
    "pine tree": pine_tree,
    "round tree": round_tree,
    "tent": tent,
    "lighthouse": lighthouse,
    "sailboat": sailboat,
    "cactus": cactus,
    "snowman": snowman,
}
COLOURLESS = ("pine tree", "cactus")  # drawn in green, whatever the caption's colour
