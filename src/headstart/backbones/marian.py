"""A small network of Marian's architecture that has not been trained, with a tokenizer learned from texts.

It is trained from nothing: for tests, and for languages that no published network knows. Source of the architecture: Junczys-Dowmunt et
al., Marian: Fast neural machine translation in C++, ACL 2018.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from headstart.backbones.hub_detectors import quiet_transformers
from headstart.backbones.seq2seq import Seq2Seq, require
from headstart.errors import DataError

NAME = "marian-tiny"
PIECES = 4000
"""The largest vocabulary; small data have fewer pieces."""
WIDTH, LAYERS, HEADS = 128, 2, 4
_LEAST = 300
_POSITIONS = 256
_SPECIAL = ("</s>", "<unk>", "<pad>")


def new_marian(
    texts: Sequence[str], *, pieces: int = PIECES, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS, dropout: float = 0.1,
    seed: int = 0,
) -> Seq2Seq:  # fmt: skip
    """A network with random weights, whose pieces are learned from the texts of both languages.

    Encoder and decoder have so many `layers`, `width` numbers for each piece, and four times as many in between. DataError where the
    texts have no characters; MissingExtraError without the extra.
    """
    require("A network trained from nothing")
    model = _pieces(texts, pieces)
    with quiet_transformers(), tempfile.TemporaryDirectory() as place:
        import sentencepiece
        import torch
        from transformers import MarianConfig, MarianMTModel, MarianTokenizer

        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        own = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
        words = [*_SPECIAL[:2], *(piece for piece in own if piece not in ("<s>", *_SPECIAL)), _SPECIAL[2]]
        folder = Path(place)
        for name in ("source.spm", "target.spm"):
            (folder / name).write_bytes(model)
        (folder / "vocab.json").write_text(
            json.dumps({word: number for number, word in enumerate(words)}, ensure_ascii=False), encoding="utf-8"
        )
        tokenizer = MarianTokenizer(
            str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"), model_max_length=_POSITIONS
        )
        tokenizer.save_pretrained(folder / "saved")
        tokenizer = MarianTokenizer.from_pretrained(folder / "saved")
        padding = len(words) - 1
        config = MarianConfig(
            vocab_size=len(words), d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=heads,
            decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, max_position_embeddings=_POSITIONS,
            pad_token_id=padding, decoder_start_token_id=padding, eos_token_id=0, forced_eos_token_id=0, dropout=dropout,
            scale_embedding=True, init_std=width**-0.5, activation_function="swish",
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MarianMTModel(config)
    network.generation_config.bad_words_ids = [[padding]]
    return Seq2Seq(network.eval(), tokenizer, NAME)


def _pieces(texts: Sequence[str], count: int) -> bytes:
    """A model of SentencePiece (Kudo and Richardson 2018): pieces of words, by byte-pair encoding."""
    import sentencepiece

    lines = [line for line in (" ".join(text.split()) for text in texts) if line]
    if not lines:
        raise DataError("There is no text to learn pieces from: all texts are empty.")
    count = max(min(count, _LEAST + len(lines)), len({*"".join(lines)}) + 16)  # few lines have few pieces that occur again
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, vocab_size=count, model_type="bpe", character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2, max_sentence_length=100_000, num_threads=1, bos_id=-1,
    )  # fmt: skip
    return written.getvalue()
