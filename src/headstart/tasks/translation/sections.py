"""What the report of a translation says: the scores, what they are compared with, and the worst sentences."""

from __future__ import annotations

from typing import Any

from headstart.sections import Bullets, Headline, Hub, Interval, Paragraph, Section, Table, TaskReport, Tiles
from headstart.tasks.translation.evaluation import BASELINES, TranslationEvaluation
from headstart.text import plural, shorten

WORST = 25
_COLUMNS = 240  # of a text that is shown


def task_report(run: Any, record: Any) -> TaskReport:
    """What the pages say; arguments as of `Task.report`."""
    found: TranslationEvaluation = run.test_evaluation()
    state = run.manifest.state
    languages = " to ".join(filter(None, (state.get("source"), state.get("target"))))
    return TaskReport(
        kind="Translator", description="A model that translates texts", subject=languages,
        summary=f"BLEU {found.result.bleu:.1f} on {plural(found.images, 'test text')}", sentence=sentence(found),
        sections=(result_section(found, held_out=f"Tested on {record.held_out}."), baselines_section(found), worst_section(found)),
        limits=(
            "BLEU and chrF compare a translation with a single right one; another that is as good counts less.",
            "A translation may be fluent and wrong.",
        ),
        hub=Hub(
            pipeline_tag="translation", task_name="Translation", dataset_type="text",
            metrics=(("bleu", round(found.result.bleu, 2), "test BLEU"), ("chrf", round(found.result.chrf, 2), "test chrF")),
        ),
    )  # fmt: skip


def sentence(found: TranslationEvaluation) -> str:
    """The result in sentences."""
    (low, high), result = found.result.bleu_interval, found.result
    return (
        f"BLEU is {result.bleu:.1f} on {plural(found.images, 'test text')}, and chrF {result.chrf:.1f}, both of 100. "
        f"The 95 % confidence interval of BLEU on texts like these is {low:.1f} to {high:.1f}."
    )


def result_section(found: TranslationEvaluation, *, held_out: str = "") -> Section:
    """The scores in sentences and on a scale."""
    result = found.result
    low, high = result.bleu_interval
    headline = Headline(
        value=f"{result.bleu:.1f}", sentences=(sentence(found), held_out), point=result.bleu / 100, interval=(low / 100, high / 100),
        legend="The band is the 95 % interval of BLEU.",
    )  # fmt: skip
    tiles = Tiles(
        (
            ("BLEU", f"{result.bleu:.1f}", f"{low:.1f} to {high:.1f}"),
            ("chrF", f"{result.chrf:.1f}", f"{result.chrf_interval[0]:.1f} to {result.chrf_interval[1]:.1f}"),
        )
    )
    what = Paragraph(
        "BLEU: the share of words, and of two to four words in sequence, that the right translation has too, less for short translations. "
        "chrF: the same of characters, recall included. Both as of sacreBLEU: " + "; ".join(result.signatures) + ". "
        "Small numbers are intervals: percentile bootstrap over sentences, 95 %.",
        "quiet",
    )  # fmt: skip
    lines = (f"BLEU: {result.bleu:.1f} ({low:.1f} to {high:.1f})", f"chrF: {result.chrf:.1f}", *found.against())
    return Section(anchor="result", heading="Result", word="Result", blocks=(headline, tiles, what), card=(Bullets(lines),))


def baselines_section(found: TranslationEvaluation) -> Section:
    """The scores beside those of doing nothing, and of the network before training."""
    scale, rows = (0.0, 100.0), []
    for name, scores in (("this model", found.result), *((BASELINES[name], scores) for name, (scores, _) in found.baselines.items())):
        low, high = scores.bleu_interval
        rows.append((name, f"{scores.bleu:.1f}", Interval(scores.bleu, low, high, scale), f"{low:.1f} to {high:.1f}", f"{scores.chrf:.1f}"))
    table = Table(head=("translations by", "BLEU", "", "95 % interval", "chrF"), rows=tuple(rows), layout="numbers intervals")
    remarks = tuple(Paragraph(sentence) for sentence in found.against())
    return Section(anchor="baselines", heading="Compared with", word="Compared", blocks=(table, *remarks))


def worst_section(found: TranslationEvaluation) -> Section:
    """The sentences of the lowest chrF, and some that are drawn evenly from the others."""
    scores, rows = found.statistics.sentence_chrf, []
    for row in found.worst(WORST).tolist():
        texts = (found.sources[row], found.references[row], found.translations[row])
        rows.append((f"{scores[row]:.0f}", *(shorten(text, _COLUMNS) for text in texts)))
    table = Table(head=("chrF", "text", "right translation", "translation by the model"), rows=tuple(rows))
    return Section(
        anchor="worst", heading="The worst translations", word="Worst", blocks=(table,),
        summary=f"Half of the translations have a chrF of {float(sorted(scores)[len(scores) // 2]):.0f} or more.",
    )  # fmt: skip
