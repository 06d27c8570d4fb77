"""The option --similarity."""

from typing import Any

import click


class Similarity(click.ParamType[float | None]):
    """A similarity of near duplicates, or `none`."""

    name = "similarity"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Return the number, or None for `none`."""
        if value is None or str(value).lower() == "none":
            return None
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0.8 <= number <= 1:
            self.fail(f"{value!r} is neither a similarity from 0.8 to 1 nor none.", param, ctx)
        return number


SIMILARITY = click.option(
    "--similarity",
    type=Similarity(),
    metavar="0.8-1|none",
    default=0.97,
    show_default=True,
    help="Minimum similarity of near duplicates; none: near duplicates are not looked for.",
)
