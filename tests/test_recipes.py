"""Recipes: the three systems as they are described, files of a user, and a sentence for everything that is wrong in one."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headstart.backbones.summary import head_summary
from headstart.errors import ParameterError
from headstart.pipeline import FitSettings
from headstart.pipeline.recipes import model_summary, read_recipe, recipes
from headstart.settings import FineTuning

Cli = Callable[..., Any]

# As the three systems are described: size, dense layers, loss, optimizer, learning rate, epochs, augmentation
DESCRIBED = {
    "cifar10-vgg16": (32, (256,), "cross_entropy", "adam", 1e-3, 10, "none"),
    "cats-dogs-vgg16": (150, (256,), "binary", "rmsprop", 2e-5, 30, "none"),
    "chest-xray-vgg16": (224, (), "cross_entropy", "adam", 1e-3, 5, "shear=0.2,zoom=0.2,flip=0.5"),
}


def written(text: str, name: str = "mine.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


MINE = 'name = "mine"\ntitle = "Mine"\nwhat = "A test."\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# The three systems -----------------------------------------------------------------------------------------------------------------


def test_the_recipes_are_these() -> None:
    assert {recipe.name for recipe in recipes()} == set(DESCRIBED)
    for recipe in recipes():
        assert recipe.path.name == f"{recipe.name}.toml"
        assert all((recipe.title, recipe.what, recipe.source, recipe.expected, recipe.data, recipe.command))
        assert f"headstart recipe run {recipe.name} DATA --exact" in recipe.command.splitlines()
    assert "97.7 % training and 91.5 % validation accuracy" in read_recipe("chest-xray-vgg16").expected


@pytest.mark.parametrize("name", DESCRIBED)
def test_exact_is_what_is_described(name: str) -> None:
    exact = read_recipe(name).exact
    assert exact is not None
    plan = FineTuning.from_dict(exact["fine_tuning"])
    told = (plan.image_size, plan.head_layers, plan.loss, plan.optimizer, plan.highest_lr, plan.epochs, plan.augment)
    assert told == DESCRIBED[name]
    assert (exact["backbone"], exact["fit_image"]) == ("vgg16", "squash")
    assert (plan.strategy, plan.start, plan.pooling, plan.pixels, plan.batch_size) == ("probe", "random", "flatten", "unit", 32)
    # what Headstart would add of its own accord is off
    assert (plan.schedule, plan.warmup, plan.weight_decay, plan.clip) == ("constant", 0, 0, 0)
    assert (plan.validation_share, plan.keep, plan.early_stop, plan.average) == (0, "last", None, 0)
    assert (plan.label_smoothing, plan.dropout, plan.retain, plan.precision, plan.batchnorm) == (0, 0, "none", "fp32", "inference")


@pytest.mark.parametrize(
    ("name", "classes", "dense"),
    [
        ("cifar10-vgg16", 10, (512 * 256 + 256) + (256 * 10 + 10)),  # 32 px end as 1 x 1 x 512
        ("cats-dogs-vgg16", 2, (4 * 4 * 512 * 256 + 256) + (256 + 1)),  # one sigmoid
        ("chest-xray-vgg16", 2, 7 * 7 * 512 * 2 + 2),  # softmax over two classes
    ],
)
def test_the_layers_have_the_parameters_of_the_described_network(name: str, classes: int, dense: int) -> None:
    pytest.importorskip("timm", reason="needs headstart[torch]")
    settings = read_recipe(name).settings(True)
    summary = model_summary(settings, classes=classes)
    assert (summary.frozen, summary.trained, summary.parameters) == (14_714_688, dense, 14_714_688 + dense)
    assert summary.rows[-1].kind == ("Dense, sigmoid" if name == "cats-dogs-vgg16" else "Dense, softmax")
    lines = summary.lines()
    assert lines[-3:] == [f"parameters  {14_714_688 + dense:,}", f"trained     {dense:>10,}", "frozen      14,714,688"]
    with pytest.raises(ParameterError, match="Only settings with fine_tuning have a summary of layers"):
        model_summary(FitSettings(), classes=2)


def test_the_head_of_a_summary_is_the_head_that_is_trained() -> None:
    pytest.importorskip("torch", reason="needs headstart[torch]")
    from headstart.training.network import HeadNetwork

    for shape, outputs, layers in (((512, 4, 4), 1, (256,)), ((100,), 7, ()), ((20,), 3, (16, 8))):
        summary = head_summary(shape, outputs=outputs, layers=layers, dropout=0.5)
        inputs = 8192 if len(shape) > 1 else shape[0]
        network = HeadNetwork(inputs, outputs, layers, 0.5)
        assert summary.trained == sum(parameter.numel() for parameter in network.parameters())
        assert [row.shape for row in summary.rows if row.parameters] == [(layer.out_features,) for layer in network.dense]
        assert summary.output == (outputs,)


# Names, files, settings ------------------------------------------------------------------------------------------------------------


def test_a_name_is_found_as_people_write_it() -> None:
    assert read_recipe("CIFAR10 VGG16") == read_recipe("cifar10-vgg16")
    with pytest.raises(ParameterError, match=r"no recipe 'chest-xray'\. Known: .* Did you mean chest-xray-vgg16\? A recipe of your own"):
        read_recipe("chest-xray")


def test_a_file_of_ones_own() -> None:
    path = written(MINE + '[fast]\nhead = "ridge"\nseed = 3\n[exact]\nclass_weight = "balanced"\n')
    recipe = read_recipe("mine.toml")
    assert recipe == read_recipe(path)
    assert recipe.settings() == FitSettings(head="ridge", seed=3)
    assert recipe.settings(True) == FitSettings(class_weight="balanced")
    assert recipe.settings(True, weights="random", seed=1) == FitSettings(class_weight="balanced", weights="random", seed=1)
    with pytest.raises(ParameterError, match=r"FitSettings has no setting 'sead'\. Did you mean seed"):
        recipe.settings(sead=1)
    written(MINE + "[fast]\n")
    assert read_recipe("mine.toml").settings() == FitSettings()
    with pytest.raises(ParameterError, match=r"recipe mine has no table \[exact\]\. Run it without --exact\."):
        read_recipe("mine.toml").settings(True)


def test_fine_tuning_of_a_file() -> None:
    written(MINE + '[exact]\nbackbone = "resnet18"\n[exact.fine_tuning]\nstrategy = "full"\nhead_layers = [8]\n')
    settings = read_recipe("mine.toml").settings(True, seed=2)
    assert settings == FitSettings(backbone="resnet18", seed=2, fine_tuning=FineTuning(strategy="full", head_layers=(8,)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not a TOML file: "),
        ("[fast]\n", "a recipe needs name and title and what."),
        (MINE, "a recipe needs a table [fast] or [exact]"),
        (MINE + "fast = 1", "fast must be a table, written [fast], got 1."),
        (MINE + "data = 3\n[fast]\n", "data must be text, got 3."),
        (MINE + "tittle = 'x'\n[fast]\n", "There is no entry 'tittle'. Did you mean title?"),
        (MINE + "[fast]\nbackbon = 'x'\n", "[fast] FitSettings has no setting 'backbon'. Did you mean backbone"),
        (MINE + "[fast]\nhead = 'logistics'\n", "[fast] head must be one of "),
        (MINE + "[fast]\nfolds = 'five'\n", "[fast] folds must be 0 (none) or a whole number of at least 2, got 'five'."),
        (MINE + "[fast]\nfolds = true\n", "[fast] folds must be 0 (none) or a whole number of at least 2, got True."),
        (MINE + "[fast]\ntest_share = 'x'\n", "[fast] test_share must be a number above 0 and below 1, got 'x'."),
        (
            MINE + "[fast]\ncolumns = 'x'\n",
            "[fast] columns must be a table of names of columns for path, text, pair, translation, label, split, group, got 'x'.",
        ),
        (MINE + "[exact]\nfine_tuning = 3\n", "exact.fine_tuning must be a table, written [exact.fine_tuning], got 3."),
        (MINE + "[exact.fine_tuning]\nepoch = 3\n", "[exact.fine_tuning] FineTuning has no setting 'epoch'. Did you mean epochs"),
        (MINE + "[exact.fine_tuning]\nepochs = 0\n", "[exact.fine_tuning] epochs must be a whole number of at least 1, got 0."),
        (MINE + "[exact.fine_tuning]\nlr = 'low'\n", "[exact.fine_tuning] lr must be a number above 0, got 'low'."),
        (
            MINE + "[exact.fine_tuning]\nhead_layers = [0.5]\n",
            "[exact.fine_tuning] head_layers must be a list of whole numbers of at least 1, got [0.5].",
        ),
        (
            MINE + "[exact.fine_tuning]\nunfreeze = 1.5\n",
            "[exact.fine_tuning] unfreeze must be a number of stages from 1, names of stages, or 'gradual', got 1.5.",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told(text: str, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        read_recipe(written(text))
    assert str(caught.value).startswith(f"mine.toml: {said}")


def test_files_that_cannot_be_read() -> None:
    with pytest.raises(ParameterError, match=r"none\.toml: this recipe cannot be read: No such file"):
        read_recipe("none.toml")
    Path("bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ParameterError, match=r"bad\.toml: not a TOML file: "):
        read_recipe("bad.toml")


# The command -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["recipe list", "recipe show", "recipe run"])
def test_help_has_an_example(cli: Cli, command: str) -> None:
    done = cli(*command.split(), "--help")
    assert done.code == 0
    assert re.search(rf"Examples?:\s+headstart {command}", done.out), done.out


def test_list(cli: Cli) -> None:
    lines = cli("recipe", "list").out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == sorted(DESCRIBED)
    assert all(recipe.title in lines[index] for index, recipe in enumerate(recipes()))


@pytest.mark.parametrize("name", DESCRIBED)
def test_show_has_everything_that_the_file_has(cli: Cli, name: str) -> None:
    shown = cli("recipe", "show", name).out
    told = tomllib.loads(read_recipe(name).path.read_text(encoding="utf-8"))
    for key in ("title", "what", "source", "expected", "data"):
        assert " ".join(told[key].split()) in shown
    for line in told["command"].split("\n"):
        assert line in shown
    for key, value in told["exact"]["fine_tuning"].items():
        text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        assert re.search(rf"^  fine_tuning\.{key} +{re.escape(text)}$", shown, re.MULTILINE), key


def test_run_of_a_file_of_ones_own(cli: Cli, pictures: Path) -> None:
    written(MINE + 'expected = "All right."\n[fast]\nhead = "centroid"\n')
    done = cli("recipe", "run", "mine.toml", pictures, "--seed", "4")
    assert done.code == 0, done.err
    assert "reported  All right.\n" in done.out
    assert re.fullmatch(r"test accuracy \d\.\d{4} \[\d\.\d{4}, \d\.\d{4}\] on 12 images", done.out.splitlines()[-1])
    provenance = json.loads(Path("runs/mine/manifest.json").read_text("utf-8"))["provenance"]
    assert provenance["command"] == f"headstart recipe run mine.toml {pictures} --seed 4"
    quiet = cli("recipe", "run", "mine.toml", pictures, "-q", "--out", "x", "--cache", "c")
    assert quiet.out.startswith("test accuracy ")
    assert Path("x/manifest.json").exists()
    assert Path("c/features.sqlite").exists()


def test_run_of_a_recipe_headstarts_own_way(cli: Cli, pictures: Path) -> None:
    done = cli("recipe", "run", "cats-dogs-vgg16", pictures, "-q")
    assert done.code == 0, done.err
    assert (Path("runs") / "cats-dogs-vgg16" / "manifest.json").exists()


def test_mistakes(cli: Cli, pictures: Path) -> None:
    done = cli("recipe", "run", "cats-dogs-vgg16", pictures, "--weights", "random")
    assert (done.code, done.err) == (
        2, "Error: --weights is for --exact: Headstart's own way has a backbone of its own. Give both, or neither.\n"
    )  # fmt: skip
    assert cli("recipe", "show", "cats").err.startswith("Error: There is no recipe 'cats'.")
    assert cli("recipe", "run", "cats-dogs-vgg16", "nowhere").code == 2


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of the Hub, and no network."""
    pytest.importorskip("timm", reason="needs headstart[torch]")
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


