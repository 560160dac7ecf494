"""Masks that are missing, doubled, damaged, of another size or turned; VOC, suffixes beside images, lists of pairs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import VOID, Defects, ListOptions, read_annotations, read_dataset
from headstart.data.class_lists import VOC_NAMES
from headstart.data.mask_names import role_of
from headstart.errors import DataError
from headstart.progress import Warned
from headstart.tasks import recognise
from made_masks import BLOCKS, masks_in, pair, photo, write

INSIDE = (BLOCKS == 2).astype(np.uint8)


def warned(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if isinstance(note, Warned)]


def test_images_without_masks_are_left_out_and_named(tmp_path: Path) -> None:
    for name in "abc":
        pair(tmp_path, name)
    photo(tmp_path / "images" / "d.jpg")
    data = read_dataset(tmp_path)
    assert data.names() == ("images/a.jpg", "images/b.jpg", "images/c.jpg")
    assert warned(data.notes) == ["Left out 1 image without a mask: images/d.jpg."]


def test_too_many_images_without_masks(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    photo(tmp_path / "images" / "b.jpg")
    photo(tmp_path / "images" / "c.jpg")
    with pytest.raises(DataError, match=r"2 of 3 images have no mask, for example images/b\.jpg and images/c\.jpg\. Add the masks"):
        read_dataset(tmp_path)


def test_masks_without_images_are_named(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    write(tmp_path / "masks" / "z.png", BLOCKS)
    assert warned(read_dataset(tmp_path).notes) == ["Passed over 1 mask without an image of that name: masks/z.png."]


def test_names_that_do_not_go_together(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg")
    write(tmp_path / "masks" / "first.png", BLOCKS)
    with pytest.raises(DataError, match=r"no mask is called like an image\. An image is 'images/a\.jpg', a mask 'masks/first\.png'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("second", ["a.bmp", "a_mask.png"])
def test_two_masks_for_an_image(tmp_path: Path, second: str) -> None:
    pair(tmp_path, "a")
    write(tmp_path / "masks" / second, BLOCKS)
    if second == "a_mask.png":  # the name itself comes first
        data = read_dataset(tmp_path)
        assert masks_in(data).cells(0)["mask"].endswith("a.png")
        assert warned(data.notes) == ["Passed over 1 mask without an image of that name: masks/a_mask.png."]
        return
    with pytest.raises(DataError, match=r"images/a\.jpg has two masks: .*masks/a\.bmp and .*masks/a\.png\. Move one of them away"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded|header is damaged"),
        (b"what is this", "not an image of a known"),
    ],
)
def test_damaged_masks_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    for name in "ab":
        pair(tmp_path, name)
    (tmp_path / "masks" / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"1 mask cannot be read: .*masks/b\.png: .*({reason}).*Write them again, or remove them"):
        read_dataset(tmp_path)


def test_a_mask_that_is_cut_off(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 3, (100, 100)).astype(np.uint8)
    pair(tmp_path, "a", random)
    path = tmp_path / "masks" / "a.png"
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(DataError, match=r"masks/a\.png: cannot be decoded"):
        read_dataset(tmp_path)


def test_masks_of_another_size_but_the_same_shape(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg", (61, 91))
    write(tmp_path / "masks" / "a.png", BLOCKS)
    data = read_dataset(tmp_path)
    assert masks_in(data).read(0).shape == (20, 30)
    assert "1 mask of another size than the image but of its aspect ratio, for example" in " ".join(data.notes)
    assert "(30x20 for 91x61): used as it is, never smoothed." in " ".join(data.notes)


@pytest.mark.parametrize("size", [(30, 20), (20, 40), (20, 34), (200, 200)])
def test_masks_of_another_shape_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    photo(tmp_path / "images" / "a.jpg", size)
    write(tmp_path / "masks" / "a.png", BLOCKS)
    with pytest.raises(DataError, match=rf"1 mask of another shape .*masks/a\.png is 30x20, images/a\.jpg is {size[1]}x{size[0]}"):
        read_dataset(tmp_path)


def turned_photo(path: Path, size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(path, size, exif=exif)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_turned_by_their_metadata_with_upright_masks(tmp_path: Path, orientation: int) -> None:
    turned_photo(tmp_path / "images" / "a.jpg", (30, 20) if orientation >= 5 else (20, 30), orientation)
    write(tmp_path / "masks" / "a.png", BLOCKS)
    data = read_dataset(tmp_path)
    assert np.array_equal(masks_in(data).read(0) == VOID, BLOCKS == 255)
    assert "1 image turned upright by the metadata; the masks are taken to be upright." in data.notes


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_turned_by_their_metadata_with_masks_as_stored(tmp_path: Path, orientation: int) -> None:
    """Where a size does not tell, the other masks of the data set do."""
    turned_photo(tmp_path / "images" / "a.jpg", (20, 30), orientation)
    write(tmp_path / "masks" / "a.png", INSIDE)
    turned_photo(tmp_path / "images" / "b.jpg", (20, 30), 6)
    write(tmp_path / "masks" / "b.png", INSIDE)
    data = read_dataset(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(INSIDE)
    image.getexif()[0x0112] = orientation
    steps = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # as ImageOps.exif_transpose
    upright = np.asarray(image.transpose(Image.Transpose(steps[orientation])))
    assert np.array_equal(masks_in(data).read(0), upright)
    assert "2 masks turned like the image, which its metadata turn: the mask has the size of the pixels as stored." in data.notes


def test_masks_turned_by_their_own_metadata(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.jpg", (20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "masks" / "a.png", np.rot90(INSIDE).copy(), exif=exif)
    assert np.array_equal(masks_in(read_dataset(tmp_path)).read(0), INSIDE)


def test_masks_of_nothing_but_background(tmp_path: Path) -> None:
    pair(tmp_path, "a", INSIDE)
    pair(tmp_path, "b", INSIDE * 0)
    masks = masks_in(read_dataset(tmp_path))
    assert masks.counts() == {"background": 2, "foreground": 1}
    pair(tmp_path, "c", INSIDE * 0 + 255)
    data = read_dataset(tmp_path)
    assert masks_in(data).areas[2].tolist() == [0, 0, 600]
    assert warned(data.notes) == ["1 mask without a pixel of any class: nothing is learned from these images."]


def test_a_class_that_is_only_in_the_test_part(tmp_path: Path) -> None:
    pair(tmp_path / "train", "a", INSIDE)
    pair(tmp_path / "test", "b", INSIDE * 2)
    data = read_dataset(tmp_path)
    assert warned(data.notes) == ["No training pixel of 'class 2': it cannot be learned."]


def voc(root: Path, *, lists: dict[str, str]) -> None:
    for name in ("2007_000032", "2007_000033", "2007_000039"):
        mask = np.where(BLOCKS == 3, 15, BLOCKS).astype(np.uint8)
        photo(root / "JPEGImages" / f"{name}.jpg")
        image = Image.fromarray(mask)
        image.putpalette(list(np.random.default_rng(0).permutation(256)) * 3)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        image.save(root / "SegmentationClass" / f"{name}.png")
        write(root / "SegmentationObject" / f"{name}.png", mask)
    for i in range(9):
        photo(root / "JPEGImages" / f"2008_{i:06}.jpg")
    for name, text in lists.items():
        path = root / "ImageSets" / "Segmentation" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_pascal_voc(tmp_path: Path) -> None:
    lists = {
        "train.txt": "2007_000032\n2007_000033\n",
        "val.txt": "2007_000039\n",
        "trainval.txt": "2007_000032\n2007_000033\n2007_000039\n",
    }
    voc(tmp_path / "VOCdevkit" / "VOC2012", lists=lists)
    data = read_dataset(tmp_path)
    assert data.parts.tolist() == ["train", "train", "val"]
    masks = masks_in(data)
    assert masks.classes == ("background", "aeroplane", "bicycle", "person")
    assert f"Left out, since no mask has a pixel of them: {', '.join(map(repr, VOC_NAMES[3:15]))}, ... (17 in all)." in data.notes
    assert masks.names(0) == ("background", "aeroplane", "bicycle", "person")
    assert masks.areas[0, -1] == 100
    assert "Parts from train.txt and val.txt in 'Segmentation'." in data.notes


def test_pascal_voc_without_lists_of_parts(tmp_path: Path) -> None:
    voc(tmp_path, lists={})
    data = read_dataset(tmp_path)
    assert len(data) == 3
    assert "Left out 9 images without a mask: Pascal VOC has masks of some images only." in data.notes


def test_lists_of_parts_beside_the_folders(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        pair(tmp_path, name)
    (tmp_path / "train.txt").write_text("images/a.jpg\nb\n")
    (tmp_path / "test.txt").write_text("c.jpg\nmissing\n")
    data = read_dataset(tmp_path)
    assert dict(zip(data.names(), data.parts.tolist(), strict=True)) == {
        "images/a.jpg": "train", "images/b.jpg": "train", "images/c.jpg": "test",
    }  # fmt: skip
    assert "1 image in none of these lists: left out." in data.notes
    assert warned(data.notes)[0] == "test.txt: no image with a mask for missing."
    (tmp_path / "test.txt").write_text("c\na\n")
    with pytest.raises(DataError, match=r"train\.txt: 'images/a\.jpg' is also in the list of the part 'test'\. Keep it in one"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}.jpg", "{}_mask.png"),
        ("{}.jpg", "{}-label.png"),
        ("{}_sat.jpg", "{}_mask.png"),
        ("{}.png", "mask_{}.png"),
        ("{}.tif", "{}.gt.png"),
    ],
)
def test_masks_beside_their_images(tmp_path: Path, image: str, mask: str) -> None:
    for name in ("1", "b_2"):
        photo(tmp_path / "all" / image.format(name))
        write(tmp_path / "all" / mask.format(name), BLOCKS)
    data = read_dataset(tmp_path)
    assert data.names() == tuple(f"all/{image.format(name)}" for name in ("1", "b_2"))
    assert np.array_equal(masks_in(data).read(1) == 3, BLOCKS == 3)


def test_suffixes_within_a_folder_of_masks(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "0016E5.png")
    write(tmp_path / "labels" / "0016E5_L.png", BLOCKS)
    assert len(read_dataset(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "role", "part"),
    [
        ("masks", "mask", None), ("SegmentationClass", "mask", None), ("trainannot", "mask", "train"), ("val_labels", "mask", "val"),
        ("masks_test", "mask", "test"), ("images", "image", None), ("train2017", "", "train"), ("train_images", "image", "train"),
        ("Testing Images", "image", "test"), ("cats", "", None), ("no_mask", "mask", None), ("ISIC_Training_GroundTruth", "mask", "train"),
        ("leftImg8bit", "image", None),
        ("ground truth", "mask", None),
    ],
)  # fmt: skip
def test_roles_of_folders(name: str, role: str, part: str | None) -> None:
    assert role_of(name)[:2] == (role, part)


def test_a_folder_given_as_the_present_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "a")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    monkeypatch.chdir(tmp_path)
    data = read_dataset(".")
    assert data.names() == ("images/a.jpg",)
    assert data.classes[0] == "sky"


def listed(root: Path, text: str, name: str = "pairs.csv") -> Path:
    for one in "abc":
        photo(root / "photos" / f"{one}.jpg")
        write(root / "drawn" / f"{one}.png", BLOCKS)
    (root / name).write_text(text)
    return root / name


PAIRS = "path,mask\nphotos/a.jpg,drawn/b.png\nphotos/b.jpg,drawn/c.png\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", PAIRS), ("pairs.csv", PAIRS.replace("path,mask", "image,label")), ("pairs.csv", PAIRS.replace("path,mask\n", "")),
        ("pairs.txt", PAIRS.replace("path,mask\n", "").replace(",", " ")),
        ("train.txt", PAIRS.replace("path,mask\n", "").replace(",", " ").replace("photos", "/x/y/photos").replace("drawn", "/x/y/drawn")),
        ("pairs.tsv", PAIRS.replace(",", "\t")), ("pairs.csv", PAIRS.replace("path,mask", "Image,Ground Truth")),
        ("pairs.jsonl", '{"path": "photos/a.jpg", "mask": "drawn/b.png"}\n{"path": "photos/b.jpg", "mask": "drawn/c.png"}\n'),
    ],
)  # fmt: skip
def test_lists_of_pairs(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    data = read_dataset(listed(tmp_path, text, name))
    assert data.names() == ("photos/a.jpg", "photos/b.jpg")
    assert [os.path.basename(source.file.name) for source in masks_in(data).sources] == ["b.png", "c.png"]  # noqa: PTH119
    assert masks_in(data).classes == ("sky", "road", "car", "tree")


def test_lists_of_pairs_with_parts_and_groups(tmp_path: Path) -> None:
    text = "path,mask,split,patient\nphotos/a.jpg,drawn/a.png,train,x\nphotos/b.jpg,drawn/b.png,test,y\nphotos/c.jpg,,test,y\n"
    data = read_dataset(listed(tmp_path, text))
    assert data.parts.tolist() == ["train", "test"]
    assert data.groups.tolist() == ["x", "y"]
    assert warned(data.notes) == ["Left out 1 image without a mask: photos/c.jpg."]


def test_a_list_with_masks_and_labels_for_all_is_one_of_masks(tmp_path: Path) -> None:
    path = listed(tmp_path, "path,mask,diagnosis\nphotos/a.jpg,drawn/a.png,ill\nphotos/b.jpg,drawn/b.png,well\n")
    assert len(masks_in(read_dataset(path))) == 2
    found = read_annotations(path)
    task, reason = recognise(found)
    assert task.name == "segmentation"
    assert reason == (
        "masks, from the column 'mask' of pairs.csv; --task classification learns the labels, from the column 'diagnosis' of pairs.csv"
    )
    labels = recognise(found, "classification")[0].read_targets(found)
    assert (labels.classes, labels.array.tolist()) == (("ill", "well"), [0, 1])
    assert read_dataset(path, lists=ListOptions(labels=("diagnosis",))).classes == ("ill", "well")


def test_a_list_with_masks_for_some_is_one_of_labels_that_says_so(tmp_path: Path) -> None:
    text = "path,label,mask,split\nphotos/a.jpg,good,,train\nphotos/b.jpg,good,,test\nphotos/c.jpg,bent,drawn/c.png,test\n"
    path = listed(tmp_path, text)
    found = read_annotations(path)
    task, reason = recognise(found)
    assert task.name == "classification"
    assert reason.endswith("; the masks of 1 of 3 images are left aside, and --task anomaly takes both")
    defects = recognise(found, "anomaly")[0].read_targets(found)
    assert isinstance(defects, Defects)
    assert defects.kinds == ("good", "good", "bent")
    assert [defects.masks[row] is not None for row in range(3)] == [False, False, True]
    assert np.array_equal(defects.defective(2)[0], (BLOCKS > 0) & (BLOCKS != VOID))
    with pytest.raises(DataError, match=r"photos/a\.jpg has two labels: good and bent\. Keep one of the rows"):
        read_annotations(listed(tmp_path, text + "photos/a.jpg,bent,,train\n"))


def test_a_column_of_masks_may_be_named(tmp_path: Path) -> None:
    path = listed(tmp_path, PAIRS.replace("path,mask", "path,drawn by me"))
    data = read_dataset(path, lists=ListOptions(columns={"label": "drawn by me"}))
    assert len(data) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PAIRS + "photos/a.jpg,drawn/a.png\n", r"photos/a\.jpg has two masks: .*drawn/b\.png and .*drawn/a\.png\. Keep one of the rows"),
        (PAIRS + "photos/c.jpg,drawn/z.png\n", r"1 of 3 files listed in .*pairs\.csv do not exist, for example 'drawn/z\.png'"),
        (PAIRS + "photos/z.jpg,drawn/a.png\n", r"1 of 3 files listed in .*pairs\.csv do not exist, for example 'photos/z\.jpg'"),
        (PAIRS + ",drawn/a.png\n", r"1 row of .*pairs\.csv without the path of an image: 3\. Fill it in"),
        (
            "path,mask\nphotos/a.jpg,drawn/a.png\nphotos/b.jpg,\nphotos/c.jpg,\n",
            r"2 of 3 rows of .*pairs\.csv have no mask in the column 'mask'",
        ),
    ],
)
def test_lists_of_pairs_in_trouble(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_dataset(listed(tmp_path, text))


def test_rows_that_list_an_image_again(tmp_path: Path) -> None:
    data = read_dataset(listed(tmp_path, PAIRS + "photos/a.jpg,drawn/b.png\n"))
    assert len(data) == 2
    assert f"Passed over 1 row that list an image again: {tmp_path}/photos/a.jpg." in data.notes


def empty(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        if path.suffix in (".png", ".gif", ".bmp"):
            write(path, BLOCKS)
        else:
            photo(path)


PUBLISHED = {
    "pets": (["images/Abyssinian_1.jpg", "images/pug_2.jpg"], ["annotations/trimaps/Abyssinian_1.png", "annotations/trimaps/pug_2.png"]),
    "carvana": (["train/a_01.jpg", "train/a_02.jpg"], ["train_masks/a_01_mask.gif", "train_masks/a_02_mask.gif"]),
    "camvid": (["train/a.jpg", "val/b.jpg"], ["train_labels/a_L.png", "val_labels/b_L.png"]),
    "cityscapes": (
        ["leftImg8bit/train/ulm/ulm_0_leftImg8bit.jpg"],
        [
            "gtFine/train/ulm/ulm_0_gtFine_labelIds.png", "gtFine/train/ulm/ulm_0_gtFine_color.png",
            "gtFine/train/ulm/ulm_0_gtFine_instanceIds.png",
        ],
    ),
    "isic": (["ISIC_Training_Data/ISIC_01.jpg"], ["ISIC_Training_GroundTruth/ISIC_01_segmentation.png"]),
    "ade": (
        ["ADE/images/training/1.jpg", "ADE/images/validation/2.jpg"],
        ["ADE/annotations/training/1.png", "ADE/annotations/validation/2.png"],
    ),
    "labelme": (["set/JPEGImages/1.jpg"], ["set/SegmentationClassPNG/1.png", "set/SegmentationClassVisualization/1.jpg"]),
    "two sets": (["north_images/1.jpg", "south_images/1.jpg"], ["north_masks/1.png", "south_masks/1.png"]),
    "by scene": (["a/images/1.jpg", "b/images/1.jpg"], ["a/masks/1.png", "b/masks/1.png"]),
    "a folder each": (["1/images/1.jpg", "2/images/2.jpg"], ["1/masks/x1.png", "1/masks/1.png", "2/masks/2.png"]),
    "roboflow": (["train/a_jpg.rf.1.jpg", "valid/b_jpg.rf.2.jpg"], ["train/a_jpg.rf.1_mask.png", "valid/b_jpg.rf.2_mask.png"]),
    "upper case": (["images/IMG_1.JPG"], ["masks/img_1.png"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_layouts_as_they_are_published(tmp_path: Path, name: str) -> None:
    images, masks = PUBLISHED[name]
    empty(tmp_path, *images, *masks)
    data = read_dataset(tmp_path)
    assert sorted(data.names()) == sorted(images)
    stems = [Path(image).stem.removesuffix("_leftImg8bit").casefold() for image in data.names()]
    paths = [source.file.name for source in masks_in(data).sources]
    assert all(Path(path).stem.casefold().startswith(stem) for path, stem in zip(paths, stems, strict=True))
    assert len({*paths}) == len(images)


def test_the_classes_of_roboflow(tmp_path: Path) -> None:
    empty(tmp_path, "train/a.jpg", "train/a_mask.png")
    (tmp_path / "train" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, road\n2, car\n3, tree\n")
    assert masks_in(read_dataset(tmp_path)).classes == ("background", "road", "car", "tree")


def test_a_part_without_masks_is_left_out(tmp_path: Path) -> None:
    empty(tmp_path, "train/images/a.jpg", "train/masks/a.png", *(f"test/images/{i}.jpg" for i in range(5)))
    data = read_dataset(tmp_path)
    assert len(data) == 1
    assert warned(data.notes)[0] == "Left out the part 'test': none of its 5 images has a mask."


def test_a_mask_of_another_part_is_not_taken(tmp_path: Path) -> None:
    empty(
        tmp_path,
        "train/images/a.jpg",
        "train/images/b.jpg",
        "train/masks/a.png",
        "test/images/c.jpg",
        "test/masks/c.png",
        "test/masks/b.png",
    )
    data = read_dataset(tmp_path)
    assert data.names() == ("train/images/a.jpg", "test/images/c.jpg")


CLASSES = {
    "masks worn": ["with_mask/1.jpg", "with_mask/2.jpg", "without_mask/1.jpg", "without_mask/2.jpg"],
    "mask and none": ["mask/1.jpg", "no_mask/1.jpg"],
    "target": ["target/1.jpg", "nontarget/1.jpg"],
    "people": ["mask/1.jpg", "people/1.jpg"],
    "photographs of people with masks": ["ann/1.jpg", "ann/1_mask.jpg", "bob/1.jpg", "bob/1_mask.jpg"],
    "labels": ["label/1.jpg", "bottle/1.jpg"],
}


@pytest.mark.parametrize("name", CLASSES)
def test_folders_of_classes_are_not_taken_for_masks(tmp_path: Path, name: str) -> None:
    empty(tmp_path, *CLASSES[name])
    data = read_dataset(tmp_path)
    assert len(data) == len(CLASSES[name])
    assert data.classes == tuple(sorted({path.split("/")[0] for path in CLASSES[name]}))
