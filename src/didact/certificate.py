"""The certificate of a run: the proofs about its recipe, rows and model, and what they are bound to.

`certificate.json` holds for exactly the settings, rows, model and code it was made with; `--certified` asks for it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from didact import __version__, fingerprint
from didact.errors import UsageError
from didact.folder import now

if TYPE_CHECKING:
    from didact.certify import Proof
    from didact.run import Run

NAME = "certificate.json"


def certify(run: Run) -> None:
    """Prove what can be proved about a run before it is tuned, write it, and print it; UsageError if a proof fails."""
    from didact.certify import Subject, to_json
    from didact.certify import certify as prove
    from didact.model import load

    run.upto("curate")
    subject = Subject(
        load=lambda: load(run.model_name()),
        method=run.recipe.method,
        config=run.recipe.tune,
        instances=list(run.instances("kept.jsonl")),
    )
    run.console.stage("certify", f"proofs on {len(subject.instances):,} rows of {run.recipe.name}")
    with run.patience():
        proofs = prove(subject, lambda proof: run.console.stage("", told(proof)))
    certificate = {
        "didact": __version__,
        "made": now(),
        "versions": fingerprint.versions(),
        "bound_to": bound_to(run),
        "holds": all(proof.holds for proof in proofs),
        "proofs": to_json(proofs),
    }
    run.folder.write("certificate.md", table(proofs))
    run.folder.write(NAME, json.dumps(certificate, indent=1, ensure_ascii=False) + "\n")
    failed = [proof for proof in proofs if not proof.holds]
    if failed:
        raise UsageError(
            f"{len(failed)} of {len(proofs)} proofs failed: {failed[0].name}: {failed[0].detail}",
            "training this would teach something else; mend it and certify again",
            file=run.path / NAME,
        )


def require(run: Run) -> None:
    """Refuse to go on without a certificate that holds for this very recipe, rows, model and code."""
    place, again = run.path / NAME, "make one: didact certify"
    try:
        certificate = json.loads(place.read_text("utf-8"))
        before, proofs = dict(certificate["bound_to"]), [(one["name"], one["holds"]) for one in certificate["proofs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("there is no certificate of this run", again, file=place) from error
    here = bound_to(run)
    changed = [key for key in {**before, **here} if before.get(key) != here.get(key)]
    if changed:
        raise UsageError(f"the certificate is of another run: {changed[0]} has changed", again, file=place)
    failed = [name for name, holds in proofs if not holds]
    if failed or not certificate.get("holds"):
        raise UsageError(f"the certificate does not hold: {', '.join(failed)} failed", "see its detail", file=place)


def bound_to(run: Run) -> dict[str, Any]:
    """What the certificate holds for: the settings of method and loop, rows, model, and code."""
    return {**run.inputs("tune"), "code of the proofs": fingerprint.code("certify")}


def told(proof: Proof) -> str:
    """A proof in one line."""
    verdict = "proved" if proof.holds else "FAILED"
    return f"{verdict}  {proof.name:<13} {proof.found:.2g} of at most {proof.tolerance:g}; {proof.detail}"


def table(proofs: list[Proof]) -> str:
    """The proofs as a Markdown table."""
    lines = ["| proof | verdict | found | at most | what was claimed | looked at |", "|---|---|---|---|---|---|"]
    for proof in proofs:
        verdict, detail = "proved" if proof.holds else "**failed**", proof.detail.replace("|", "\\|")
        numbers = f"{proof.found:.3g} | {proof.tolerance:g}"
        lines.append(f"| {proof.name} | {verdict} | {numbers} | {proof.claim} | {detail} |")
    return "\n".join(lines) + "\n"