OFFER = "--exact needs the ImageNet weights of {0}, and uses no others unless told to."


@pytest.mark.torch
def test_without_published_weights_nothing_pretends(cli: Cli, pictures: Path, offline: None) -> None:
    written(MINE + '[exact]\nbackbone = "resnet18"\n')
    done = cli("recipe", "run", "mine.toml", pictures, "--exact", "-q")
    assert done.code == 2
    assert "are not on this machine and cannot be downloaded now" in done.err
    assert OFFER.format("resnet18") in done.err
    assert re.search(r"^  --weights FILE +a \.safetensors or \.pth file of resnet18", done.err, re.MULTILINE)
    assert re.search(r"^  --weights random +random weights; the accuracy then means nothing about the recipe", done.err, re.MULTILINE)
    missing = cli("recipe", "run", "mine.toml", pictures, "--exact", "-q", "--weights", "none.pth")
    assert (missing.code, missing.err) == (2, "Error: none.pth: no such weight file. Give a .safetensors, .pth or .h5 file.\n")
    assert not Path("runs").exists()


@pytest.mark.torch
def test_random_weights_are_told_loudly(cli: Cli, pictures: Path, offline: None) -> None:
    written(MINE + '[exact]\nbackbone = "mobilenetv3_small_050"\nhead = "centroid"\n')
    done = cli("recipe", "run", "mine.toml", pictures, "--exact", "-q", "--weights", "random")
    assert done.code == 0, done.err
    warning = "Warning: RANDOM WEIGHTS. The backbone has learned nothing"
    assert done.err.count(warning) == 2  # before and after
    assert "THE ACCURACY MEANS NOTHING about the recipe." in done.err
    manifest = Path("runs/mine-exact/manifest.json").read_text("utf-8")
    assert "random weights, seed 0" in manifest


