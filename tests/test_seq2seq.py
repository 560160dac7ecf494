"""Networks from text to text: their folders, their training and beam search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.backbones.beam_search import translated
from headstart.backbones.marian import new_marian
from headstart.backbones.seq2seq import Languages, Seq2Seq
from headstart.errors import BackboneError, DataError, ParameterError
from headstart.metrics.translation import SentenceStatistics, TranslationScores, translation_differences
from headstart.progress import Listener
from headstart.settings import FineTuning

torch: Any = pytest.importorskip("torch", reason="needs the extra transformers")
pytest.importorskip("transformers", reason="needs the extra transformers")
pytest.importorskip("sentencepiece", reason="needs the extra transformers")

from headstart.training import seq2seq  # noqa: E402
from headstart.training.checkpoint import CheckpointFolder  # noqa: E402
from headstart.training.pairs import IGNORED, Pairs  # noqa: E402
from headstart.training.seq2seq import PairsJob, PairsTraining, Stopped, trained  # noqa: E402

pytestmark = pytest.mark.torch

Texts = list[str]
PLAN = FineTuning(strategy="full", epochs=20, lr=4e-3, batch_size=16, validation_share=0, keep="last", label_smoothing=0.0)


def dictionary_pairs(count: int, seed: int) -> tuple[Texts, Texts]:
    """Sentences of a made-up language, and of another with other words in reversed order."""
    words = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    own, other = (["".join(words.choice(letters, 4)) for _ in range(20)] for _ in range(2))
    drawn = np.random.default_rng([1, seed])
    rows = [drawn.integers(0, 20, drawn.integers(3, 7)) for _ in range(count)]
    return [" ".join(own[i] for i in row) + "." for row in rows], [" ".join(other[i] for i in row[::-1]) + "." for row in rows]


def small(texts: Texts, **options: Any) -> Seq2Seq:
    return new_marian(texts, **{"width": 64, "layers": 1, "heads": 2, "dropout": 0.0, **options})


@pytest.fixture(scope="module")
def pairs() -> tuple[Texts, Texts]:
    return dictionary_pairs(1000, 0)


@pytest.fixture(scope="module")
def learned(pairs: tuple[Texts, Texts]) -> Seq2Seq:
    network = small([*pairs[0], *pairs[1]])
    trained(network, PairsJob(plan=PLAN, train=Pairs.of(network, *pairs), fresh=True))
    return network


@pytest.fixture(scope="module")
def folder(learned: Seq2Seq, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("hub") / "opus-mt-aa-bb"
    learned.save(found)
    return found


# --- training -------------------------------------------------------------------------------------------------------------------


def test_a_made_up_language_is_learned(learned: Seq2Seq) -> None:
    sources, targets = dictionary_pairs(60, 1)
    made, copied = (SentenceStatistics.of(texts, targets) for texts in (translated(learned, sources), sources))
    assert TranslationScores.of(made).bleu > 90
    bleu, chrf = translation_differences(made, copied)
    assert bleu.interval[0] > 0.8
    assert chrf.p_value < 0.001


@pytest.mark.slow
@pytest.mark.data
def test_pairs_are_learned_by_heart(shared_data: Path) -> None:
    rows = [line.split("\t") for line in (shared_data / "translation" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:201]]
    sources, targets = [row[0] for row in rows], [row[1] for row in rows]
    network = new_marian([*sources, *targets], dropout=0.0)
    plan = FineTuning(strategy="full", epochs=40, lr=2e-3, validation_share=0, keep="last", label_smoothing=0.0)
    trained(network, PairsJob(plan=plan, train=Pairs.of(network, sources, targets), fresh=True))
    assert TranslationScores.of(SentenceStatistics.of(translated(network, sources), targets)).bleu > 90


def test_fine_tuning_does_not_end_worse_than_it_began(folder: Path) -> None:
    network, (sources, targets) = Seq2Seq.load(folder), dictionary_pairs(80, 2)
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    pairs, held_out = Pairs.of(network, sources[:40], [""] * 40), Pairs.of(network, sources[40:], targets[40:])
    history = trained(network, PairsJob(plan=FineTuning(strategy="full", epochs=5, lr=1e-2), train=pairs, validation=held_out))
    assert history.best is None
    assert history.stopped == "The validation loss had not fallen for 3 epochs."
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())


class Interrupting(Listener):
    """Interrupts a training at a step."""

    def __init__(self, step: int) -> None:
        self.training: PairsTraining | None = None
        self.left = step

    def progress(self, done: int, total: int) -> None:
        self.left -= 1
        if not self.left and self.training is not None:
            self.training._interrupted.set()


def test_resuming_gives_the_same_weights(pairs: tuple[Texts, Texts], tmp_path: Path) -> None:
    some = [texts[:60] for texts in pairs]
    plan = FineTuning(strategy="full", epochs=3, lr=1e-3, batch_size=8)
    checkpoints = CheckpointFolder(tmp_path / "run.training")
    checkpoints.begin({})

    def job(network: Seq2Seq, **options: Any) -> PairsJob:
        held_out = Pairs.of(network, pairs[0][60:80], pairs[1][60:80])
        return PairsJob(plan=plan, train=Pairs.of(network, *some), validation=held_out, fresh=True, **options)

    whole, parts = (small([*some[0], *some[1]], dropout=0.1) for _ in range(2))
    expected = trained(whole, job(whole))
    listener = Interrupting(3)
    listener.training = PairsTraining(parts, job(parts, checkpoints=checkpoints, listener=listener))
    with pytest.raises(Stopped):
        listener.training.run()
    again = small([*some[0], *some[1]], dropout=0.1, seed=9)
    found = trained(again, job(again, checkpoints=checkpoints, resume=True))
    assert [epoch.val_loss for epoch in found.epochs] == [epoch.val_loss for epoch in expected.epochs]
    assert all(torch.equal(value, whole.model.state_dict()[name]) for name, value in again.model.state_dict().items())


def test_time_is_kept(pairs: tuple[Texts, Texts]) -> None:
    network = small([*pairs[0], *pairs[1]])
    found = trained(network, PairsJob(plan=PLAN, train=Pairs.of(network, *pairs), fresh=True, deadline=0.0))
    assert found.stopped == "The time was up in epoch 1 of 20."


def test_a_training_that_diverges_says_so(pairs: tuple[Texts, Texts]) -> None:
    network = small([*pairs[0], *pairs[1]])
    with torch.no_grad():
        network.model.model.shared.weight[5:] = float("nan")
    with pytest.raises(ParameterError, match=r"NaN or infinite at step 1, .*Try a lower one: --lr 0\.0004"):
        trained(network, PairsJob(plan=PLAN, train=Pairs.of(network, *pairs), fresh=True))


def test_bf16_is_for_a_gpu(pairs: tuple[Texts, Texts]) -> None:
    network = small([*pairs[0], *pairs[1]])
    with pytest.raises(ParameterError, match="needs a GPU"):
        PairsTraining(network, PairsJob(plan=FineTuning(precision="bf16", device="cpu"), train=Pairs.of(network, *pairs)))


def test_batches_have_each_pair_once(pairs: tuple[Texts, Texts]) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, (300, 2))
    found = Pairs([[1] * a for a, _ in lengths], [[2] * b for _, b in lengths], padding=0)
    first, second = (found.batches(256, seed=0, epoch=epoch) for epoch in range(2))
    assert sorted(np.concatenate(first).tolist()) == list(range(300))
    assert len(first) == len(second)
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(len(rows) * lengths[rows].max() <= 256 for rows in first)
    batch = found.batch(np.array([0, 1]), "cpu")
    assert batch.mask.sum(dim=1).tolist() == lengths[:2, 0].tolist()
    assert (batch.targets != IGNORED).sum(dim=1).tolist() == lengths[:2, 1].tolist()
    assert batch.count == lengths[:2, 1].sum()


def test_pairs_need_two_texts(learned: Seq2Seq) -> None:
    with pytest.raises(DataError, match="got 2 texts and 1 translations"):
        Pairs.of(learned, ["a", "b"], ["a"])


def test_loss_is_that_of_transformers(learned: Seq2Seq, pairs: tuple[Texts, Texts]) -> None:
    some = Pairs.of(learned, pairs[0][:20], pairs[1][:20])
    training = PairsTraining(learned, PairsJob(plan=PLAN, train=some, validation=some))
    batch = some.batch(np.arange(20), "cpu")
    with torch.no_grad():
        expected = learned.model(input_ids=batch.sources, attention_mask=batch.mask, labels=batch.targets).loss
    assert training.validate().loss == pytest.approx(float(expected), rel=1e-5)


# --- beam search ----------------------------------------------------------------------------------------------------------------


def test_one_line_for_each_line_in_order(learned: Seq2Seq) -> None:
    sources, _ = dictionary_pairs(12, 3)
    given = [sources[0], "", *sources[1:], "  ", sources[0], " ".join(sources)]
    found = translated(learned, given, beams=2)
    assert len(found) == len(given)
    assert found[1] == found[-3] == ""
    assert found[0] == found[-2]
    assert found[2:13] == translated(learned, sources[1:], beams=2)
    assert found[0] == translated(learned, [sources[0]], beams=2)[0]
    assert translated(learned, []) == []


@pytest.mark.parametrize("text", ["\0", "\u202eabc", "😀" * 40, "a" * 5000, "word " * 2_000_000, "日本語", "\ud800"])
def test_strange_texts_are_translated(learned: Seq2Seq, text: str) -> None:
    (found,) = translated(learned, [text], beams=1)
    assert "\n" not in found


# --- folders --------------------------------------------------------------------------------------------------------------------


def test_folder_gives_the_same_translations(learned: Seq2Seq, folder: Path) -> None:
    found, (sources, _) = Seq2Seq.load(folder), dictionary_pairs(10, 4)
    assert found.name == "opus-mt-aa-bb"
    assert len(found.digest) == 64
    assert translated(found, sources) == translated(learned, sources)


def test_older_weights_are_parsed(folder: Path, learned: Seq2Seq, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    (old / "model.safetensors").unlink()
    torch.save(learned.model.state_dict(), old / "pytorch_model.bin")
    found, (sources, _) = Seq2Seq.load(old), dictionary_pairs(5, 4)
    assert translated(found, sources) == translated(learned, sources)
    torch.save({"a": Path}, old / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="nothing in it was executed"):
        Seq2Seq.load(old)
    torch.save({"model.shared.weight": torch.zeros(2, 2)}, old / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="cannot be read"):
        Seq2Seq.load(old)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json"], "has no config.json"),
        (["model.safetensors"], r"has no model\.safetensors.*hf download NAME"),
        (["source.spm", "vocab.json"], "has no tokenizer"),
        (["target.spm"], "cannot be read"),
    ],
)
def test_missing_files_are_named(folder: Path, tmp_path: Path, names: list[str], message: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for name in names:
        (broken / name).unlink()
    with pytest.raises(BackboneError, match=message):
        Seq2Seq.load(broken)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b"[]", "config.json cannot be read"),
        ("config.json", b'{"model_type": "bert"}', "of the kind bert, not from text to text"),
        ("model.safetensors", b"\x08" + bytes(20), "cannot be read"),
        ("vocab.json", b"{}", "cannot be read"),
        ("source.spm", b"abc", "cannot be read"),
        ("tokenizer_config.json", b"{", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(folder: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / name).write_bytes(content)
    with pytest.raises(BackboneError, match=message):
        Seq2Seq.load(broken)


def test_weights_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "encoder_layers": 3}))
    with pytest.raises(BackboneError, match="of another network"):
        Seq2Seq.load(broken)


def test_tokenizer_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    pieces = json.loads((broken / "vocab.json").read_text(encoding="utf-8"))
    (broken / "vocab.json").write_text(json.dumps({**pieces, "more": len(pieces)}), encoding="utf-8")
    with pytest.raises(BackboneError, match=r"tokenizer in .* has pieces up to number \d+, and the network \d+ of them"):
        Seq2Seq.load(broken)


def test_name_without_internet_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host.")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    with pytest.raises(BackboneError, match=r"no route to host\).*`hf download Helsinki-NLP/opus-mt-en-de --local-dir DIR`"):
        Seq2Seq.load("Helsinki-NLP/opus-mt-en-de")
    with pytest.raises(BackboneError, match="neither a folder nor a name"):
        Seq2Seq.load("opus")


def test_texts_without_characters_teach_no_pieces() -> None:
    with pytest.raises(DataError, match="all texts are empty"):
        new_marian(["", " "])


# --- other architectures --------------------------------------------------------------------------------------------------------


def tiny_folder(kind: str, place: Path, texts: Texts) -> Path:
    """A network of another architecture that knows nothing, as `save_pretrained` writes it."""
    import transformers

    marian = small(texts)
    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 1024}
    if kind == "m2m_100":
        marian.save(place / "marian")
        tokenizer = transformers.M2M100Tokenizer(str(place / "marian" / "vocab.json"), str(place / "marian" / "source.spm"))
        count = max(tokenizer.lang_token_to_id.values()) + 9
        config = transformers.M2M100Config(vocab_size=count, pad_token_id=tokenizer.pad_token_id, **shape, **widths)
        model: Any = transformers.M2M100ForConditionalGeneration(config)
    elif kind == "mbart":
        spm = marian.tokenizer.spm_source
        pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
        pieces += [(spm.id_to_piece(number), float(-number)) for number in range(3, spm.get_piece_size())]
        tokenizer = transformers.MBart50Tokenizer(vocab=pieces)
        model = transformers.MBartForConditionalGeneration(transformers.MBartConfig(vocab_size=len(tokenizer), **shape, **widths))
    else:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        words = ["<pad>", "</s>", "<unk>", *sorted({word for text in texts for word in text.split()})]
        core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(vocab_size=len(words), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
        )
    model.save_pretrained(place / kind)
    tokenizer.save_pretrained(place / kind)
    return place / kind


@pytest.mark.parametrize("kind", ["m2m_100", "mbart", "t5"])
def test_other_architectures_are_trained_and_translate(kind: str, tmp_path: Path) -> None:
    sources, targets = dictionary_pairs(30, 5)
    place = tiny_folder(kind, tmp_path, [*sources, *targets])
    network = Seq2Seq.load(place, languages=Languages("en", "de", prefix="translate: " if kind == "t5" else ""))
    pairs = Pairs.of(network, sources, targets)
    before = PairsTraining(network, PairsJob(plan=PLAN, train=pairs, validation=pairs)).validate().loss
    history = trained(network, PairsJob(plan=FineTuning(strategy="full", epochs=2, lr=5e-3, batch_size=4), train=pairs, validation=pairs))
    assert history.epochs[-1].val_loss < before  # type: ignore[operator]
    lines = translated(network, [sources[0], "", sources[1]], beams=2)
    assert len(lines) == 3
    network.save(tmp_path / "again")
    again = Seq2Seq.load(tmp_path / "again", languages=network.languages)
    assert translated(again, [sources[0], "", sources[1]], beams=2) == lines


@pytest.mark.parametrize("kind", ["m2m_100", "mbart", "t5"])
def test_columns_of_a_list_name_the_languages(kind: str, tmp_path: Path) -> None:
    from headstart import fit, load
    from headstart.settings import FitSettings

    sources, targets = dictionary_pairs(30, 5)
    place, rows = tiny_folder(kind, tmp_path, [*sources, *targets]), zip(sources, targets, strict=True)
    if kind == "t5":
        config = json.loads((place / "config.json").read_text())
        own = {"task_specific_params": {"translation_en_to_de": {"prefix": "translate English to German: "}}}
        (place / "config.json").write_text(json.dumps(config | own))
    path = tmp_path / "pairs.tsv"
    path.write_text("en\tde\n" + "".join(f"{source}\t{target}\n" for source, target in rows))
    plan = FineTuning(strategy="full", epochs=1)
    result = fit(path, out=tmp_path / "run", settings=FitSettings(backbone=str(place), fine_tuning=plan))
    run = load(tmp_path / "run")
    known = {
        "m2m_100": ("en", "de", ""), "mbart": ("en_XX", "de_DE", ""), "t5": ("", "", "translate English to German: "),
    }  # fmt: skip
    assert tuple(run.manifest.state[name] for name in ("source_language", "target_language", "prefix")) == known[kind]
    assert run.predict(sources[:3]).outputs["translation"].tolist() == translated(result.choice.estimator.network, sources[:3])


@pytest.mark.parametrize(("kind", "codes"), [("m2m_100", ("en", "de")), ("mbart", ("en_XX", "de_DE"))])
def test_languages_are_forced(kind: str, codes: tuple[str, str], tmp_path: Path) -> None:
    place = tiny_folder(kind, tmp_path, [*dictionary_pairs(30, 5)[0]])
    network = Seq2Seq.load(place, languages=Languages("en", "de"))
    assert (network.languages.source, network.languages.target) == codes
    piece = {"m2m_100": "__{}__", "mbart": "{}"}[kind]
    first, into = (network.tokenizer.convert_tokens_to_ids(piece.format(code)) for code in codes)
    assert network.first_piece == into
    assert network.sources(["abc"])[0][0] == first
    assert network.targets(["abc"])[0][0] == into
    with pytest.raises(ParameterError, match=r"does not know the source language 'xx'\. It knows "):
        network.between(Languages("xx", "de"))
    with pytest.raises(ParameterError, match="has to be told the target language"):
        network.between(Languages("en", ""))


def test_defaults_of_a_fresh_network_and_of_a_published_one(learned: Seq2Seq, pairs: tuple[Texts, Texts]) -> None:
    given = Pairs.of(learned, *pairs)
    found = [PairsTraining(learned, PairsJob(plan=FineTuning(strategy="full"), train=given, fresh=fresh)) for fresh in (True, False)]
    assert [one.highest_lr for one in found] == [seq2seq.LR_FROM_NOTHING, seq2seq.LR]
    assert found[0].schedule.steps >= seq2seq.STEPS_FROM_NOTHING > found[1].schedule.steps >= seq2seq.STEPS
    assert found[1].schedule.share(found[1].schedule.steps) == 0
