"""What is asked of a scan: the yaml keys of the scenario and the threat that they make."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pydantic import Field

from robustsuite.config.keys import Spec
from robustsuite.config.threats import Threat
from robustsuite.errors import BadValue


@dataclass(frozen=True, kw_only=True)
class ScanThreat(Threat):
    """zoo: clean networks of the suspect's own architecture that are trained to be compared with; seed of the first."""

    zoo: int = 0


class ScanSpec(Spec):
    """zoo: how many clean networks of this task are trained, with the suspect's architecture; none for 0.

    Without them a suspect is ranked among the calibration's networks, where it is like them.
    """

    zoo: int = Field(default=0, ge=0, le=1000)

    def threat(self, name: str) -> Threat:
        """The threat of this name; raises BadValue for a budget, which a scan has none of."""
        plain = super().threat(name)
        if self.budget:
            raise BadValue(f"expected no budget in the scan {name!r}, got {self.budget!r}; leave it out")
        given = {f.name: getattr(plain, f.name) for f in fields(plain)}
        given["terms"] = (("zoo", self.zoo),) if self.zoo else ()
        return ScanThreat(**given, zoo=self.zoo)