@pytest.mark.torch
@pytest.mark.parametrize("name", DESCRIBED)
def test_exact_prints_the_layers_before_it_asks_for_the_weights(cli: Cli, pictures: Path, offline: None, name: str) -> None:
    from PIL import Image

    for kind in ("rings", "stripes"):  # two classes, as the second recipe wants
        Path("two", kind).mkdir(parents=True)
        for path in (pictures / kind).iterdir():
            Image.open(path).save(Path("two", kind, path.name))
    done = cli("recipe", "run", name, "two", "--exact")
    assert done.code == 2
    assert re.search(r"^frozen +14,714,688$", done.out, re.MULTILINE)
    assert OFFER.format("vgg16") in done.err


@pytest.mark.slow
@pytest.mark.torch
def test_exact_from_pictures_to_curves(cli: Cli, pictures: Path) -> None:
    """The first system whole, on 32 pixels as described, with random weights. A file of one's own makes it two epochs."""
    pytest.importorskip("timm", reason="needs headstart[torch]")
    from PIL import Image

    for kind in ("rings", "stripes", "checks"):
        for part, chosen in (("train", slice(0, 8)), ("test", slice(8, 12))):
            Path("data", part, kind).mkdir(parents=True)
            for path in sorted((pictures / kind).iterdir())[chosen]:
                Image.open(path).resize((32, 32)).save(Path("data", part, kind, path.name))
    own = read_recipe("cifar10-vgg16").path.read_text(encoding="utf-8")
    written(re.sub(r"(?m)^epochs = 10$", "epochs = 2", own).replace('name = "cifar10-vgg16"', 'name = "quick"'), "quick.toml")
    assert read_recipe("quick.toml").settings(True).fine_tuning == replace(
        read_recipe("cifar10-vgg16").settings(True).fine_tuning or FineTuning(), epochs=2
    )
    done = cli("recipe", "run", "quick.toml", "data", "--exact", "--weights", "random")
    assert done.code == 0, done.err
    dense = (512 * 256 + 256) + (256 * 3 + 3)
    assert re.search(rf"^parameters +{14_714_688 + dense:,}$", done.out, re.MULTILINE)
    assert re.search(rf"^trained +{dense:,}$", done.out, re.MULTILINE)
    assert re.search(r"^frozen +14,714,688$", done.out, re.MULTILINE)
    assert done.err.count("Warning: RANDOM WEIGHTS.") == 2
    epochs = re.findall(r"^epoch (\d)/2: loss \d+\.\d{4}, accuracy ", done.err, re.MULTILINE)
    assert epochs == ["1", "2"]
    last = re.fullmatch(r"test accuracy (\d\.\d{4}) \[\d\.\d{4}, \d\.\d{4}\] on 12 images", done.out.splitlines()[-1])
    assert last, done.out
    run = Path("runs/quick-exact")
    assert (run / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert manifest["metrics"]["test_accuracy"] == pytest.approx(float(last[1]), abs=5e-5)
    training = manifest["story"]["training"]
    assert training["trained"] == []
    assert training["history"]["watched"] == "test"
    # What the curves show last is what was tested.
    assert training["history"]["epochs"][-1]["val_score"] == pytest.approx(float(last[1]), abs=5e-5)
    assert "random weights, seed 0" in json.dumps(manifest)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["quick-exact"]
