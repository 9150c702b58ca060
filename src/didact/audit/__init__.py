"""The audit: what did the tuning teach? Each probe is one file here and one line in PROBES."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from didact.audit.added import AddedConfig, added
from didact.audit.adherence import AdherenceConfig, adherence
from didact.audit.blind import BlindConfig, blind
from didact.audit.budget import Plan, left_out, pace, planned, seconds_of
from didact.audit.calibration import CalibrationConfig, calibration
from didact.audit.contamination import ContaminationConfig, contamination
from didact.audit.domain import DomainConfig, domain
from didact.audit.external import ExternalConfig, external
from didact.audit.forgetting import ForgettingConfig, forgetting
from didact.audit.gain import GainConfig, gain
from didact.audit.imitation import ImitationConfig, imitation
from didact.audit.judge import JudgedConfig, judge
from didact.audit.kept import remembering
from didact.audit.memorised import MemorisedConfig, memorised
from didact.audit.nearby import with_lineage
from didact.audit.quality import QualityConfig, quality
from didact.audit.refusal import RefusalConfig, refusal
from didact.audit.sensitivity import SensitivityConfig, sensitivity
from didact.audit.size import SizeConfig, size
from didact.audit.source import SourceConfig, source
from didact.audit.stop import StopConfig, stop
from didact.audit.subject import Arm, Finding, Overlap, Speaker, Subject, findings_from_json, findings_to_json
from didact.audit.surface import SurfaceConfig, surface
from didact.errors import Interrupted

Probe = Callable[[Any, Subject], list[Finding]]
PROBES: Mapping[str, tuple[type[BaseModel], Probe]] = {
    "gain": (GainConfig, gain),
    "stop": (StopConfig, stop),
    "forgetting": (ForgettingConfig, forgetting),
    "added": (AddedConfig, added),
    "blind": (BlindConfig, blind),
    "sensitivity": (SensitivityConfig, sensitivity),
    "surface": (SurfaceConfig, surface),
    "adherence": (AdherenceConfig, adherence),
    "calibration": (CalibrationConfig, calibration),
    "contamination": (ContaminationConfig, contamination),
    "domain": (DomainConfig, domain),
    "memorised": (MemorisedConfig, memorised),
    "refusal": (RefusalConfig, refusal),
    "imitation": (ImitationConfig, imitation),
    "quality": (QualityConfig, quality),
    "size": (SizeConfig, size),
    "source": (SourceConfig, source),
    "external": (ExternalConfig, external),
    "judge": (JudgedConfig, judge),
}
Audit = Annotated[
    GainConfig
    | StopConfig
    | ForgettingConfig
    | AddedConfig
    | BlindConfig
    | SensitivityConfig
    | SurfaceConfig
    | AdherenceConfig
    | CalibrationConfig
    | ContaminationConfig
    | DomainConfig
    | MemorisedConfig
    | RefusalConfig
    | ImitationConfig
    | QualityConfig
    | SizeConfig
    | SourceConfig
    | ExternalConfig
    | JudgedConfig,
    Field(discriminator="type"),
]

__all__ = [
    "PROBES",
    "AddedConfig",
    "Arm",
    "Audit",
    "Finding",
    "ForgettingConfig",
    "GainConfig",
    "Overlap",
    "Speaker",
    "StopConfig",
    "Subject",
    "audit",
    "findings_from_json",
    "findings_to_json",
    "seconds_of",
]


def audit(
    configs: Sequence[Audit],
    subject: Subject,
    report: Callable[[str], None] = lambda name: None,
    seconds: float | None = None,
) -> list[Finding]:
    """Run the probes in order; one that fails is reported as a finding and the others go on.

    report is called with each probe's name before it starts. seconds: as many probes as fit into them, in sizes that
    fit, and a last finding that says what was left out.
    """
    began, subject = time.monotonic(), remembering(subject)
    findings: list[Finding] = []
    if seconds is None:
        for config in configs:
            report(config.type)
            findings += _asked(config, subject)
    else:
        paces = (pace(subject), subject.seconds_per_instance * subject.epochs)
        sizes = (len(subject.heldout), len(subject.trained))

        def plan_of(some: Iterable[str]) -> Plan:
            """What fits into the time that is left, of some probes."""
            names, left = list(some), seconds - (time.monotonic() - began)
            return planned(
                [c for c in configs if c.type in names], {n: PROBES[n][0] for n in names}, left, paces, sizes
            )

        plan, late, notes = plan_of(PROBES), dict[str, str](), tuple[str, ...]()
        while plan.probes:
            notes += plan.notes
            for config, need in plan.probes:
                if findings and time.monotonic() - began + 0.5 * need > seconds:
                    late[config.type] = "the time was up"
                    continue
                report(config.type)
                findings += _asked(config, subject)
            tried = {config.type for config, _ in plan.probes}  # what went faster than reckoned leaves time for more
            plan = plan_of(name for name in plan.left_out if name not in tried)
        whole = Plan((), {**plan.left_out, **late}, notes)
        findings.append(left_out(whole, seconds, time.monotonic() - began))
    with_lineage(findings, subject.trained)
    return findings


def _asked(config: Audit, subject: Subject) -> list[Finding]:
    """What one probe finds; that it failed, if it did."""
    try:
        return PROBES[config.type][1](config, subject)
    except Interrupted:
        raise
    except Exception as error:  # whatever broke, the other probes still have something to say
        problem = " ".join(str(error).split())
        verdict = f"Cannot be said. The probe failed: {type(error).__name__}: {problem}"
        details = {"category": "failed", "traceback": traceback.format_exc()}
        return [Finding(config.type, f"What does the {config.type} probe say?", verdict, details=details)]
