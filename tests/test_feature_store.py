from __future__ import annotations

import copy
import hashlib
import pickle
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headstart.errors import ParameterError, StoreError
from headstart.features import FeatureStore, store
from headstart.features.database import now


def digest(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def digests(count: int, start: int = 0) -> list[bytes]:
    return [digest(number) for number in range(start, start + count)]


def vectors(count: int, dim: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim), np.float32)


def sql(path: Path, statement: str, *values: object) -> list[tuple]:
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "features.sqlite"


@pytest.fixture
def kept(path: Path) -> Iterator[FeatureStore]:
    with FeatureStore(path) as opened:
        yield opened


bits = arrays.arrays(np.uint32, st.tuples(st.integers(1, 12), st.integers(1, 7)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=bits, numbers=st.lists(st.integers(0, 7), min_size=12, max_size=12), name=st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_comes_out_is_bit_for_bit_what_went_in_first(
    tmp_path_factory: pytest.TempPathFactory, patterns: np.ndarray, numbers: list[int], name: str
) -> None:
    features = patterns.view(np.float32)  # all bit patterns: NaNs with payloads, denormals, infinities
    keys = [digest(number) for number in numbers[: len(features)]]
    expected: dict[bytes, bytes] = {}
    for key, feature in zip(keys, features, strict=True):
        expected.setdefault(key, feature.tobytes())
    name = name.replace("\0", "x")
    with FeatureStore(tmp_path_factory.mktemp("store") / "s.sqlite") as kept:
        half = len(keys) // 2
        written = kept.put(name, keys[:half], features[:half]) + kept.put(name, keys[half:], features[half:])
        assert written == len(expected)
        assert {key: value.tobytes() for key, value in kept.get(name, [*keys, digest(99)]).items()} == expected
        asked = [*reversed(keys), digest(99), *keys]
        out = np.full((len(asked), features.shape[1]), 7, np.float32)
        found = kept.get_into(name, asked, out)
        assert found.tolist() == [key in expected for key in asked]
        assert [row.tobytes() for row in out] == [expected.get(key, np.full(features.shape[1], 7, np.float32).tobytes()) for key in asked]
        assert kept.missing(name, asked) == [digest(99)]
        assert kept.get(name + "x", keys) == {}


def test_more_rows_than_one_query_takes(kept: FeatureStore) -> None:
    features = vectors(1203)
    kept.put("e", digests(1203), features)
    out = np.empty_like(features)
    assert kept.get_into("e", digests(1203), out).all()
    np.testing.assert_array_equal(out, features)


def test_reading_creates_nothing(kept: FeatureStore) -> None:
    assert kept.get("e", digests(3)) == {}
    assert kept.missing("e", digests(2)) == digests(2)
    assert kept.get_result("k") is None
    assert kept.summary().extractors == ()
    assert kept.verify().sound
    assert kept.prune(max_bytes=0).rows == 0
    assert ("e", digest(0)) not in kept
    assert kept.put("e", [], np.empty((0, 3), np.float32)) == 0
    assert not kept.path.parent.exists()


def test_it_can_be_used_again_after_closing_and_pickled_and_deleted_meanwhile(kept: FeatureStore) -> None:
    kept.put("e", digests(2), vectors(2))
    kept.close()
    assert ("e", digest(1)) in kept
    with pickle.loads(pickle.dumps(kept)) as second, copy.copy(kept) as third:
        assert len(second.get("e", digests(2))) == len(third.get("e", digests(2))) == 2
    assert repr(kept) == f"FeatureStore({str(kept.path)!r})"
    for file in list(kept.path.parent.iterdir()):
        file.unlink()
    assert kept.get("e", digests(2)) == {}
    kept.put("e", digests(2), vectors(2))
    assert len(kept.get("e", digests(2))) == 2
    assert kept.path.exists()


def test_paths_with_odd_characters(tmp_path: Path) -> None:
    odd = tmp_path / "what? 100% #1 ünï" / "a&b=c.sqlite"
    with FeatureStore(odd) as kept:
        kept.put("e", digests(1), vectors(1))
    assert odd.is_file()


def test_parameters_are_refused_in_words(kept: FeatureStore) -> None:
    with pytest.raises(ParameterError, match=r"an image digest is 32 bytes, got b'short'"):
        kept.put("e", [b"short"], vectors(1))
    with pytest.raises(ParameterError, match=r"an extractor id is a string of at least one character, got ''"):
        kept.get("", digests(1))
    for wrong in (vectors(2), vectors(1).astype(np.float64), vectors(1)[0], vectors(1, 0)):
        with pytest.raises(ParameterError, match=r"features must be float32 of shape \(1, dim\), one row for each digest, got float.. \("):
            kept.put("e", digests(1), wrong)
    with pytest.raises(ParameterError, match=r"Nothing to prune by: give an extractor"):
        kept.prune()
    with pytest.raises(ParameterError, match=r"older_than_days must be a number of at least 0 or None, got -1"):
        kept.prune(older_than_days=-1)


def test_an_extractor_keeps_its_length(kept: FeatureStore) -> None:
    kept.put("e", digests(1), vectors(1, 5))
    for attempt in (
        lambda: kept.put("e", digests(1, start=1), vectors(1, 6)),
        lambda: kept.get_into("e", digests(1), np.empty((1, 6), np.float32)),
    ):
        with pytest.raises(
            StoreError, match=r"holds vectors of 5 numbers for the extractor 'e', and 6 are expected now.*prune --extractor"
        ):
            attempt()
    assert len(kept.get("e", digests(1))) == 1


@pytest.mark.parametrize("column", ["vector", "checksum", "digest", "length", "type"])
def test_damaged_rows_count_as_missing_and_are_replaced(kept: FeatureStore, column: str) -> None:
    features = vectors(4)
    kept.put("e", digests(4), features)
    kept.close()
    changed = bytearray(features[2].tobytes())
    changed[3] ^= 1
    statement, value = {
        "vector": ("UPDATE features SET vector = ? WHERE row = 3", bytes(changed)),
        "checksum": ("UPDATE features SET checksum = checksum + ? WHERE row = 3", 1),
        "digest": ("UPDATE features SET digest = ? WHERE row = 3", digest(77)),
        "length": ("UPDATE features SET vector = ? WHERE row = 3", features[2].tobytes() + b"\0\0\0\0"),
        "type": ("UPDATE features SET vector = ? WHERE row = 3", 5),
    }[column]
    sql(kept.path, statement, value)
    assert kept.missing("e", digests(4)) == [digest(2)]
    assert digest(2) not in kept.get("e", digests(4))
    assert kept.get("e", [digest(77)]) == {}
    assert (kept.verify().good, kept.verify().bad) == (3, 1)
    assert kept.put("e", digests(4), features) == 1
    assert kept.get("e", digests(4))[digest(2)].tobytes() == features[2].tobytes()
    repaired = kept.verify(repair=True)
    assert (repaired.good, repaired.bad, repaired.removed, repaired.rebuilt) == (
        (4, 1, 1, False) if column == "digest" else (4, 0, 0, False)
    )
    assert kept.verify().sound


def test_the_summary_counts_rows_bytes_and_times(kept: FeatureStore) -> None:
    kept.put("first", digests(3), vectors(3, 5))
    kept.put("second", digests(2), vectors(2, 9))
    kept.put_result("k", b"1234")
    kept.close()
    sql(kept.path, "UPDATE batches SET used = used + 50 WHERE extractor = 2")
    summary = kept.summary()
    assert [(each.extractor_id, each.rows, each.bytes, each.dim) for each in summary.extractors] == [
        ("second", 2, 72, 9),
        ("first", 3, 60, 5),
    ]
    assert (summary.results, summary.result_bytes, summary.path) == (1, 4, kept.path)
    assert summary.file_bytes >= kept.path.stat().st_size > 0
    assert summary.extractors[0].last_used - summary.extractors[0].created >= timedelta(seconds=50)
    assert abs(summary.extractors[1].created - datetime.now(UTC)) < timedelta(minutes=1)


def test_use_is_written_down_once_and_never_stands_in_the_way_of_reading(kept: FeatureStore) -> None:
    kept.put("e", digests(3), vectors(3))
    kept.close()
    sql(kept.path, "UPDATE batches SET used = 1000")
    blocker = sqlite3.connect(kept.path, isolation_level=None)
    try:
        blocker.execute("BEGIN IMMEDIATE")
        with FeatureStore(kept.path) as other:
            begun = time.monotonic()
            assert len(other.get("e", digests(3))) == 3
            assert time.monotonic() - begun < 5
        blocker.execute("ROLLBACK")
    finally:
        blocker.close()
    assert sql(kept.path, "SELECT used FROM batches") == [(1000,)]
    assert len(kept.get("e", digests(3))) == 3
    assert sql(kept.path, "SELECT used FROM batches")[0][0] >= now() - 60
    sql(kept.path, "UPDATE batches SET used = 1000")
    kept.get("e", digests(3))
    assert sql(kept.path, "SELECT used FROM batches") == [(1000,)]


def test_verify_reports_its_progress(kept: FeatureStore) -> None:
    kept.put("e", digests(600), vectors(600))
    seen: list[tuple[int, int]] = []
    assert kept.verify(progress=lambda done, total: seen.append((done, total))).good == 600
    assert seen == [(256, 600), (512, 600), (600, 600)]


def test_prune_by_extractor_age_and_size_shrinks_the_file(kept: FeatureStore) -> None:
    for batch in range(10):
        kept.put("old" if batch < 5 else "new", digests(20, start=batch * 20), vectors(20, 2000))
    kept.close()
    sql(kept.path, "UPDATE batches SET used = ? + batch", now() - 100 * 86400)
    sql(kept.path, "UPDATE batches SET used = ? WHERE batch >= 9", now())
    whole = kept.path.stat().st_size
    pruned = kept.prune(older_than_days=50, extractor_id="new")
    assert (pruned.rows, pruned.bytes_before, pruned.bytes_after) == (60, whole, kept.path.stat().st_size)
    assert pruned.bytes_after < 0.75 * whole
    pruned = kept.prune(max_bytes=whole // 2)
    assert kept.path.stat().st_size <= whole // 2
    assert kept.missing("old", digests(20)) == digests(20)  # the batch used longest ago
    assert kept.missing("new", digests(40, start=160)) == []
    with pytest.raises(ParameterError, match=r"the store has no extractor 'odl'\. Did you mean old\? 'headstart cache show' lists them"):
        kept.prune(extractor_id="odl")
    kept.prune(extractor_id="old")
    assert [each.extractor_id for each in kept.summary().extractors] == ["new"]
    assert kept.verify().sound
    assert kept.prune(older_than_days=0).rows == 40
    assert kept.summary().extractors == ()
    assert kept.path.stat().st_size < 0.1 * whole


def test_cached_results_stay_within_their_limit(kept: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RESULT_BYTES", 1000)
    for number in range(4):
        kept.put_result(f"k{number}", bytes([number]) * 300)
    kept.put_result("too large", b"x" * 1001)
    assert [kept.get_result(f"k{number}") for number in range(4)] == [None, *(bytes([number]) * 300 for number in (1, 2, 3))]
    assert kept.get_result("too large") is None
    kept.put_result("k2", b"again")
    assert kept.get_result("k2") == b"again"
    kept.close()
    sql(kept.path, "UPDATE memos SET used = 1000 WHERE key IN ('k1', 'k3')")
    assert kept.get_result("k1") is not None  # notes the use, so k3 goes first
    kept.put_result("k4", b"4" * 500)
    assert kept.get_result("k3") is None
    assert kept.get_result("k1") is not None
    kept.close()
    sql(kept.path, "UPDATE memos SET value = x'00' WHERE key = 'k1'")
    assert kept.get_result("k1") is None
    assert kept.prune(older_than_days=0).results == 3


def test_merge_adds_what_is_missing_and_does_nothing_the_second_time(tmp_path: Path) -> None:
    features = vectors(700)
    with FeatureStore(tmp_path / "a.sqlite") as first, FeatureStore(tmp_path / "b.sqlite") as second:
        first.put("other", digests(3), vectors(3, 2))  # so that the extractor has another number in each file
        first.put("e", digests(400), features[:400])
        second.put("e", digests(400, start=300), features[300:])
        second.put("third", digests(1), vectors(1, 3))
        second.close()
        sql(second.path, "UPDATE features SET checksum = 0 WHERE row = 400")
        merged = first.merge(second.path)
        assert (merged.added, merged.present, merged.damaged, merged.different) == (300, 100, 1, 0)
        merged = first.merge(second.path)
        assert (merged.added, merged.present, merged.damaged, merged.different) == (0, 400, 1, 0)
        out = np.empty_like(features)
        found = first.get_into("e", digests(700), out)
        assert np.flatnonzero(~found).tolist() == [699]
        np.testing.assert_array_equal(out[:699], features[:699])
        rows = {each.extractor_id: each.rows for each in first.summary().extractors}
        assert {name: count for name, count in rows.items() if count < 4} == {"other": 3, "third": 1}
        assert first.verify().sound


def test_merge_keeps_the_first_of_two_vectors_and_says_so(tmp_path: Path) -> None:
    with FeatureStore(tmp_path / "a.sqlite") as first, FeatureStore(tmp_path / "b.sqlite") as second:
        first.put("e", digests(2), vectors(2, seed=1))
        second.put("e", digests(2), vectors(2, seed=2))
        merged = first.merge(second.path)
        assert (merged.added, merged.present, merged.different) == (0, 2, 2)
        np.testing.assert_array_equal(first.get("e", digests(1))[digest(0)], vectors(2, seed=1)[0])


def test_merge_refuses_what_is_no_other_store(tmp_path: Path) -> None:
    with FeatureStore(tmp_path / "a.sqlite") as first:
        first.put("e", digests(2), vectors(2))
        with pytest.raises(StoreError, match=r"there is no feature store at .*absent\.sqlite"):
            first.merge(tmp_path / "absent.sqlite")
        assert not (tmp_path / "absent.sqlite").exists()
        with pytest.raises(StoreError, match=r"a\.sqlite is the store it should be merged into"):
            first.merge(tmp_path / "a.sqlite")
        (tmp_path / "text").write_text("no database" * 100)
        with pytest.raises(StoreError, match=r"text is not a feature store, or its beginning is damaged"):
            first.merge(tmp_path / "text")
        with FeatureStore(tmp_path / "b.sqlite") as second:
            second.put("e", digests(2), vectors(2, 6))
        with pytest.raises(StoreError, match=r"holds vectors of 5 numbers for the extractor 'e', and 6 are expected now"):
            first.merge(second.path)
        sql(second.path, "PRAGMA user_version = 2")
        with pytest.raises(StoreError, match=r"b\.sqlite was written by another version of Headstart \(protocol 2; this version reads 1\)"):
            first.merge(second.path)


def test_threads_share_one_store(kept: FeatureStore) -> None:
    features = vectors(400)
    failures: list[BaseException] = []

    def fill(offset: int) -> None:
        try:
            for start in range(0, 400, 20):
                chosen = [(start + offset * 60 + i) % 400 for i in range(20)]
                kept.put("e", [digest(number) for number in chosen], features[chosen])
                kept.get("e", digests(400))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=fill, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    out = np.empty_like(features)
    assert kept.get_into("e", digests(400), out).all()
    np.testing.assert_array_equal(out, features)


def test_a_failed_or_interrupted_transaction_leaves_nothing_behind(kept: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put("e", digests(2), vectors(2))

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("headstart.features.database.Extractor.checksum", interrupt)
        with pytest.raises(KeyboardInterrupt):
            kept.put("new", digests(2), vectors(2))
    assert [each.extractor_id for each in kept.summary().extractors] == ["e"]
    assert kept.put("new", digests(2), vectors(2)) == 2


def test_a_call_from_inside_a_transaction_is_a_mistake_that_shows(kept: FeatureStore) -> None:
    kept.put("e", digests(2), vectors(2))
    with kept._database.reading(), pytest.raises(RuntimeError, match="within its own transaction"):
        kept.get("e", digests(2))
