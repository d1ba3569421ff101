"""How near the adaptive node comes to a client that knows every limit, server by server."""

from typing import Any

from .laboratory import SEEN, UNSEEN, Server, adaptive, fixed

SEEDS = (1, 2)


def measure(servers: list[Server], group: str, seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Any]]:
    """Return one row for each server: shares of the clairvoyant's speed, shares refused, and items lost."""
    rows = []
    for server in servers:
        ours = [adaptive(server, seed)[0] for seed in seeds]
        theirs = [fixed(server, seed) for seed in seeds]
        rows.append(
            {
                "group": group,
                "server": server.name,
                "speed": sum(run.speed for run in ours) / len(seeds),
                "of bound": sum(run.of_bound for run in ours) / len(seeds),
                "refused": sum(run.refused for run in ours) / len(seeds),
                "lost": sum(run.lost for run in ours),
                "fixed speed": sum(run.speed for run in theirs) / len(seeds),
                "fixed refused": sum(run.refused for run in theirs) / len(seeds),
            }
        )
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """Return the table, with the mean and the worst of each group."""
    lines = [
        "speed: a share of that of a client that knows everything; of bound: of one that starts at 10 and must grow by 1.2, too",
        f"{'server':36} {'speed':>6} {'of bound':>9} {'refused':>8} {'lost':>5}   semaphore of 20 with backoff: speed, refused",
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        lines.append(f"-- {group}")
        lines += [
            f"{row['server']:36} {row['speed']:6.3f} {row['of bound']:9.3f} {row['refused']:8.2%} {row['lost']:5}"
            f"   {row['fixed speed']:6.3f} {row['fixed refused']:8.2%}"
            for row in mine
        ]
        for name, least, most in (("mean", _mean, _mean), ("worst", min, max)):
            speed, of_bound, refused = (
                how([row[key] for row in mine]) for how, key in ((least, "speed"), (least, "of bound"), (most, "refused"))
            )
            lines.append(f"{name:36} {speed:6.3f} {of_bound:9.3f} {refused:8.2%}")
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def run() -> list[dict[str, Any]]:
    """Run every server, print the table and return its rows."""
    rows = measure(SEEN, "tuned on these") + measure(UNSEEN, "never looked at while tuning")
    print(report(rows))
    return rows
