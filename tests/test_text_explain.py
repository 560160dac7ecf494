"""Words that carry a decision: against a model whose weights are known."""

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.explanation.words import deletion_check, explain_text, without
from headstart.modalities.text import PAIR

WEIGHTS = {"good": 2.0, "great": 3.0, "bad": -2.0, "很好": 2.5}


def predict(texts):
    """Logistic in the known weights of the words that are in a text."""
    logits = np.array([sum(weight * text.count(word) for word, weight in WEIGHTS.items()) for text in texts])
    share = 1 / (1 + np.exp(-logits))
    return np.stack([1 - share, share], axis=1)


def share(logit):
    return 1 / (1 + np.exp(-logit))


def test_a_word_weighs_what_the_probability_falls_by():
    words = explain_text(predict, "A good film, not bad.", class_index=1)
    assert [word.text for word in words] == ["A", "good", "film", "not", "bad"]
    expected = [0, share(0) - share(-2), 0, 0, share(0) - share(2)]
    assert [word.weight for word in words] == pytest.approx(expected)
    other = explain_text(predict, "A good film, not bad.", class_index=0)
    assert [word.weight for word in other] == pytest.approx([-weight for weight in expected])


def test_scripts_without_spaces_are_taken_in_runs():
    words = explain_text(predict, "很好的房间。", class_index=1)
    assert [word.text for word in words] == ["很好", "的房", "间"]
    assert max(words, key=lambda word: word.weight).text == "很好"


def test_a_pair_is_explained_in_both_texts_and_stays_a_pair():
    asked = []

    def noted(texts):
        asked.extend(texts)
        return predict(texts)

    words = explain_text(noted, f"good idea{PAIR}great plan", class_index=1)
    assert [word.text for word in words if word.weight > 0] == ["good", "great"]
    assert all(text.count(PAIR) == 1 for text in asked)


def test_a_long_text_is_searched_from_spans_to_words_in_two_calls():
    asked = []

    def counted(texts):
        asked.append(len(texts))
        return predict(texts)

    text = " ".join(["so"] * 700 + ["great"] + ["so"] * 900 + ["bad"] + ["so"] * 400)
    words = explain_text(counted, text, class_index=1)
    assert max(words, key=lambda word: word.weight).text == "great"
    assert min(words, key=lambda word: word.weight).text == "bad"
    assert len(asked) == 2
    assert sum(asked) < 300


def test_no_span_of_a_long_pair_goes_over_its_border():
    text = " ".join(["so"] * 333) + PAIR + " ".join(["so"] * 500)
    assert all(PAIR not in word.text for word in explain_text(predict, text, class_index=1))


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_in_the_text_in_order_and_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    letters = [*"ab Zé'-.\n", "好", "的", PAIR, "😀", "ไ", "か"]
    text = "".join(rng.choice(letters, rng.integers(1, 900)))
    words, place = explain_text(predict, text, class_index=1), 0
    for start, stop, shown, _ in words:
        assert place <= start < stop <= len(text)
        assert text[start:stop] == shown
        place = stop


def test_the_strongest_words_are_checked_against_random_ones():
    text = "the good film with a great many scenes in it"
    right = explain_text(predict, text, class_index=1)
    check = deletion_check(predict, text, right, 1, count=2)
    assert (check.whole, check.strongest) == pytest.approx((share(5), share(0)))
    assert check.holds
    wrong = [word._replace(weight=-word.weight) for word in right]
    assert not deletion_check(predict, text, wrong, 1, count=2).holds
    assert deletion_check(predict, text, right, 1, count=2) == check


def test_what_cannot_be_explained_is_refused():
    assert explain_text(predict, " ... ", class_index=1) == []
    assert without("abcdef", [(4, 5), (0, 2)]) == "cdf"
    with pytest.raises(ParameterError, match="no words"):
        deletion_check(predict, "...", [], 1)
    with pytest.raises(ParameterError, match="from 0 to 1, got 2"):
        explain_text(predict, "good", class_index=2)
    with pytest.raises(ParameterError, match="shape"):
        explain_text(lambda texts: predict(texts)[0], "good", class_index=0)
