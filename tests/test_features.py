"""Extraction: kept under the image's own hash, computed once, unharmed by interruptions and by a store that fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart.backbones import Backbone
from headstart.errors import StoreError
from headstart.features import BackboneExtractor, FeatureStore
from headstart.features.extractor import BATCH
from headstart.modalities.image import Preprocessing, read_image


@pytest.fixture
def paths(pictures: Path) -> list[Path]:
    return sorted(pictures.glob("*/*.png"))[::6]


@pytest.fixture
def extractor(backbone: Backbone) -> BackboneExtractor:
    return BackboneExtractor(backbone)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features.sqlite")


def test_paths_bytes_and_arrays_give_the_same_features(extractor: BackboneExtractor, paths: list[Path]) -> None:
    from_paths = extractor(paths)
    assert from_paths.values.shape == (len(paths), extractor.dim)
    assert from_paths.values.dtype == np.float32
    np.testing.assert_array_equal(extractor([path.read_bytes() for path in paths]).values, from_paths.values)
    np.testing.assert_array_equal(extractor(np.stack([read_image(path) for path in paths])).values, from_paths.values)
    np.testing.assert_array_equal(extractor(list(map(str, paths))).kept, np.arange(len(paths)))


def test_features_of_different_pictures_differ(extractor: BackboneExtractor, paths: list[Path]) -> None:
    values = extractor(paths).values
    assert len(np.unique(values.round(4), axis=0)) == len(paths)
    assert (values[:, extractor.layers[-1].start :] >= 0).all()  # the last layer ends in a ReLU6


def test_a_second_pass_computes_nothing_and_is_identical(extractor: BackboneExtractor, paths: list[Path], store: FeatureStore) -> None:
    with store:
        first, second = extractor(paths, store=store), extractor(paths[::-1], store=store)
    assert (first.computed, second.computed) == (len(paths), 0)
    np.testing.assert_array_equal(second.values, first.values[::-1])


def test_the_content_counts_and_not_the_name(extractor: BackboneExtractor, paths: list[Path], store: FeatureStore, tmp_path: Path) -> None:
    moved = tmp_path / "moved.png"
    moved.write_bytes(paths[0].read_bytes())
    with store:
        first = extractor(paths[:1], store=store)
        again = extractor([moved, moved], store=store)
        moved.write_bytes(paths[1].read_bytes())
        other = extractor([moved], store=store)
    assert (again.computed, other.computed) == (0, 1)
    np.testing.assert_array_equal(again.values[[0, 1]], first.values[[0, 0]])
    assert not np.array_equal(other.values, first.values)


def test_another_preprocessing_is_another_extractor(backbone: Backbone, paths: list[Path], store: FeatureStore) -> None:
    plain = BackboneExtractor(backbone)
    squashed = BackboneExtractor(backbone, preprocessing=replace(backbone.preprocessing, fit="squash"))
    other_weights = BackboneExtractor(replace(backbone, weights_digest="0" * 64))
    assert len({plain.id, squashed.id, other_weights.id}) == 3
    with store:
        assert plain(paths, store=store).computed == len(paths)
        assert squashed(paths, store=store).computed == len(paths)


def test_unreadable_images_are_left_out_in_order(
    extractor: BackboneExtractor, paths: list[Path], store: FeatureStore, tmp_path: Path
) -> None:
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(b"\xff\xd8\xff rubbish")
    mixed = [broken, *paths[:2], missing, paths[2], broken]
    with store:
        for computed in (3, 0):
            seen: list[tuple[int, int]] = []
            found = extractor(mixed, store=store, progress=lambda done, total, seen=seen: seen.append((done, total)))
            assert found.kept.tolist() == [1, 2, 4]
            assert found.refused_at == (0, 3, 5)
            assert [error.path for error in found.refused] == [str(broken), str(missing), str(broken)]
            assert found.computed == computed
            assert seen[-1] == (6, 6)
            np.testing.assert_array_equal(found.values, extractor(paths[:3]).values)


def test_all_images_unreadable(extractor: BackboneExtractor, tmp_path: Path) -> None:
    found = extractor([tmp_path / "a.jpg", b"rubbish"])
    assert found.values.shape == (0, extractor.dim)
    assert len(found.refused) == 2


def test_an_interruption_keeps_what_was_finished(extractor: BackboneExtractor, store: FeatureStore) -> None:
    random = np.random.default_rng(0)
    given = random.integers(0, 256, (BATCH + 20, 32, 32, 3), dtype=np.uint8)

    def stop(done: int, total: int) -> None:
        if done == BATCH + 5:
            raise KeyboardInterrupt

    with store:
        with pytest.raises(KeyboardInterrupt):
            extractor(given, store=store, progress=stop)
        again = extractor(given, store=store)
        assert again.computed == 15
    np.testing.assert_array_equal(again.values, extractor(given).values)


class FailingStore(FeatureStore):
    """A store whose disk is full."""

    def put(self, *_: object, **__: object) -> int:
        raise StoreError("The disk is full.")


class UnreadableStore(FeatureStore):
    """A store whose file is damaged."""

    def get_into(self, *_: object, **__: object) -> np.ndarray:
        raise StoreError("The file is damaged.")


@pytest.mark.parametrize(("kind", "message"), [(FailingStore, "The disk is full."), (UnreadableStore, "The file is damaged.")])
def test_extraction_goes_on_without_a_store_that_fails(
    backbone: Backbone, paths: list[Path], tmp_path: Path, kind: type[FeatureStore], message: str
) -> None:
    warnings: list[str] = []
    extractor = BackboneExtractor(backbone, warn=warnings.append)
    with kind(tmp_path / "store.sqlite") as store:
        found = extractor(paths, store=store)
    np.testing.assert_array_equal(found.values, extractor(paths).values)
    assert warnings == [f"{message} Continuing without storing features."]


def test_a_smaller_input_is_honoured(backbone: Backbone, paths: list[Path]) -> None:
    small = BackboneExtractor(backbone, preprocessing=Preprocessing(96))
    values = small(paths[:2]).values
    assert values.shape == (2, backbone.dim)
    assert not np.allclose(values, BackboneExtractor(backbone)(paths[:2]).values, rtol=0.05)
