"""The audit: what did the tuning teach? Each probe is one file here and one line in PROBES."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    plan = Plan(tuple((config, 0.0) for config in configs), {})
    if seconds is not None:
        table = {name: config for name, (config, _) in PROBES.items()}
        cost = subject.seconds_per_instance * subject.epochs
        plan = planned(configs, table, seconds, (pace(subject), cost), (len(subject.heldout), len(subject.trained)))
    late: dict[str, str] = {}
    for config, need in plan.probes:
        if seconds is not None and findings and time.monotonic() - began + 0.5 * need > seconds:
            late[config.type] = "the time was up"
            continue
        report(config.type)
        try:
            findings += PROBES[config.type][1](config, subject)
        except Interrupted:
            raise
        except Exception as error:  # whatever broke, the other probes still have something to say
            problem = " ".join(str(error).split())
            verdict = f"Cannot be said. The probe failed: {type(error).__name__}: {problem}"
            details = {"category": "failed", "traceback": traceback.format_exc()}
            findings.append(Finding(config.type, f"What does the {config.type} probe say?", verdict, details=details))
    if seconds is not None:
        whole = replace(plan, left_out={**plan.left_out, **late})
        findings.append(left_out(whole, seconds, time.monotonic() - began))
    with_lineage(findings, subject.trained)
    return findings
