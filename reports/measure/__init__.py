"""From rows to scores: kinds of score, intervals, worst cases, comparisons. Imports no torch."""
