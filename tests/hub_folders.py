"""Small detectors with random weights in folders as the Hugging Face Hub has them, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIDE, CLASSES = 64, ("person", "Square", "disc")
WIDTHS = (8, 16, 24, 32)


def detector(architecture: str, *, seed: int = 0) -> Any:
    """In evaluation mode. Statistics and outputs are not those of a fresh network, so that a mistake shows."""
    import torch
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config, RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    sizes = {
        "id2label": dict(enumerate(CLASSES)), "d_model": 16, "encoder_hidden_dim": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_denoising": 10,
        "num_queries": 15 if architecture == "d_fine" else 84, "hidden_expansion": 0.5,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if architecture == "d_fine":
            own = HGNetV2Config(
                stem_channels=[3, 8, 8], embedding_size=8, hidden_sizes=list(WIDTHS), stage_in_channels=[8, *WIDTHS[:3]],
                stage_mid_channels=[8] * 4, stage_out_channels=list(WIDTHS), stage_num_blocks=[1] * 4, stage_numb_of_layers=[2] * 4,
                stage_downsample=[False, True, True, True], stage_light_block=[False, False, True, True], stage_kernel_size=[3, 3, 5, 5],
                depths=[1] * 4, use_learnable_affine_block=True, out_indices=[3, 4],
            )  # fmt: skip
            made = DFineForObjectDetection(
                DFineConfig(
                    **sizes, backbone_config=own, encoder_in_channels=list(WIDTHS[2:]), decoder_in_channels=[16, 16], feat_strides=[16, 32],
                    encode_proj_layers=[1], num_feature_levels=2, decoder_n_points=[3, 3], depth_mult=0.34,
                )
            )  # fmt: skip
        else:
            residual = RTDetrResNetConfig(
                embedding_size=8, hidden_sizes=list(WIDTHS), depths=[1] * 4, layer_type="basic", out_indices=[2, 3, 4]
            )  # fmt: skip
            made = RTDetrForObjectDetection(
                RTDetrConfig(**sizes, backbone_config=residual, encoder_in_channels=list(WIDTHS[1:]), decoder_in_channels=[16] * 3)
            )
        with torch.no_grad():
            for name, value in made.named_buffers():
                if name.endswith("running_mean"):
                    value.normal_(0, 0.1)
                elif name.endswith("running_var"):
                    value.uniform_(0.5, 1.5)
            for name, value in made.named_parameters():
                if value.ndim > 1 and ("embed" in name or "head" in name):
                    value.normal_(0, 0.3)
    return made.eval()


def write(folder: Path, made: Any) -> Path:
    """Weights, configuration, how images are prepared, and the header of a model card."""
    from headstart.backbones.hub_detectors import quiet_transformers

    with quiet_transformers():
        made.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "do_rescale": True, "size": size}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlibrary_name: transformers\n---\nA detector.\n")
    return folder
