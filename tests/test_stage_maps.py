"""The maps of the stages: what is pooled to features, float16, in order, for every view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.backbones import load_backbone
from headstart.backbones.stage_maps import MapLayer, map_network
from headstart.data import Dataset, Labels
from headstart.errors import ParameterError
from headstart.features import BackboneExtractor, FeatureStore
from headstart.features.stage_maps import MapRequest
from headstart.features.table import FeatureTable
from headstart.modalities.image import upright_size
from headstart.modalities.image.warp import View


@pytest.fixture(scope="module")
def extractor(cache: Path) -> BackboneExtractor:
    return BackboneExtractor(load_backbone("lite0@64", cache=cache))


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 70, 90, 3), dtype=np.uint8)


def request(layers: tuple[MapLayer, ...]) -> MapRequest:
    return MapRequest(("stage3", "stage2"), 2, lambda index, number: View(mirrored=number == 1))


def test_the_mean_of_a_map_is_the_feature(extractor: BackboneExtractor) -> None:
    found = extractor.with_maps(IMAGES, request)
    plain = extractor(IMAGES)
    assert found.maps is not None
    assert [layer.shape for layer in found.maps.layers] == [(40, 8, 8), (24, 16, 16)]
    assert np.allclose(found.values, plain.values, atol=1e-5)
    assert found.digests == extractor(IMAGES, store=None).digests
    for row in range(5):
        maps = found.maps.image(row)
        for layer in extractor.layers:
            if layer.name in maps:
                assert np.allclose(
                    maps[layer.name].astype(np.float32).mean(axis=(1, 2)), plain.values[row, layer.start : layer.stop], atol=2e-3
                )


def test_the_mirrored_view_is_that_of_the_mirrored_square(extractor: BackboneExtractor) -> None:
    square = np.ascontiguousarray(IMAGES[:, :64, :64])
    both = extractor.with_maps(square, request).maps
    turned = extractor.with_maps(np.ascontiguousarray(square[:, :, ::-1]), request).maps
    assert both is not None
    assert turned is not None
    rows = np.arange(5)
    for name in ("stage2", "stage3"):
        assert np.allclose(both.batch(rows, 1)[name], turned.batch(rows, 0)[name], atol=1e-2)
        assert not np.allclose(both.batch(rows, 0)[name], turned.batch(rows, 0)[name], atol=1e-2)


def test_images_that_cannot_be_read_leave_no_maps(extractor: BackboneExtractor, tmp_path: Path) -> None:
    images = [IMAGES[0], b"nothing", IMAGES[1], b"", IMAGES[2]]
    with FeatureStore(tmp_path / "store.sqlite") as store:
        found = extractor.with_maps(images, request, store=store)
        again = extractor(images, store=store)
    assert found.maps is not None
    assert found.kept.tolist() == [0, 2, 4]
    assert len(found.maps) == 3
    assert again.computed == 0  # the features that came with the maps were stored
    alone = extractor.with_maps(IMAGES[:3], request).maps
    assert alone is not None
    assert all(np.array_equal(found.maps.image(row)["stage2"], alone.image(row)["stage2"]) for row in range(3))


def test_each_image_may_have_other_views(extractor: BackboneExtractor) -> None:
    crop = View(crop=(0.25, 0.25, 0.75, 0.75))

    def draw(index: int, number: int) -> View | None:
        return (View(), crop)[number] if index != 1 else View() if number == 0 else None

    maps = extractor.with_maps(IMAGES[:3], lambda layers: MapRequest(("stage2",), 2, draw)).maps
    assert maps is not None
    assert [len(maps.views(index)) for index in range(3)] == [2, 1, 2]
    plain = extractor.with_maps(IMAGES[:3], lambda layers: MapRequest(("stage2",))).maps
    assert plain is not None
    assert all(np.array_equal(maps.image(index)["stage2"], plain.image(index)["stage2"]) for index in range(3))
    # a part is taken out of a larger square, so it is nearly that of the same part of the image
    smooth = np.kron(IMAGES[:1, :6, :6], np.ones((1, 16, 16, 1), np.uint8))
    part = extractor.with_maps(smooth, lambda layers: MapRequest(("stage2",), 2, draw)).maps
    alone = extractor.with_maps(smooth[:, 24:72, 24:72], lambda layers: MapRequest(("stage2",))).maps
    assert part is not None
    assert alone is not None
    assert np.corrcoef(part.image(0, 1)["stage2"].ravel(), alone.image(0)["stage2"].ravel())[0, 1] > 0.95


def test_a_table_takes_rows_of_maps(extractor: BackboneExtractor) -> None:
    data = Dataset(inputs=IMAGES, targets=Labels(np.array([0, 1, 0, 1, 0]), ("a", "b")), parts=np.array(["train"] * 3 + ["test"] * 2))
    table = FeatureTable.of(data, extractor.with_maps(IMAGES, request), layers=extractor.layers)
    some = table.take(np.array([4, 1]))
    assert table.maps is not None
    assert some.maps is not None
    assert np.array_equal(some.maps.image(0)["stage3"], table.maps.image(4)["stage3"])
    assert len(table.inputs(table.test)) == 2


def test_other_backbones_have_maps_too_or_say_that_they_have_none(cache: Path) -> None:
    layers = map_network(load_backbone("resnet18@64", weights="random", cache=cache))[1]
    assert [layer.shape for layer in layers] == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    for name in ("lite0+mirrored", "hog"):
        with pytest.raises(ParameterError, match="has no maps"):
            map_network(load_backbone(name, cache=cache))
    with pytest.raises(ParameterError, match="no map 'stage9'; it has stage1"):
        BackboneExtractor(load_backbone("lite0@64", cache=cache)).with_maps(IMAGES, lambda layers: MapRequest(("stage9",)))


def test_a_damaged_network_of_maps_is_written_again(tmp_path: Path) -> None:
    backbone = load_backbone("lite0@64", cache=tmp_path)
    path, layers = map_network(backbone)
    path.write_bytes(path.read_bytes()[:-100])
    assert map_network(backbone) == (path, layers)


def test_the_size_of_an_image_is_that_of_its_upright_pixels(tmp_path: Path) -> None:
    from PIL import Image

    image = Image.new("RGB", (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert upright_size(tmp_path / "turned.jpg") == (40, 30)
    assert upright_size(IMAGES[0]) == (70, 90)
    assert upright_size(image) == (30, 40)
