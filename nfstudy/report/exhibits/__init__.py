"""The exhibits that any study may ask for; a paper's own stand in its folder. Free of matplotlib."""

from nfstudy.core.declarations import ExhibitDeclaration

_HERE = "nfstudy.report.exhibits"

SUMMARY = ExhibitDeclaration(name="summary", make=f"{_HERE}.general:summary")
FLOW_LENGTH = ExhibitDeclaration(name="flow-length", make=f"{_HERE}.general:flow_length")
EFFECTS = ExhibitDeclaration(name="effects", make=f"{_HERE}.effects:effects", readme=f"{_HERE}.general:summary_table")
CONVERGENCE = ExhibitDeclaration(name="convergence", make=f"{_HERE}.convergence:convergence", needs={"data.name": ()})
DIAGNOSTICS = ExhibitDeclaration(name="diagnostics", make=f"{_HERE}.diagnostics:diagnostics")
COST = ExhibitDeclaration(name="cost", make=f"{_HERE}.cost:cost")
EVALUATIONS = ExhibitDeclaration(name="evaluations", make=f"{_HERE}.cost:evaluations", needs={"data.name": ()})
LEARNING_CURVES = ExhibitDeclaration(name="learning-curves", make=f"{_HERE}.general:learning_curves")
SAMPLES = ExhibitDeclaration(name="samples", make=f"{_HERE}.general:samples")
