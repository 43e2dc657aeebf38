"""Frozen data that travels between the stages; no framework, no behaviour beyond its own form."""

from whynan.records.evidence import BadLeaf as BadLeaf
from whynan.records.evidence import BatchFacts as BatchFacts
from whynan.records.evidence import Evidence as Evidence
from whynan.records.evidence import History as History
from whynan.records.evidence import OptimizerFacts as OptimizerFacts
from whynan.records.evidence import Precision as Precision
from whynan.records.op import Op as Op
from whynan.records.op import PathStep as PathStep
from whynan.records.op import Phase as Phase
from whynan.records.op import SourceLine as SourceLine
from whynan.records.op import TensorSummary as TensorSummary
from whynan.records.recording import SCHEMA as SCHEMA
from whynan.records.recording import Box as Box
from whynan.records.recording import CauseFound as CauseFound
from whynan.records.recording import Experiment as Experiment
from whynan.records.recording import Incident as Incident
from whynan.records.recording import LookBack as LookBack
from whynan.records.recording import LossTerm as LossTerm
from whynan.records.recording import Outcome as Outcome
from whynan.records.recording import Picture as Picture
from whynan.records.recording import Recording as Recording
from whynan.records.recording import RemedyProposed as RemedyProposed
from whynan.records.recording import ReplayResult as ReplayResult
from whynan.records.recording import RunInfo as RunInfo
from whynan.records.recording import Sample as Sample
from whynan.records.recording import Symptom as Symptom
