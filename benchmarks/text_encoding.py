"""Texts per second of the text encoders on this machine, against sentence-transformers and PyTorch, and how much they agree.

    python benchmarks/text_encoding.py FOLDER_OF_MINILM TABLE.csv [--texts 2000] [--threads 2] [--static]

The table has a column ``text``. Each way starts from strings and ends with one vector for each; it runs twice, and the second time counts.
"peer" is sentence-transformers' `encode` where it is installed; "torch" does the same by hand: batches of 32 in the order of length.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.backbones.bert import build
from headstart.backbones.weight_files import read_tensors
from headstart.modalities.text import TextPreprocessing, Tokenizer
from headstart.sequence_engine import open_sequence_engine

Vectors = npt.NDArray[np.float32]


def by_torch(folder: Path, texts: list[str], tokenizer: Tokenizer) -> Callable[[], Vectors]:
    import torch
    from transformers import AutoModel

    module, preprocessing = AutoModel.from_pretrained(folder).eval(), TextPreprocessing(256, tokenizer, 1)

    def encode() -> Vectors:
        windows = [one.windows[0] for one in preprocessing.all(texts)]
        order = sorted(range(len(texts)), key=lambda place: -len(windows[place]))
        found = np.zeros((len(texts), module.config.hidden_size), np.float32)
        with torch.inference_mode():
            for start in range(0, len(order), 32):
                places = order[start : start + 32]
                parts = [torch.from_numpy(windows[place]) for place in places]
                ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
                mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(part) for part in parts], batch_first=True)
                hidden = module(ids, mask).last_hidden_state * mask[..., None]
                found[places] = (hidden.sum(1) / mask.sum(1, keepdim=True)).numpy()
        return found

    return encode


def by_peer(folder: Path, texts: list[str]) -> Callable[[], Vectors] | None:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    model = SentenceTransformer(str(folder), device="cpu")
    return lambda: np.asarray(model.encode(texts, show_progress_bar=False), np.float32)


def by_headstart(network: Path, texts: list[str], preprocessing: TextPreprocessing, kind: str, precision: str) -> Callable[[], Vectors]:
    engine = open_sequence_engine(network, kind, precision=precision)
    return lambda: np.stack([features for (features,) in engine.run(preprocessing.all(texts))])


def cosine(ours: Vectors, theirs: Vectors) -> float:
    return float((np.sum(ours * theirs, axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with options.table.open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)][: options.texts]
    import torch

    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer((options.folder / "tokenizer.json").read_bytes())
    preprocessing = TextPreprocessing(256, tokenizer)
    config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.onnx"
        network.write_bytes(build(config, read_tensors(options.folder / "model.safetensors")).SerializeToString())
        ways = {"torch": by_torch(options.folder, texts, tokenizer), "peer": by_peer(options.folder, texts)}
        for kind, precision in (("openvino", "f32"), ("openvino", "bf16"), ("onnxruntime", "f32")):
            ways[f"{kind} {precision}"] = by_headstart(network, texts, preprocessing, kind, precision)
        truth: Vectors | None = None
        for name, encode in ways.items():
            if encode is None:
                print(f"{name:18} is not installed", file=sys.stderr)
                continue
            encode()
            begin = time.perf_counter()
            found = encode()
            seconds = time.perf_counter() - begin
            truth = found if truth is None else truth
            same = cosine(found[:, -truth.shape[1] :], truth)
            print(f"{name:18} {len(texts) / seconds:7.0f} texts/s   smallest cosine {same:.6f}", flush=True)


if __name__ == "__main__":
    main()
