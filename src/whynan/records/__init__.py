"""Frozen data that travels between the stages; no framework, no behaviour beyond its own form."""

from whynan.records.evidence import BadLeaf as BadLeaf
from whynan.records.evidence import BatchFacts as BatchFacts
from whynan.records.evidence import Evidence as Evidence
from whynan.records.evidence import History as History
from whynan.records.evidence import OptimizerFacts as OptimizerFacts
from whynan.records.evidence import Precision as Precision
from whynan.records.experiment import Experiment as Experiment
from whynan.records.incident import CauseFound as CauseFound
from whynan.records.incident import Incident as Incident
from whynan.records.incident import LossTerm as LossTerm
from whynan.records.incident import RemedyProposed as RemedyProposed
from whynan.records.incident import ReplayResult as ReplayResult
from whynan.records.incident import Sample as Sample
from whynan.records.incident import Symptom as Symptom
from whynan.records.lookback import LookBack as LookBack
from whynan.records.op import Op as Op
from whynan.records.op import PathStep as PathStep
from whynan.records.op import Phase as Phase
from whynan.records.op import SourceLine as SourceLine
from whynan.records.picture import Box as Box
from whynan.records.picture import Picture as Picture
from whynan.records.recording import SCHEMA as SCHEMA
from whynan.records.recording import Outcome as Outcome
from whynan.records.recording import Recording as Recording
from whynan.records.recording import RunInfo as RunInfo
from whynan.records.tensor import TensorSummary as TensorSummary
