"""A measured number with what it was measured on: its value, the number of units behind it, and its standard error.

Knows numbers only: never a model, a task or a text. A unit is what was drawn independently (a document, a text, an
answer), so a word or a token counts as a part of its text and not as a draw of its own.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


@dataclasses.dataclass(frozen=True)
class Metric:
    """Holds one measured number.

    Attributes:
      value: the estimate.
      n: the units it was measured on; 0 where nothing could be judged and the value stands by agreement.
      stderr: its standard error; None where the units do not tell it (fewer than two, or an infinite value).
      share: whether it lies between 0 and 1 and counts, so that its interval is Wilson's.
    """

    value: float
    n: int
    stderr: float | None = None
    share: bool = False

    def complement(self) -> "Metric":
        """Returns one minus a share, which is as certain as the share itself."""
        return dataclasses.replace(self, value=1.0 - self.value)

    def interval(self) -> "Interval | None":
        """Returns the 95 % interval, or None where there is no standard error.

        A share has Wilson's interval at its effective number of units, p (1 - p) / stderr^2, which is n for plain
        counts; so a share of 0 or 1 keeps a width. Anything else has value +- 1.96 stderr.
        """
        if self.stderr is None or self.n == 0:
            return None
        if not self.share:
            return Interval(self.value - Z95 * self.stderr, self.value + Z95 * self.stderr)
        spread = self.value * (1.0 - self.value)
        return wilson(self.value, spread / self.stderr**2 if self.stderr > 0 and spread > 0 else self.n)


class Interval(NamedTuple):
    """Holds both ends of an interval."""

    low: float
    high: float


def wilson(share: float, n: float, z: float = Z95) -> Interval:
    """Returns Wilson's score interval of a share of n units (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    Unlike share +- z stderr it stays within 0 and 1, and 0 of n has a width.
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def share_of(hits: Sequence[bool], if_none: float = 0.0) -> Metric:
    """Returns the share of units that are hits, with stderr sqrt(p (1 - p) / n); `if_none` is its value without units."""
    n = len(hits)
    if n == 0:
        return Metric(if_none, 0, None, share=True)
    value = sum(hits) / n
    return Metric(value, n, math.sqrt(value * (1.0 - value) / n), share=True)


def mean_of(values: Sequence[float]) -> Metric:
    """Returns the mean of at least one value, with stderr s / sqrt(n), where s is the sample standard deviation."""
    return ratio_of(values, [1.0] * len(values))


def ratio_of(
    tops: Sequence[float], bottoms: Sequence[float], *, value: float | None = None, share: bool = False
) -> Metric:
    """Returns sum(tops) / sum(bottoms) over units of unequal size, such as words in texts or mentions in documents.

    The standard error is that of the linearised ratio (delta method; Cochran, Sampling Techniques, 1977, chapter 6):
    sqrt(n / (n - 1) sum (top - value bottom)^2) / sum(bottoms). It is s / sqrt(n) where all bottoms are 1, and micro F1
    is such a ratio, of twice the right mentions to the mentions predicted and the true ones.

    Args:
      tops, bottoms: [n] each, of one unit at the same index; the sum of the bottoms is positive.
      value: the ratio where it is known already, to the bit.
      share: as in `Metric`.

    Raises:
      ValueError: for different numbers of tops and bottoms, or nothing below the line.
    """
    top, bottom = np.asarray(tops, np.float64), np.asarray(bottoms, np.float64)
    if top.shape != bottom.shape or not bottom.sum() > 0:
        raise ValueError(
            f"a ratio needs as many tops as bottoms, found {top.size} and {bottom.size}, and a positive sum below the "
            f"line, found {bottom.sum():g}"
        )
    found = float(top.sum() / bottom.sum()) if value is None else value
    n = top.size
    if n < 2 or not math.isfinite(found):
        return Metric(found, n, None, share)
    stderr = math.sqrt(n / (n - 1) * float(((top - found * bottom) ** 2).sum())) / float(bottom.sum())
    return Metric(found, n, stderr if math.isfinite(stderr) else None, share)


def exponential_of(metric: Metric, value: float | None = None) -> Metric:
    """Returns exp of a mean, as a perplexity is of a mean NLL, with stderr exp(mean) stderr(mean) (delta method).

    Args:
      metric: the mean.
      value: the exponential where it is known already, to the bit; infinite where it overflows.
    """
    if value is None:
        try:
            value = math.exp(metric.value)
        except OverflowError:
            value = math.inf
    stderr = None if metric.stderr is None or not math.isfinite(value) else value * metric.stderr
    return Metric(value, metric.n, stderr)


def difference_of(one: Metric, other: Metric) -> Metric:
    """Returns one metric minus another, n the smaller one's, with stderr sqrt(stderr_one^2 + stderr_other^2).

    It takes the units as independent; two models that answer the same units differ less by chance.
    """
    return Metric(one.value - other.value, min(one.n, other.n), _joined((one.stderr, 1.0), (other.stderr, 1.0)))


def quotient_of(top: Metric, bottom: Metric) -> Metric:
    """Returns one metric divided by another that is above 0, n the smaller one's; stderr by the delta method, as if the
    units were independent: sqrt(stderr_top^2 + value^2 stderr_bottom^2) / bottom (Cochran 1977, chapter 6, without the
    covariance)."""
    value = top.value / bottom.value
    return Metric(
        value, min(top.n, bottom.n), _joined((top.stderr, 1.0 / bottom.value), (bottom.stderr, value / bottom.value))
    )


def lowest_of(metrics: Mapping[str, Metric]) -> tuple[str, Metric] | None:
    """Returns the name and the metric of the lowest value, such as the worst retention; None without any."""
    return min(metrics.items(), key=lambda item: item[1].value, default=None)


def _joined(*parts: tuple[float | None, float]) -> float | None:
    """Returns the standard error of a sum of independent numbers, each with a factor; None if one has none."""
    squares = [(error * factor) ** 2 for error, factor in parts if error is not None]
    total = math.sqrt(sum(squares)) if len(squares) == len(parts) else math.nan
    return total if math.isfinite(total) else None


def to_plain(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """Returns metrics as plain values, for JSON."""
    return {name: dataclasses.asdict(metric) for name, metric in metrics.items()}


def from_plain(found: Mapping[str, Any]) -> dict[str, Metric]:
    """Returns metrics from what `to_plain` made of them.

    Raises:
      ValueError: names the first that is not a metric.
    """
    metrics = {}
    for name, value in found.items():
        try:
            metrics[name] = Metric(**value)
        except TypeError:
            raise ValueError(f"metric {name!r} was saved as {value!r}, expected value, n and stderr") from None
    return metrics


def values_of(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Returns the bare values, for a line of a log."""
    return {name: metric.value for name, metric in metrics.items()}
