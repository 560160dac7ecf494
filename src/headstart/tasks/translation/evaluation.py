"""What translations are worth: BLEU and chrF, against copying the text and against the network before it was trained further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from headstart.data.translations import text_rows, texts_in
from headstart.metrics.differences import Difference, Differences, told
from headstart.metrics.translation import SentenceStatistics, TranslationScores, translation_differences, worst_sentences
from headstart.tasks.comparable import Comparable
from headstart.text import plural

TRANSLATION, SOURCE, BEFORE = "translation", "source", "before"
"""Arrays of outputs, of strings (n,): the translations; the texts; and the translations by the network before it was trained."""

BASELINES = {"copy": "copying the text", "before": "the network before it was trained further"}


@dataclass(frozen=True, eq=False)
class TranslationEvaluation(Comparable):
    """Translations of n texts beside the right ones; `before` are those of the network before training, where there was one."""

    truth: ClassVar[str] = "right translation"

    translations: tuple[str, ...]
    references: tuple[str, ...]
    sources: tuple[str, ...]
    before: tuple[str, ...] | None = None

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[np.uint8]]) -> TranslationEvaluation:
        """The inverse of `stored`."""
        found = {name: tuple(texts_in(array)) for name, array in arrays.items() if name in (TRANSLATION, SOURCE, BEFORE, "targets")}
        return cls(found[TRANSLATION], found["targets"], found[SOURCE], found.get(BEFORE))

    def stored(self) -> dict[str, npt.NDArray[np.uint8]]:
        """What a run stores, arrays as `text_rows` has them."""
        kept = {TRANSLATION: self.translations, SOURCE: self.sources, "targets": self.references}
        return {name: text_rows(texts) for name, texts in (kept | ({} if self.before is None else {BEFORE: self.before})).items()}

    @property
    def images(self) -> int:
        """How many texts were tested."""
        return len(self.references)

    @cached_property
    def statistics(self) -> SentenceStatistics:
        """Of the translations."""
        return SentenceStatistics.of(self.translations, self.references)

    @cached_property
    def result(self) -> TranslationScores:
        """BLEU and chrF."""
        return TranslationScores.of(self.statistics)

    @cached_property
    def baselines(self) -> dict[str, tuple[TranslationScores, tuple[Difference, Difference]]]:
        """By the name in `BASELINES`: scores, and how far the translations are ahead of them in BLEU and chrF."""
        others = {"copy": self.sources} | ({} if self.before is None else {"before": self.before})
        found = {}
        for name, texts in others.items():
            statistics = SentenceStatistics.of(texts, self.references)
            found[name] = TranslationScores.of(statistics), translation_differences(self.statistics, statistics)
        return found

    @property
    def headline(self) -> tuple[str, float, tuple[float, float]]:
        """BLEU with its interval."""
        return "bleu", self.result.bleu, self.result.bleu_interval

    @property
    def scores(self) -> dict[str, float]:
        """Both scores, from 0 to 100."""
        return {"bleu": self.result.bleu, "chrf": self.result.chrf}

    @property
    def correct_rows(self) -> None:
        """None: a translation is more or less right."""
        return None

    @property
    def leading(self) -> tuple[str, float, tuple[float, float]]:
        """BLEU, as `headline` has it."""
        return "BLEU", self.result.bleu, self.result.bleu_interval

    @property
    def beside(self) -> dict[str, float]:
        """The chrF."""
        return {"chrF": self.result.chrf}

    @property
    def rank(self) -> tuple[float, ...]:
        """BLEU, then chrF."""
        return self.result.bleu, self.result.chrf

    def unlike(self, other: TranslationEvaluation, *, mine: str, theirs: str) -> None:
        """None: all translations of the same texts can be compared."""
        return

    def part(self, rows: npt.NDArray[np.int64], *, like: TranslationEvaluation) -> TranslationEvaluation:
        """The evaluation of some of the texts."""
        translations, references, sources = (
            tuple(texts[row] for row in rows.tolist()) for texts in (self.translations, self.references, self.sources)
        )
        before = None if self.before is None else tuple(self.before[row] for row in rows.tolist())
        return TranslationEvaluation(translations, references, sources, before)

    def same_truth(self, other: TranslationEvaluation) -> npt.NDArray[np.bool_]:
        """Which texts have the same right translation in both."""
        return np.array([own == others for own, others in zip(self.references, other.references, strict=True)], dtype=np.bool_)

    def differences(self, other: TranslationEvaluation) -> Differences:
        """How far the translations are ahead of others of the same texts."""
        return Differences(translation_differences(self.statistics, other.statistics))

    def worst(self, count: int) -> npt.NDArray[np.int64]:
        """The rows of the lowest chrF, the worst first."""
        return worst_sentences(self.statistics, count)

    def summary(self, part: str = "test") -> str:
        """Both scores with their intervals."""
        low, high = self.result.bleu_interval
        interval = f" (95 % interval {low:.1f} to {high:.1f})"
        return f"{part} BLEU {self.result.bleu:.1f}{interval}, chrF {self.result.chrf:.1f} on {plural(self.images, 'text')}"

    def against(self) -> list[str]:
        """A sentence for each baseline."""
        found = []
        for name, (scores, differences) in self.baselines.items():
            gain = ", ".join(told(differences, [one.p_value for one in differences]))
            found.append(f"Against {BASELINES[name]} (BLEU {scores.bleu:.1f}, chrF {scores.chrf:.1f}): {gain}.")
        return found

    def lines(self, title: str = "test") -> list[str]:
        """Scores, baselines, and how they were computed."""
        (bleu, chrf), result = self.result.signatures or ("", ""), self.result
        return [
            f"{title}: {plural(self.images, 'text')}",
            f"  BLEU {result.bleu:.2f} ({result.bleu_interval[0]:.2f} to {result.bleu_interval[1]:.2f})  {bleu}",
            f"  chrF {result.chrf:.2f} ({result.chrf_interval[0]:.2f} to {result.chrf_interval[1]:.2f})  {chrf}",
            *(f"  {sentence}" for sentence in self.against()),
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        against = {
            name: {**scores.to_dict(), "ahead": {one.score: one.to_dict() for one in differences}}
            for name, (scores, differences) in self.baselines.items()
        }
        return {"images": self.images, **self.result.to_dict(), "baselines": against}
