"""What is asked of a scan: the yaml keys of the scenario and the threat that they make."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pydantic import Field

from robustsuite.config.keys import Spec
from robustsuite.config.threats import Threat
from robustsuite.errors import BadValue
from robustsuite.methods.backdoors.calibrated import FEW, shipped


@dataclass(frozen=True, kw_only=True)
class ScanThreat(Threat):
    """zoo: clean networks of the suspect's own architecture that are trained to be compared with."""

    zoo: int = 0


class ScanSpec(Spec):
    """zoo: how many clean networks of this task are trained, with the suspect's architecture; none for 0.

    Without them a suspect is ranked among the calibration's networks, where it is like them.
    """

    zoo: int = Field(default=0, ge=0, le=1000)

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue for a budget, which a scan has none of, and for too small a zoo."""
        plain = super().threat(name)
        if self.budget:
            raise BadValue(f"expected no budget in the scan {name!r}, got {self.budget!r}; leave it out")
        if 0 < self.zoo < FEW:
            raise BadValue(f"expected a zoo of {FEW} clean networks or more in {name!r}, got {self.zoo}; 0 trains none")
        known, given = shipped(), {f.name: getattr(plain, f.name) for f in fields(plain)}
        terms = {"zoo": self.zoo, "calibration": known.digest if known else 0}
        given["terms"] = tuple((key, value) for key, value in terms.items() if value)
        return ScanThreat(**given, zoo=self.zoo)
