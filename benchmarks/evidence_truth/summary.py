"""The figures of a run from its rows, with 95 % intervals."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.evidence_truth.measures import area
from benchmarks.evidence_truth.questions import Task
from lynx.evidence.methods import ATTRIBUTION

Row = Mapping[str, Any]
Interval = list[float]
Z = 1.959964
"""Standard deviations to both sides of a 95 % interval."""

TOLD = 0.5
"""Nats that the media must add to an answer for the figures in "told": where the model says the same of blank
media, there is nothing to explain."""


def wilson(share: float, n: int) -> Interval:
    """The 95 % interval of a share of n (E. B. Wilson, 1927)."""
    middle, scale = share + Z**2 / (2 * n), 1 + Z**2 / n
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return [round(max(0.0, (middle - half) / scale), 4), round(min(1.0, (middle + half) / scale), 4)]


def mean_interval(values: Sequence[float]) -> Interval:
    """The 95 % interval of a mean of values within -1..1, by its standard error."""
    half = Z * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    least = 0.0 if min(values) >= 0 else -1.0
    return [round(max(least, fmean(values) - half), 4), round(min(1.0, fmean(values) + half), 4)]


def summarize(found: Mapping[Task, Sequence[Row]], methods: Sequence[str]) -> dict[str, Any]:
    """All figures of a run."""
    groups = list(dict.fromkeys(task.group for task in found))
    asked = {group: [row for task in found if task.group == group for row in found[task]] for group in groups}
    right = {group: [row for row in rows if row["right"]] for group, rows in asked.items()}
    right = {group: rows for group, rows in right.items() if rows}
    figures: dict[str, Any] = {group: _by_method(rows, methods) for group, rows in right.items()}
    figures |= _needed(right)
    figures["chance"] = {group: _chance(rows) for group, rows in right.items()}
    figures["asked"] = {group: len(rows) for group, rows in asked.items()}
    figures["curves"] = {group: _curves(rows) for group, rows in right.items()}
    figures["sanity"] = _sanity(right)
    figures["loose"] = _loose(found)
    told = {g: [row for row in rows if row.get("gained", 0) >= TOLD] for g, rows in right.items()}
    figures["told"] = {group: _by_method(rows, methods) for group, rows in told.items() if rows}
    answered = {task: rows for task, rows in found.items() if any(row["right"] for row in rows)}
    figures["by_type"] = {task.name: _by_type(rows, methods) for task, rows in answered.items()}
    return figures


def _score(rows: Sequence[Row], method: str, which: int) -> list[float]:
    """Pointing (0) or mass (1) of each row, the mean over its senses."""
    return [fmean(pair[which] for pair in row["maps"][method].values()) for row in rows]


def _by_method(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    senses = list(dict.fromkeys(sense for row in rows for sense in row["chance"]))
    for method in methods:
        measured = [row for row in rows if method in row["maps"]]
        if not measured:
            continue
        points, masses = (_score(measured, method, which) for which in (0, 1))
        single = len(senses) == 1
        mine: dict[str, Any] = {
            "pointing": round(fmean(points), 4),
            "pointing_95": wilson(fmean(points), len(points)) if single else mean_interval(points),
            "mass": round(fmean(masses), 4),
            "mass_95": mean_interval(masses),
            "n": len(measured),
        }
        curves = [row["curves"][method] for row in measured if method in row.get("curves", {})]
        for name in ("deletion", "insertion") if curves else ():
            areas = [area(curve[name]) for curve in curves]
            mine |= {name: round(fmean(areas), 4), f"{name}_95": mean_interval(areas), "curves_n": len(areas)}
        if not single:
            mine["by_sense"] = {}
            for sense in senses:
                pairs = [row["maps"][method][sense] for row in measured if sense in row["chance"]]
                point, share = (round(fmean(pair[which] for pair in pairs), 4) for which in (0, 1))
                mine["by_sense"][sense] = {"pointing": point, "mass": share, "n": len(pairs)}
        table[method] = mine
    return table


def shares(rows: Sequence[Row]) -> list[float]:
    """The needed senses' share of the positive nats of each answer for which the media speak at all."""
    return [row["needed"][0] / row["needed"][1] for row in rows if "needed" in row and row["needed"][1] > 0]


