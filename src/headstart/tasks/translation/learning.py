"""Learns to translate: trains a network from text to text on pairs, and knows what it said before that."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone, Layer
from headstart.backbones.beam_search import BEAMS, translated
from headstart.backbones.marian import NAME, new_marian
from headstart.backbones.records import FILE_SOURCE, HUB_SOURCE, BackboneRecord
from headstart.backbones.seq2seq import Languages, Seq2Seq
from headstart.data.translations import Translations
from headstart.errors import MissingExtraError
from headstart.features.extractor import Features, survey
from headstart.features.prepared import ExtractorSettings, Prepared
from headstart.modalities.text import LinePreprocessing
from headstart.selection import Choice
from headstart.settings.fine_tuning import HELD_OUT
from headstart.tasks.task import Learned, LearningContext
from headstart.tasks.translation.evaluation import BEFORE, SOURCE, TRANSLATION
from headstart.text import plural

if TYPE_CHECKING:
    from headstart.data import Dataset
    from headstart.features.table import Counted, FeatureTable
    from headstart.progress import Listener
    from headstart.settings import FitSettings
    from headstart.training.history import History

_FEWEST = 40
"""With fewer pairs, all are learned from and none is held out to choose the best epoch by."""


@dataclass(frozen=True, eq=False)
class TranslationModel:
    """A network, and what it said of the test texts before it was trained, by text; None for one that knew nothing then."""

    network: Seq2Seq
    beams: int = BEAMS
    before: Mapping[str, str] | None = None

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """What a run keeps beside the files of the network."""
        return {"beams": self.beams}, {}


@dataclass(frozen=True, eq=False)
class Trained:
    """How a network was trained, as a run tells it."""

    history: History
    facts: tuple[str, ...]
    trained: tuple[str, ...] = ("encoder", "decoder")
    stages: tuple[Any, ...] = ()
    shipped: str = "trained"
    predictions: None = None


class LineExtractor:
    """Reads texts and makes no features of them; holds the `network` that is to be trained, None where it is made from the texts."""

    windows = None
    dim = 0
    layers = (Layer("last", 0, 0),)

    def __init__(self, network: Seq2Seq | None, place: str) -> None:
        self.network, self.preprocessing = network, LinePreprocessing()
        local = network is None or Path(place).is_dir()
        name = NAME if network is None else network.name
        record = BackboneRecord(
            name=name, source=f"{FILE_SOURCE if local else HUB_SOURCE}{place}", licence="none" if network is None else network.licence,
            input_size=0, mean=(), std=(), interpolation="", crop=1.0,
        )  # fmt: skip
        where = "nothing: the network was trained from random weights" if network is None else place
        digest = "" if network is None else network.digest
        self.backbone = Backbone(
            record=record, network=Path(), network_digest="", weights_digest=digest, weights_source=where, layers=self.layers
        )  # fmt: skip

    @property
    def square(self) -> LinePreprocessing:
        """The preprocessing of a run."""
        return self.preprocessing

    @property
    def id(self) -> str:
        """Covers what changes what is read."""
        return f"{self.backbone.name}:{self.backbone.weights_digest}:{self.preprocessing.id}"

    def __call__(self, inputs: Any, *, store: Any = None, progress: Any = None, warn: Any = None) -> Features:
        """Read all texts: vectors of length 0."""
        return survey(inputs, preprocessing=self.preprocessing, progress=progress)


def prepared(settings: FitSettings, dataset: Dataset, listener: Listener) -> Prepared:
    """The network of a fit, for the languages that the columns of the data name; errors as of `Seq2Seq.load`."""
    if importlib.util.find_spec("sacrebleu") is None:  # before a training whose result could not be tested
        raise MissingExtraError("Testing translations (sacreBLEU)", extra="transformers")
    targets, place = dataset.targets, settings.backbone
    assert isinstance(targets, Translations)
    network = None if place == NAME else Seq2Seq.load(place, announce=listener.say)
    if network is not None:
        network = network.between(_languages(network, targets.columns))
    given = ExtractorSettings.of(replace(settings, cache=None), None, dataset.modality.name)
    return Prepared(given, LineExtractor(network, place), None)  # type: ignore[arg-type]


def _languages(network: Seq2Seq, columns: tuple[str, str]) -> Languages:
    """By the names of the columns; T5's configuration has words for each pair of languages."""
    source, target = columns
    tasks = getattr(network.model.config, "task_specific_params", None) or {}
    prefix = tasks.get(f"translation_{source}_to_{target}", {}).get("prefix", "")
    return Languages(source, target, str(prefix))


