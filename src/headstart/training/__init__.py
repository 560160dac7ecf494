"""Fine-tuning: the one training loop, freezing plans, learning rates by depth, checkpoints. Needs the extra ``torch``, imported late."""
