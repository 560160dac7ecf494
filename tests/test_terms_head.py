"""The head on terms: its optimum, its out-of-sample scores, its ONNX twin, and what it reaches on real reviews."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from sklearn.linear_model import LogisticRegression

from headstart.errors import ParameterError, RunError
from headstart.files import packed, unpacked
from headstart.heads.labels import encode
from headstart.heads.terms import TermsHead
from headstart.modalities.text.terms import TermCounts, count_terms
from headstart.onnx_graph import OnnxGraph

WORDS = {"good": ("fine", "lovely", "warm", "bright"), "bad": ("dull", "cold", "grim", "weak"), "odd": ("strange", "queer", "weird", "new")}
FILL = [f"word{number}" for number in range(60)]


def sentences(classes: tuple[str, ...], count: int, *, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts that hold words of their class, and now and then of another, among others that say nothing."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, count)
    texts = []
    for label in labels:
        own = WORDS[label if random.random() < 0.9 else random.choice(classes)]
        texts.append(" ".join(random.permutation([*random.choice(FILL, 8), *random.choice(own, 2)])))
    return texts, labels


def reviews(folder: Path, part: str) -> tuple[TermCounts, np.ndarray]:
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not among the measurement data in {folder.parent}")
    with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return count_terms([row["text"] for row in rows]), np.array([row["label"] for row in rows])


def engine_logits(head: TermsHead, texts: list[str]) -> np.ndarray:
    graph = OnnxGraph()
    graph.node("Identity", head.write_onnx(graph, "terms", "counts"), output="logits")
    inputs = {"terms": (np.int64, ("N", "K")), "counts": (np.float32, ("N", "K"))}
    model = graph.model(inputs=inputs, outputs={"logits": (np.float32, ("N", len(head.classes_)))})
    ids, counts = head.vocabulary_.lookup(count_terms(texts))
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"terms": ids, "counts": counts})[0]


@pytest.mark.parametrize("classes", [("good", "bad"), ("good", "bad", "odd")])
def test_classes_are_told_and_the_engine_says_the_same(classes: tuple[str, ...]) -> None:
    texts, labels = sentences(classes, 400)
    head = TermsHead().fit(count_terms(texts), labels)
    assert list(head.classes_) == sorted(classes)
    assert head.score(count_terms(texts), labels) > 0.9
    new, truth = sentences(classes, 200, seed=1)
    assert head.score(count_terms(new), truth) > 0.85
    assert abs(head.link_.correct(head.classes_[head.out_of_sample_logits_.argmax(axis=1)], labels).mean() - 0.92) < 0.06
    some = [*new[:20], "", "\x00 \ud800", "fine " * 500]
    np.testing.assert_allclose(engine_logits(head, some), head.logits(count_terms(some)), atol=1e-5)


def test_several_labels_are_independent() -> None:
    texts, labels = sentences(("good", "bad", "odd"), 300)
    pairs = [f"{one} {other}" for one, other in zip(texts[:150], texts[150:], strict=True)]
    y = np.stack([(labels[:150] == name) | (labels[150:] == name) for name in ("good", "bad", "odd")], axis=1)
    head = TermsHead().fit(count_terms(pairs), y)
    assert (head.predict(count_terms(pairs)) == y).mean() > 0.85
    np.testing.assert_allclose(engine_logits(head, pairs[:9]), head.logits(count_terms(pairs[:9])), atol=1e-5)


def test_coefficients_are_those_of_scikit_learn_on_scaled_features() -> None:
    texts, labels = sentences(("good", "bad"), 200)
    counts = count_terms(texts)
    head = TermsHead(C=2.0, folds=0).fit(counts, labels)
    ids, found = head.vocabulary_.lookup(counts)
    dense = np.zeros((len(texts), len(head.vocabulary_) + 1))
    dense[np.arange(len(texts))[:, None], ids] = np.where(ids > 0, found, 0)
    dense = dense[:, 1:]
    tf = np.log(dense, out=np.full(dense.shape, -1.0), where=dense > 0) + 1
    frequency = (dense > 0).sum(axis=0)
    tfidf = tf * (np.log((1 + len(texts)) / (1 + frequency)) + 1)
    for part in (tfidf[:, : head.vocabulary_.words], tfidf[:, head.vocabulary_.words :]):
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    positive = (dense[labels == "good"] > 0).sum(axis=0)
    share = positive.sum() / frequency.sum()
    odds = np.log((positive + 1) / (share * frequency + 1)) - np.log((frequency - positive + 1) / ((1 - share) * frequency + 1))
    reference = LogisticRegression(C=2.0, tol=1e-8, max_iter=5000).fit(tfidf * (1 + np.abs(odds)), labels == "good")
    difference = head.logits(counts) @ [-1, 1]
    np.testing.assert_allclose(difference, reference.decision_function(tfidf * (1 + np.abs(odds))), atol=0.05)


def test_no_text_is_judged_by_a_fit_that_saw_it_or_its_group() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(FILL, 8)) for _ in range(60)] * 3  # each three times, with labels that mean nothing
    labels = np.tile(random.permutation(np.arange(60) % 2), 3)
    counts, groups = count_terms(texts), np.tile(np.arange(60), 3)
    known = TermsHead().fit(counts, labels).out_of_sample_logits_
    alone = TermsHead().fit(counts, labels, groups=groups).out_of_sample_logits_
    assert (known.argmax(axis=1) == labels).mean() > 0.9
    assert (alone.argmax(axis=1) == labels).mean() < 0.7


def test_class_weights_move_the_balance() -> None:
    texts, labels = sentences(("good", "bad"), 300)
    rare = np.concatenate([np.flatnonzero(labels == "good"), np.flatnonzero(labels == "bad")[:20]])
    counts = count_terms([texts[row] for row in rare])
    plain = TermsHead().fit(counts, labels[rare]).predict_proba(counts)[:, 0].mean()
    balanced = TermsHead(class_weight="balanced").fit(counts, labels[rare]).predict_proba(counts)[:, 0].mean()
    assert balanced > plain + 0.02


def test_texts_without_a_common_term_are_no_error() -> None:
    counts = count_terms(["", "", "", ""])
    head = TermsHead(folds=2).fit(counts, [0, 1, 0, 1])
    np.testing.assert_allclose(head.predict_proba(counts), 0.5, atol=1e-3)
    np.testing.assert_allclose(engine_logits(head, ["", "x"]), head.logits(count_terms(["", "x"])), atol=1e-5)


def test_a_saved_head_is_the_same() -> None:
    texts, labels = sentences(("good", "bad"), 100)
    head = TermsHead().fit(count_terms(texts), labels)
    again = TermsHead.from_state(*unpacked(packed(*head.state())))
    logits = head.logits(count_terms(texts))
    np.testing.assert_array_equal(again.logits(count_terms(texts)), logits)
    np.testing.assert_array_equal(again.uncalibrated(logits), head.uncalibrated(logits))
    assert again.predict(count_terms(texts)).tolist() == head.predict(count_terms(texts)).tolist()
    settings, arrays = head.state()
    with pytest.raises(RunError, match=r"saved head .terms. is damaged: 'coef'"):
        TermsHead.from_state(settings, {name: value for name, value in arrays.items() if name != "coef"})
    with pytest.raises(RunError, match="instead of"):
        TermsHead.from_state(settings, arrays | {"coef": arrays["coef"][1:]})


def test_wrong_settings_are_refused() -> None:
    counts = count_terms(["a b", "a c"])
    with pytest.raises(ParameterError, match="C must be"):
        TermsHead(C=0).fit(counts, [0, 1])
    with pytest.raises(ParameterError, match="folds must be"):
        TermsHead(folds=1).fit(counts, [0, 1])
    with pytest.raises(ValueError, match="at least two classes"):
        TermsHead().fit(counts, [1, 1])


@pytest.mark.parametrize(
    ("name", "held_out", "loss", "accuracy"), [("text_chinese", 0.865, 0.31, 0.85), ("text_sentiment", 0.79, 0.442, 0.815)]
)
def test_real_reviews(shared_data: Path, name: str, held_out: float, loss: float, accuracy: float) -> None:
    (counts, labels), (test, truth) = (reviews(shared_data / name, part) for part in ("train", "test"))
    head = TermsHead().fit(counts, labels)
    targets = encode(labels)
    assert (head.out_of_sample_logits_.argmax(axis=1) == targets.codes).mean() > held_out
    assert targets.log_loss(head.out_of_sample_logits_) < loss
    assert head.score(test, truth) > accuracy
