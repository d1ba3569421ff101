"""Pictures, for those scripts that have a `--plot FILE.png`. Needs matplotlib."""

from utils import SetupError


def new_figure(width, height):
    """Return an empty figure of so many inches; SetupError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise SetupError("--plot needs matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure, file):
    """Write a figure, in the format that the name of the file says; SetupError if that cannot be."""
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise SetupError(f"--plot {file}: {error}") from error
    print(f"Drawn to {file}.")
