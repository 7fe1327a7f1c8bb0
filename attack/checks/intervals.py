"""How sure a share of few images is."""

from math import sqrt
from statistics import NormalDist


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval (low, high) of a share, in [0, 1]: honest at 0 of n and n of n too.

    Its ends are the p that solve |p̂ - p| = z √(p (1 - p) / n) with p̂ = successes / n and z the normal quantile of
    `confidence` (Wilson, JASA 1927; Brown, Cai and DasGupta, Statistical Science 2001). Of no images at all nothing
    is known: (0, 1).

    Raises:
        ValueError: `successes` is not in 0..n, or `confidence` not in (0, 1).
    """
    if not (0 <= successes <= n and 0 < confidence < 1):
        raise ValueError(f"{successes} successes of {n} with confidence {confidence}")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt((share * (1 - share) + spread / 4) / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high