def learn(table: FeatureTable, context: LearningContext) -> Learned:
    """Train the network on the training pairs; some of them are held out to choose the best epoch by."""
    from headstart.training.loop import Stopped
    from headstart.training.pairs import Pairs
    from headstart.training.seq2seq import PairsJob, device_of, trained

    settings, listener, plan = context.settings, context.listener, context.settings.fine_tuning
    targets, texts, extractor = table.dataset.targets, table.dataset.inputs, context.prepared.extractor
    assert isinstance(targets, Translations)
    rows, test = table.train.tolist(), [str(texts[row]) for row in table.test.tolist()]
    sources, translations = [str(texts[row]) for row in rows], [targets.texts[row] for row in rows]
    device, before = device_of(plan), None
    network: Seq2Seq = extractor.network or new_marian([*sources, *translations], seed=settings.seed)  # type: ignore[attr-defined]
    fresh = extractor.network is None  # type: ignore[attr-defined]
    if not fresh:
        listener.stage("Translating the test texts before training")
        network.model.to(device)
        before = dict(zip(test, translated(network, test, progress=listener.progress), strict=True))
    share = _share(len(rows), plan)
    kept, held = np.arange(len(rows)), np.empty(0, np.int64)
    if share:
        kept, held = table.hold_out(table.train, share=share, seed=settings.seed)
    pairs, held_out = (Pairs.of(network, *([side[row] for row in some] for side in (sources, translations))) for some in (kept, held))
    if pairs.cut:
        listener.warn(f"{plural(pairs.cut, 'text')} longer than the {network.longest} pieces that {network.name} takes were cut off.")
    resumable = context.resumable
    kept_at = {} if resumable is None else {"checkpoints": resumable.checkpoints, "resume": resumable.resume}
    job = PairsJob(
        plan=plan, train=pairs, validation=held_out if len(held) else None, fresh=fresh, deadline=context.until, seed=settings.seed,
        listener=listener, **kept_at,
    )  # fmt: skip
    try:
        history = trained(network, job)
    except Stopped:
        raise KeyboardInterrupt from None
    facts = (
        f"all weights of {network.name} were trained on {plural(len(kept), 'pair')}",
        *((f"the best epoch was chosen by the loss on {plural(len(held), 'pair')} held out of the training part",) if len(held) else ()),
    )
    model = TranslationModel(network, before=before)
    size = f"{network.model.num_parameters() / 1e6:.1f} million parameters"
    what = f"{network.model.config.model_type}, {size}, beam search with {BEAMS} beams"
    choice = Choice(estimator=model, evidence=(), out_of_sample=None, reason=f"{history.stopped}", description=what)
    return Learned(choice=choice, table=table, prepared=context.prepared, fine_tuned=Trained(history, facts), plan=plan)


def _share(pairs: int, plan: Any) -> float:
    """The share of the training pairs that is held out."""
    if plan.validation_share is not None or pairs < _FEWEST:
        return float(plan.validation_share or 0.0)
    return float(np.clip(HELD_OUT / pairs, 0.02, 0.1))


def apply(model: TranslationModel, inputs: Counted) -> dict[str, npt.NDArray[Any]]:
    """Translate texts, and say what the network said before, where that is known: str (n,) each."""
    texts: Sequence[str] = inputs.counts.texts
    found = {TRANSLATION: translated(model.network, texts, beams=model.beams), SOURCE: list(texts)}
    if model.before is not None and all(text in model.before for text in texts):
        found[BEFORE] = [model.before[text] for text in texts]
    return {name: np.array(lines, dtype=np.object_) for name, lines in found.items()}


def is_network(name: str) -> bool:
    """Whether a backbone may be a network from text to text: a folder, a name on the Hub, or `NAME`."""
    return name == NAME or Path(name).is_dir() or re.fullmatch(r"[\w.-]+/[\w./-]+", name) is not None
