"""A record as one row of words and numbers, for tables and eyes. Imports no torch; nothing here is read back."""

from __future__ import annotations

from typing import Any

from robustsuite.records.schema import CellRecord


def flat(record: CellRecord) -> dict[str, Any]:
    """The row: words under the names that tables use, numbers (eps, norm) in full, and the record itself."""
    threat, shift, made, cost = record.threat, record.shift, record.made, record.cost
    budget = threat.budget if threat else None
    return {
        "run_id": record.run_id, "sweep": record.sweep, "threat": threat.name if threat else None,
        "scenario": record.scenario.name, "access": (", ".join(threat.access) or "nothing") if threat else None,
        "budget": budget.words() or None if budget else None, "goal": threat.goal.words if threat else "untargeted",
        "model": record.model.name, "defense": record.defense_words(),
        "attack": record.attack.words() if record.attack else None, "dataset": record.data.name,
        "shift": shift.name or None if shift else None, "corruption": shift.corruption or None if shift else None,
        "severity": shift.severity if shift else None, "head": shift.head if shift else "",
        "transform": shift.transform if shift else "", "n": record.data.n, "data_sha256": record.data.sha256,
        "seed": record.seed, "status": record.status, "code": record.code, "sentence": record.sentence,
        "same_as": record.same_as, "traceback": record.traceback, "suite_version": made.suite_version,
        "commit": made.commit, "dirty": made.dirty, "device": made.device, "dtype": made.dtype,
        "weights_sha256": record.weights_sha256, "started": made.started, "packages": made.packages,
        "canaries": made.canaries, "needs": ", ".join(record.attack.needs) if record.attack else "",
        "flags": [flag.model_dump() for flag in record.flags], "eps": budget.eps if budget else None,
        "norm": budget.norm if budget else "",
        "seconds": cost.seconds, "peak_bytes": cost.peak_bytes,
        "forwards": cost.forwards, "backwards": cost.backwards, "queries": cost.queries, "record": record,
    }  # fmt: skip
