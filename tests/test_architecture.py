"""Holds the code to its floors: a module imports only from lower floors, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import headstart

SOURCE = Path(headstart.__file__).parent

FLOORS: dict[str, int] = {
    "errors": 0, "matrix": 0,
    "text": 0,
    "estimators": 1, "files": 1, "onnx_graph": 1, "progress": 1, "records": 1, "sections": 1, "settings": 1,
    "engine": 2, "modalities": 2, "metrics": 2, "pixels": 2,
    "data": 3, "backbones": 3,
    "sequence_engine": 4,
    "features": 5,
    "heads": 6,
    "maps": 7,
    "training": 8,
    "reliability": 9, "selection": 9,
    "adaptation": 10, "audit": 10,
    "tasks": 11,
    "box_detector": 12, "classifier": 12, "detector": 12, "segmenter": 12, "run": 12,
    "evaluate": 13, "explanation": 13,
    "report": 14,
    "export": 15, "pipeline": 15, "serve": 15, "batch": 15,
    "cli": 16,
}  # fmt: skip


def _module_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imported(path: Path) -> set[str]:
    """Names of Headstart's own top-level modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "headstart":
                found |= {alias.name for alias in node.names if alias.name != "__version__"}
            elif node.module.startswith("headstart."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("headstart.")}
    return found


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path.name not in ("__main__.py",) and path != SOURCE / "__init__.py"]


def test_every_module_has_a_floor() -> None:
    assert {_module_of(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    module = _module_of(path)
    wrong = {other for other in _imported(path) if other != module and FLOORS[other] >= FLOORS[module]}
    assert not wrong, f"{path.name} (floor {FLOORS[module]}) imports {wrong}"


def test_the_floors_are_noticed_when_broken(tmp_path: Path) -> None:
    broken = tmp_path / "errors.py"
    broken.write_text("def late():\n    from headstart.classifier import TransferClassifier\n")
    assert _imported(broken) == {"classifier"}


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import headstart", ("numpy", "typer", "PIL", "sklearn", "torch", "openvino", "onnx")),
        ("import headstart.cli.application", ("numpy", "sklearn", "torch", "openvino", "onnx", "matplotlib", "PIL")),
        (
            "from headstart.cli.application import register_commands; register_commands()",
            ("numpy", "sklearn", "torch", "openvino", "onnx", "matplotlib", "PIL"),
        ),
        ("from headstart import load", ("sklearn", "scipy", "torch", "onnx", "onnxruntime", "matplotlib", "pandas")),
        ("from headstart import fit", ("sklearn", "pandas", "torch", "onnxruntime", "matplotlib", "timm")),
        ("from headstart import TransferClassifier", ("torch", "onnx", "onnxruntime", "openvino", "matplotlib", "timm")),
    ],
)
def test_nothing_heavy_is_imported_early(statement: str, forbidden: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}} & set({forbidden!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


PUBLIC = [
    "AnomalyDetector", "BackboneExtractor", "ClassEvaluation", "Dataset", "FeatureStore", "FineTuning", "FitResult", "FitSettings",
    "HeadstartError", "ListOptions", "Preprocessing", "Run", "TransferClassifier", "TransferDetector", "TransferSegmenter", "Wishes",
    "__version__", "catalogue", "check", "compare_runs", "dataset_from_arrays", "dataset_from_paths", "deep_check", "evaluate_run",
    "explain", "fit", "load", "load_backbone", "read_dataset", "recommend",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert sorted(headstart.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    thing = getattr(headstart, name)
    if name != "__version__":
        assert (thing.__doc__ or "").strip(), f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        headstart.nothing  # noqa: B018
