"""A comparison as files that build servers read: JUnit XML (a test a cell) and SARIF 2.1.0 (a result a cell)."""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from typing import Any

from robustsuite import __version__

from ..measure.compare import Comparison, sentence, title

SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(found: Comparison) -> str:
    """JUnit XML: a loss is a failure, a cell without a counterpart an error."""
    cells = found.cells.to_dict("records")
    counts = {"tests": len(cells) + len(found.unpaired), "failures": len(found.losses), "errors": len(found.unpaired)}
    attributes = {name: str(value) for name, value in counts.items()}
    root = ET.Element("testsuites", {"name": "robustsuite compare", **attributes})
    name = _xml(f"{found.base} against {found.new}")
    suite = ET.SubElement(root, "testsuite", {"name": name, **attributes, "skipped": "0", "time": "0"})
    for row in cells:
        case = _case(suite, str(row["threat"] or row["shift"]), f"{title(row)} [{row['metric']}]")
        if row["outcome"] == "loss":
            failure = ET.SubElement(case, "failure", {"type": "significant loss", "message": _xml(sentence(row))})
            failure.text = f"record: cells/{row['run_id']}/run.json"
        else:
            ET.SubElement(case, "system-out").text = _xml(sentence(row))
    for run_id, what, reason in found.unpaired:
        case = _case(suite, "unpaired", what)
        ET.SubElement(case, "error", {"type": "no counterpart", "message": _xml(reason)}).text = f"base cell {run_id}"
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, group: str, name: str) -> ET.Element:
    facts = {"classname": _xml(f"robustsuite.{group}"), "name": _xml(name), "time": "0"}
    return ET.SubElement(suite, "testcase", facts)


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)


def sarif(found: Comparison) -> str:
    """SARIF 2.1.0: a rule an attack or shift, a result a cell; only a loss is an error."""
    results = [_result(row) for row in found.cells.to_dict("records")]
    results += [_entry("unpaired", "fail", "warning", what, reason, run_id) for run_id, what, reason in found.unpaired]
    rules = sorted({result["ruleId"] for result in results})
    driver = {
        "name": "robustsuite", "version": __version__,
        "rules": [{"id": rule, "shortDescription": {"text": f"no significant loss under {rule}"}} for rule in rules],
    }  # fmt: skip
    log = {"$schema": SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"


def _result(row: dict[Any, Any]) -> dict[str, Any]:
    rule = str(row["plugin"])
    lost = row["outcome"] == "loss"
    kind, level = ("fail", "error") if lost else ("pass", "none")
    entry = _entry(rule, kind, level, f"{title(row)} [{row['metric']}]", sentence(row), str(row["run_id"]))
    numbers = {name: row[name] for name in ("base", "new", "difference", "n", "p_holm")}
    return {**entry, "properties": {"outcome": row["outcome"], **numbers}}


def _entry(rule: str, kind: str, level: str, what: str, text: str, run_id: str) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": f"cells/{run_id}/run.json"}, "region": {"startLine": 1}}
    same = hashlib.sha256(what.encode()).hexdigest()[:16]  # what a server knows the finding by from one run to the next
    return {
        "ruleId": rule, "kind": kind, "level": level, "message": {"text": f"{what}: {text}"},
        "locations": [{"physicalLocation": place}], "partialFingerprints": {"cell/v1": same},
    }  # fmt: skip
