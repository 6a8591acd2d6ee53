"""Results as Markdown: ratios first, absolute numbers beside them."""

from __future__ import annotations

from .figures import FIGURES, Spread
from .results import Results
from .targets import judge

__all__ = ["markdown"]

OURS = ("zserve", "zserve-together", "zserve-apart")


def markdown(results: Results) -> str:
    parts = [_head(results), *(_workload(results, name) for name in results.workloads), _targets(results)]
    return "\n\n".join(part for part in [*parts, _not_run(results), _versions(results)] if part) + "\n"


def _head(results: Results) -> str:
    machine, settings = results.machine, results.settings
    lines = [
        "# Benchmark",
        "",
        f"{results.made}. {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB,",
        f"{machine['system']}, Python {machine['python']}, {machine['wrk']}; load average at the start",
        f"{machine['load_average_at_start']}. {settings.rounds} interleaved rounds of {settings.seconds:g} s each,",
        "load generator on the same machine; medians (smallest..largest). Ratios are medians of each round's ratio.",
    ]
    if results.interrupted:
        lines.append("**Interrupted: not all rounds were made.**")
    return "\n".join(lines)


def _workload(results: Results, name: str) -> str:
    workload = results.workloads[name]
    ours = [system for system in OURS if any(system in results.systems(name, case) for case in workload["cases"])]
    figures = [
        figure
        for figure in workload["figures"]
        if any(
            results.spread(name, case, system, figure) is not None
            for case in workload["cases"]
            for system in results.systems(name, case)
        )
    ]
    headline = workload["headline"]
    titles = ["case", "system", *(f"{system} / it" for system in ours), *(_title(figure) for figure in figures)]
    lines = [f"## {name}", "", workload["title"] + ".", *workload["notes"], "", _row(titles), _rule(titles)]
    for case in workload["cases"]:
        for system in results.systems(name, case):
            cells = [case, system]
            cells += ["" if system == our else _ratio(results.ratio(name, case, our, system, headline)) for our in ours]
            for figure in figures:
                found = results.spread(name, case, system, figure)
                cells.append(_cell(figure, found, with_range=figure == headline))
            lines.append(_row(cells))
    return "\n".join(lines)


def _title(figure: str) -> str:
    title, unit, _ = FIGURES[figure]
    return f"{title}, {unit}" if unit else title


def _cell(figure: str, found: Spread | None, with_range: bool) -> str:
    if found is None:
        return ""
    digits = FIGURES[figure].digits
    text = f"{found.median:,.{digits}f}"
    if with_range and found.low != found.high:
        text += f" ({found.low:,.{digits}f}..{found.high:,.{digits}f})"
    return text


def _ratio(found: Spread | None) -> str:
    if found is None:
        return ""
    return f"**{found.median:.2f}** ({found.low:.2f}..{found.high:.2f})"


def _targets(results: Results) -> str:
    verdicts = judge(results)
    if not verdicts:
        return ""
    titles = ["workload", "figure", "of", "over", "wanted", "measured", ""]
    lines = ["## Targets", "", _row(titles), _rule(titles)]
    for verdict in verdicts:
        target = verdict.target
        wanted = f"{'at most' if target.at_most else 'at least'} {target.wanted:g}"
        lines.append(
            _row(
                [
                    f"{target.workload}, {target.case}",
                    FIGURES[target.figure].title,
                    target.system,
                    target.against,
                    wanted,
                    f"{verdict.found:.2f} ({verdict.low:.2f}..{verdict.high:.2f})",
                    "reached" if verdict.reached else "**not reached**",
                ]
            )
        )
    return "\n".join(lines)


def _not_run(results: Results) -> str:
    if not results.failures:
        return ""
    lines = ["## Not run", ""]
    for failure in results.failures:
        where = f"{failure['workload']}, {failure['system']}" if failure["system"] else failure["workload"]
        lines.append(f"- {where}: {failure['reason']}")
    return "\n".join(lines)


def _versions(results: Results) -> str:
    if not results.versions:
        return ""
    lines = ["## Versions", ""]
    for system, versions in results.versions.items():
        lines.append(f"- {system}: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(titles: list[str]) -> str:
    return "|" + "|".join(" --- " for _ in titles) + "|"
