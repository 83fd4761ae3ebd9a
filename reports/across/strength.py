"""Which attacks are stronger: each against the strongest of its threat on one system, on the same images."""

from __future__ import annotations

from ..measure.strength import attack_pairs
from ..read.runs import Results
from ..render.document import Entry, Section, Table, counted, split_constant, words
from ..render.rows import MOST_ROWS
from ..render.text import number, pvalue
from ..sections.generic import WHERE


def strength_section(run: Results) -> Section:
    """One table; where it has more rows than a page shows the first seed's, else the csv file alone has them."""
    pairs, left = attack_pairs(run), ""
    if len(pairs) > MOST_ROWS and (seeds := pairs["seed"].nunique()) > 1:
        pairs, left = pairs[pairs["seed"] == pairs["seed"].min()], f", the first of {seeds} seeds"
    if not 0 < len(pairs) <= MOST_ROWS:
        return Section("strength", "Which attacks are stronger")
    names, caption = split_constant(pairs, ("threat", "budget", "goal", *WHERE))
    caption += left  # the seed is the last thing that a caption says
    rows = tuple(
        (*(words(row[name]) for name in names), words(row["defense"]), words(row["strongest"]), words(row["attack"]),
         counted(row["only_strongest"], number(row["only_strongest"])),
         counted(row["only_attack"], number(row["only_attack"])), counted(row["n"], number(row["n"])),
         counted(row["p_holm"], pvalue(row["p_holm"])),
         Entry("stronger" if row["stronger"] else "tie", kind="done" if row["stronger"] else "tie"))
        for row in pairs.to_dict("records")
    )  # fmt: skip
    columns = (*names, "defense", "strongest", "other", "only strongest broke", "only other broke", "n", "p (Holm)",
               "outcome")  # fmt: skip
    lead = (
        "Exact two-sided McNemar tests of the attack that leaves least standing against each other one, on the same "
        "images; Holm-corrected over all pairs of a threat's attacks on one system. Attacks whose number failed a "
        "check are not compared.",
    )
    table = Table("strength", "Each attack against the strongest", caption, columns, rows, "attack_pairs.csv")
    return Section("strength", "Which attacks are stronger", lead, (table,), order=71)