def _needed(right: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    found: dict[str, Any] = {"needed_share": {}, "needed_share_95": {}, "needed_share_of_nats": {}}
    for group, rows in right.items():
        if mine := shares(rows):
            needed, every = (sum(row["needed"][which] for row in rows) for which in (0, 1))
            found["needed_share"][group] = round(fmean(mine), 4)
            found["needed_share_95"][group] = mean_interval(mine)
            found["needed_share_of_nats"][group] = round(needed / every, 4)
    return found


def _chance(rows: Sequence[Row]) -> float:
    return round(fmean(fmean(row["chance"].values()) for row in rows), 4)


def _curves(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """The mean curves at `measures.FRACTIONS`."""
    with_curves = [row["curves"] for row in rows if "curves" in row]
    methods = with_curves[0] if with_curves else ()
    return {
        method: {
            name: [round(fmean(p), 4) for p in zip(*(row[method][name] for row in with_curves), strict=True)]
            for name in ("deletion", "insertion")
        }
        for method in methods
    }


def _sanity(right: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Agreement with an LLM drawn anew, and how often the map follows to another shape."""
    rows = [row for each in right.values() for row in each]
    drawn = [row["agreement"] for row in rows if "agreement" in row]
    followed = [row["followed"] for row in rows if row.get("followed")]
    found: dict[str, Any] = {}
    if drawn:
        signed = [each["signed"] for each in drawn]
        found["drawn_anew"] = {
            "rank_correlation": round(fmean(signed), 4), "rank_correlation_95": mean_interval(signed),
            "of_sizes": round(fmean(each["size"] for each in drawn), 4), "n": len(drawn),
        }
    if followed:
        points = fmean(each["pointing"] for each in followed)
        found["other_shape"] = {
            "moved": round(points, 4), "moved_95": wilson(points, len(followed)),
            "more_mass": round(fmean(each["mass"] for each in followed), 4), "n": len(followed),
        }
    return found


def _loose(found: Mapping[Task, Sequence[Row]]) -> dict[str, Any]:
    """By type: figures where the shape counts as true at other moments, too."""
    table: dict[str, Any] = {}
    for task, rows in found.items():
        mine = [row["loose"] for row in rows if row.get("loose")]
        for how in mine[0] if mine else ():
            these = [{"maps": row[how]["maps"], "chance": row[how]["chance"]} for row in mine]
            figures: dict[str, Any] = {"chance": _chance(these)}
            for method in these[0]["maps"]:
                point, share = (round(fmean(_score(these, method, which)), 4) for which in (0, 1))
                figures[method] = {"pointing": point, "mass": share, "n": len(these)}
            table.setdefault(task.name, {})[how] = figures
    return table


def _by_type(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    right = [row for row in rows if row["right"]]
    figures: dict[str, Any] = {"asked": len(rows), "n": len(right), "chance": _chance(right)}
    if mine := shares(right):
        figures["needed_share"] = round(fmean(mine), 4)
        figures["gained"] = round(fmean(row["gained"] for row in right), 3)
        figures["missed"] = round(fmean(abs(row["missed"]) for row in right), 3)
    for method in methods:
        measured = [row for row in right if method in row["maps"]]
        if not measured:
            continue
        point, share = (round(fmean(_score(measured, method, which)), 4) for which in (0, 1))
        figures[method] = {"pointing": point, "mass": share, "n": len(measured)}
        if len(right[0]["chance"]) > 1:
            for sense in right[0]["chance"]:
                pairs = [row["maps"][method][sense] for row in measured]
                figures[method][sense] = [round(fmean(pair[which] for pair in pairs), 4) for which in (0, 1)]
    if ATTRIBUTION in methods:
        totals = [row["totals"] for row in right]
        figures["nats"] = {name: round(fmean(each[name] for each in totals), 3) for name in totals[0]}
    return figures
